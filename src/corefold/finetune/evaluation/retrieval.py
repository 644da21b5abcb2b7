"""Retrieval: every query ranks the texts of its corpus, and its first ten places are scored."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array

from corefold.finetune.evaluation.intervals import Intervals, bootstrap_intervals, share_interval

PLACES = 10
QUERIES_AT_ONCE = 1024  # Their similarities to all texts are in memory together.
SHARES = ("accuracy@1", "accuracy@10")  # of queries; the other scores are means


def retrieval_scores(queries: np.ndarray, texts: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each row, (rows,): whether a match has the first place, or one of ten; MRR@10 and NDCG@10.

    The texts of all rows with one corpus number are the corpus, equal ones once. All texts that stand beside an equal
    query are its matches. A text that equals the query without being a match is left out, because it would be first.

    Args:
        queries: (rows, width).
        texts: (rows, width); the similarity is `queries @ texts.T`.
        labels: (rows, 3): numbers of the corpus, the query and the text; equal numbers mean equal texts.
    """
    hits, matches = np.zeros((len(labels), PLACES), dtype=bool), np.zeros(len(labels), dtype=int)
    for corpus in np.unique(labels[:, 0]):
        rows = np.flatnonzero(labels[:, 0] == corpus)
        hits[rows], matches[rows] = _first_places(
            queries[rows], texts[rows], labels[rows, 1], labels[rows, 2]
        )
    gains = 1 / np.log2(np.arange(PLACES) + 2)
    ideal = gains.cumsum()[np.minimum(matches, PLACES) - 1]
    found = hits.any(1)
    return {
        "accuracy@1": hits[:, 0].astype(float),
        "accuracy@10": found.astype(float),
        "mrr@10": np.where(found, 1 / (1 + hits.argmax(1)), 0.0),
        "ndcg@10": hits @ gains / ideal,
    }


def _first_places(
    queries: np.ndarray, texts: np.ndarray, query_numbers: np.ndarray, text_numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where matches stand in the first places, (rows, PLACES), and how many matches there are, (rows,)."""
    different, first, text = np.unique(text_numbers, return_index=True, return_inverse=True)
    _, query = np.unique(query_numbers, return_inverse=True)
    matching = coo_array((np.ones(len(text)), (query, text))).tocsr()
    hits, counts = np.zeros((len(query), PLACES), dtype=bool), np.zeros(len(query), dtype=int)
    for start in range(0, len(query), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        matches = matching[query[part]].toarray() > 0
        similarity = queries[part] @ texts[first].T
        similarity[(query_numbers[part, None] == different) & ~matches] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :PLACES]
        hits[part, : order.shape[1]] = np.take_along_axis(matches, order, axis=1)
        counts[part] = matches.sum(1)
    return hits, counts


def mean_scores(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean over rows of each score."""
    return {name: float(values.mean()) for name, values in scores.items()}


def one_order_scores(labels: np.ndarray) -> dict[str, float]:
    """Scores where all queries get one order of the texts, the one that stands beside most queries first."""
    _, text, counts = np.unique(labels[:, 2], return_inverse=True, return_counts=True)
    return mean_scores(retrieval_scores(np.ones((len(labels), 1)), counts[text, None].astype(float), labels))


def retrieval_intervals(scores: dict[str, np.ndarray], seed: int) -> Intervals:
    """Wilson's intervals of shares and the bootstrap's of means, over queries: the corpus stays whole."""
    rows = len(scores["mrr@10"])
    means = {name: values for name, values in scores.items() if name not in SHARES}
    found = bootstrap_intervals(
        rows, lambda places: {name: values[places].mean(-1) for name, values in means.items()}, seed
    )
    return {**{name: share_interval(int(scores[name].sum()), rows) for name in SHARES}, **found}
