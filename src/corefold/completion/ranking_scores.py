"""How well predictions put the held-out entries of each row in order: precision@k and nDCG@k."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import ndcg_score

from corefold.completion.observed import Observed

SIZES = (10, 5, 3, 1)  # candidates for k
MIN_ROWS = 10  # that k must leave to judge by
MAX_ROWS = 5000  # that are judged; of more rows, as many at equal distances


@dataclass(frozen=True)
class RankingScores:
    """Scores of several methods.

    Attributes:
        k: the entries at the top of a row that count.
        rows: how many rows are judged: those with more than k held-out entries, not all of one value.
        relevant: entries above this value, the mean of the entries fitted, are relevant.
        scores: precision@k and nDCG@k of each method.
    """

    k: int
    rows: int
    relevant: float
    scores: dict[str, tuple[float, float]]


def ranking_scores(
    predicted: Mapping[str, Float[np.ndarray, " held"]],
    fitted: Observed,
    held: Observed,
    k: int | None = None,
) -> RankingScores | None:
    """Precision@k and nDCG@k of each method over the held-out entries of each row, in the mean over rows.

    A row's held-out entries are put in the order of their predictions. Precision is the share of relevant ones among
    the first k, and a relevant one is above the mean of the fitted entries. The gain of nDCG is an entry's value above
    the least held-out one. Equal predictions count with the mean over their orders.

    Args:
        predicted: by each method, at the entries of `held`.
        fitted: the entries fitted.
        held: the entries held out.
        k: entries at the top of a row; by default the largest of `SIZES` that leaves `MIN_ROWS` rows.

    Returns:
        None where no row has enough held-out entries.
    """
    counts = held.starts.diff().numpy()
    varied = _varied(held)
    sizes = SIZES if k is None else (k,)
    needed = MIN_ROWS if k is None else 1
    k = next((size for size in sizes if (varied & (counts > size)).sum() >= needed), None)
    if k is None:
        return None
    rows = np.flatnonzero(varied & (counts > k))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(int)]
    relevant = float(fitted.values.mean())
    values, there = _padded(held.values.numpy(), held, rows)
    gains = np.where(there, values - held.values.min().item(), 0)
    scores = {}
    for name, each in predicted.items():
        shown, _ = _padded(each, held, rows)
        order = np.where(
            there, shown, shown[there].min() - 1
        )  # what fills up a row stands behind its entries
        precision = _precision(order, there & (values > relevant), k)
        scores[name] = (float(precision.mean()), float(ndcg_score(gains, order, k=k)))
    return RankingScores(k, len(rows), relevant, scores)


def _varied(held: Observed) -> Bool[np.ndarray, " height"]:
    """Whether the values of a row differ: otherwise every order is right."""
    starts, values = held.starts.numpy(), held.values.numpy()
    filled = np.flatnonzero(np.diff(starts))
    varied = np.zeros(len(starts) - 1, bool)
    if len(filled):
        begins = starts[filled]
        varied[filled] = np.maximum.reduceat(values, begins) > np.minimum.reduceat(values, begins)
    return varied


def _padded(
    values: Float[np.ndarray, " held"], held: Observed, rows: np.ndarray
) -> tuple[Float[np.ndarray, "rows most"], Bool[np.ndarray, "rows most"]]:
    """The entries of rows as a matrix, and where it holds one."""
    starts = held.starts.numpy()
    counts = np.diff(starts)[rows]
    place = np.arange(counts.max())
    there = place < counts[:, None]
    taken = np.where(there, starts[rows][:, None] + place, 0)
    return np.where(there, values[taken], 0.0), there


def _precision(
    order: Float[np.ndarray, "rows most"], relevant: Bool[np.ndarray, "rows most"], k: int
) -> Float[np.ndarray, " rows"]:
    """The share of relevant entries among the first k; those that are equal to the k-th count in equal parts."""
    kth = -np.partition(-order, k - 1, axis=1)[:, k - 1 : k]
    above, equal = order > kth, order == kth
    room = (k - above.sum(1)) / equal.sum(1)
    return ((above & relevant).sum(1) + room * (equal & relevant).sum(1)) / k
