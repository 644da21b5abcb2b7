"""scikit-learn's own battery of checks."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from corefold.completion import DeepMatrixCompletion


@parametrize_with_checks([DeepMatrixCompletion(random_state=0), DeepMatrixCompletion(2, solver="als", random_state=0)])
def test_scikit_learn(estimator, check):
    check(estimator)
