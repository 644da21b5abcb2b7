"""scikit-learn's own battery of checks."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from corefold.completion import DeepMatrixCompletion


# The battery's sparse matrices have rows with nothing stored, which is nothing observed.
@pytest.mark.filterwarnings("ignore:.*have no observed entry")
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@parametrize_with_checks(
    [DeepMatrixCompletion(random_state=0), DeepMatrixCompletion(2, solver="als", random_state=0)]
)
def test_scikit_learn(estimator, check):
    check(estimator)
