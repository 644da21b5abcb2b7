"""Precision@k and nDCG@k of held-out entries against their definitions."""

from __future__ import annotations

import numpy as np
from observations import low_rank, with_holes
from sklearn.metrics import ndcg_score

from corefold.completion.entries import observed_entries
from corefold.completion.ranking_scores import ranking_scores

WHOLE = low_rank(30, 25, 2)
FITTED = observed_entries(with_holes(WHOLE, 0.4))
HELD = observed_entries(with_holes(WHOLE, 0.5, seed=1))


def rows_of(values):
    return np.split(values, HELD.starts[1:-1].numpy())


def test_scores_are_means_over_rows():
    values = HELD.values.numpy()
    guess = values + np.random.default_rng(0).normal(size=len(values))
    scores = ranking_scores({"right": values, "guess": guess}, FITTED, HELD, 5)
    assert scores is not None
    assert scores.rows == sum(len(row) > 5 for row in rows_of(values))
    relevant = FITTED.values.mean().item()
    for name, each in (("right", values), ("guess", guess)):
        precision, gain = [], []
        for row, order in zip(rows_of(values), rows_of(each), strict=True):
            if len(row) > 5:
                precision.append((row[np.argsort(-order)[:5]] > relevant).mean())
                gain.append(ndcg_score([row - values.min()], [order], k=5))
        np.testing.assert_allclose(scores.scores[name], (np.mean(precision), np.mean(gain)), rtol=1e-12)
    assert scores.scores["right"][1] == 1


def test_equal_predictions_count_with_the_mean_over_their_orders():
    values = HELD.values.numpy()
    scores = ranking_scores({"constant": np.zeros(len(values))}, FITTED, HELD, 3)
    assert scores is not None
    shares = [(row > scores.relevant).mean() for row in rows_of(values) if len(row) > 3]
    np.testing.assert_allclose(scores.scores["constant"][0], np.mean(shares), rtol=1e-12)


def test_k_is_as_large_as_rows_allow():
    values = HELD.values.numpy()
    counts = np.diff(HELD.starts.numpy())
    scores = ranking_scores({"right": values}, FITTED, HELD)
    assert scores is not None
    assert scores.k == max(k for k in (10, 5, 3, 1) if (counts > k).sum() >= 10)
    assert ranking_scores({"right": values}, FITTED, HELD, 25) is None
