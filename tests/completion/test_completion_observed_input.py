"""Observed entries that are sorted already: the estimator takes them as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from observations import fitted, low_rank, with_holes

from corefold.completion import DeepMatrixCompletion, Observed
from corefold.completion.entries import observed_entries

HOLES = with_holes(low_rank(40, 25, 2) + 0.1, 0.5)
OBSERVED = observed_entries(HOLES)


def estimator(**settings):
    return DeepMatrixCompletion(**{"max_rank": 4, "random_state": 0, **settings})


@pytest.mark.parametrize(
    "settings", [{}, {"dtype": "float32"}, {"validation_fraction": 0.0, "solver": "als"}], ids=str
)
def test_they_give_what_the_array_gives(settings):
    array, observed = estimator(**settings).fit(HOLES), estimator(**settings).fit(OBSERVED)
    np.testing.assert_array_equal(fitted(observed, HOLES.shape), fitted(array, HOLES.shape))
    np.testing.assert_array_equal(observed.transform(OBSERVED), array.transform(HOLES))
    assert observed.n_features_in_ == 25
    assert observed.score(OBSERVED) == array.score(HOLES)
    array.partial_fit(HOLES)
    np.testing.assert_array_equal(observed.partial_fit(OBSERVED).components_, array.components_)


def test_they_are_not_sorted_again(monkeypatch):
    monkeypatch.setattr(Observed, "of", None)
    assert estimator().fit(OBSERVED).transform(OBSERVED).shape == HOLES.shape


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (OBSERVED, {"mask": ~np.isnan(HOLES)}, "a mask goes with a dense X"),
        (OBSERVED, {"shape": HOLES.shape}, "shape goes with triples"),
        (OBSERVED.with_values(OBSERVED.values * torch.inf), {}, "a NaN or an infinity"),
    ],
)
def test_bad_input_is_refused(X, options, message):
    with pytest.raises(ValueError, match=message):
        estimator().fit(X, **options)


def test_other_columns_are_refused():
    model = estimator().fit(OBSERVED)
    with pytest.raises(ValueError, match="24 features, but DeepMatrixCompletion is expecting 25 features"):
        model.transform(observed_entries(HOLES[:, :24]))
