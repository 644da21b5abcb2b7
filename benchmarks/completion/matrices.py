"""Matrices to complete: the entries that methods see, and the entries on which they are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.completion.packaged_data import packaged_bytes, packaged_table
from benchmarks.completion.planted import Triples, random_factors

MAX_JUDGED = 50_000  # entries, since some peers predict one at a time
FOLDS = 5


@dataclass(frozen=True)
class CompletionCase:
    """One matrix, and one draw of its seen entries.

    Attributes:
        kind: "synthetic", "table", "picture" or "ratings".
        shape: of the matrix.
        seen: rows, columns and values of the entries that methods get.
        judged: rows, columns and true values of other entries; without the noise that seen values may have.
        rank: the true rank, None if there is none.
        max_rank: the setting of DeepMatrixCompletion, "auto" where it keeps its default.
        peak: the largest value a picture can have, for its signal-to-noise ratio.
        noise: standard deviation of the noise added to the seen values.
    """

    kind: str
    shape: tuple[int, int]
    seen: Triples
    judged: Triples
    rank: int | None = None
    max_rank: Any = "auto"
    peak: float | None = None
    noise: float = 0.0

    def about(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "observed": len(self.seen[2]),
            "judged": len(self.judged[2]),
            "true_rank": self.rank,
            "max_rank": self.max_rank,
        }

    def figures(self, predicted: np.ndarray) -> dict[str, float]:
        """The root mean square error at the judged entries, over their spread, and for a picture in decibels."""
        truth = self.judged[2]
        rmse = float(np.sqrt(np.mean((predicted - truth) ** 2)))
        figures = {"rmse": rmse, "relative": rmse / float(truth.std())}
        if self.peak is not None:
            figures["psnr"] = 20 * float(np.log10(self.peak / rmse))
        return figures


def low_rank(
    seed: int,
    side: int = 1000,
    rank: int = 10,
    share: float = 0.2,
    condition: float = 1.0,
    noise: float = 0.0,
    max_rank: Any = "auto",
) -> CompletionCase:
    """Entries of a random matrix of root mean square 1; for `condition` see `random_factors`."""
    stream = np.random.default_rng(seed)
    left, right = random_factors(stream, side, rank, condition)
    truth = left @ right.T
    truth /= np.sqrt(np.mean(truth**2))
    case = _drawn(truth, share, stream, "synthetic")
    rows, columns, values = case.seen
    values = values + noise * stream.standard_normal(len(values))
    return CompletionCase(
        "synthetic", truth.shape, (rows, columns, values), case.judged, rank, max_rank, noise=noise
    )


def genes(seed: int) -> CompletionCase:
    """Expression of 500 genes in 189 samples of tissue (dslabs), 30 % seen."""
    table = packaged_table("dslabs/tissue_gene_expression")
    return _drawn(
        table.drop(columns=["rownames", "y"]).to_numpy(float), 0.3, np.random.default_rng(seed), "table"
    )


def digits(seed: int) -> CompletionCase:
    """Handwritten digits of 8 x 8 pixels, one a row, half of all pixels seen."""
    from sklearn.datasets import load_digits

    # A table, not a picture: nobody gives the quality of 64 pixels of 17 levels in decibels.
    return _drawn(np.asarray(load_digits(return_X_y=True)[0]), 0.5, np.random.default_rng(seed), "table")


def photograph(seed: int, name: str, share: float = 0.2) -> CompletionCase:
    """Grey values of a photograph, each the mean of 2 x 2 pixels."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image(name).astype(float).mean(2)
    height, width = (side // 2 for side in grey.shape)
    grey = grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return _drawn(grey, share, np.random.default_rng(seed), "picture", peak=255.0)


def movielens_100k(seed: int) -> CompletionCase:
    """MovieLens 100K: 943 users, 1682 films."""
    text = packaged_bytes("recbole", "recbole/dataset_example/ml-100k/ml-100k.inter").decode()
    lines = text.splitlines()[1:]
    users, films, ratings, _ = zip(*(line.split("\t") for line in lines), strict=True)
    return _fold(np.array(users), np.array(films), np.array(ratings, float), seed)


def movielens_small(seed: int) -> CompletionCase:
    """ml-latest-small as dslabs has it: 671 users, 9066 films."""
    table = packaged_table("dslabs/movielens")
    return _fold(
        table["userId"].to_numpy(), table["movieId"].to_numpy(), table["rating"].to_numpy(float), seed
    )


CASES: dict[str, Callable[[int], CompletionCase]] = {
    "easy": low_rank,
    "limit": partial(low_rank, share=0.04),
    "overspecified": partial(low_rank, max_rank=40),
    "condition100": partial(low_rank, share=0.06, condition=100.0),
    "noisy6": partial(low_rank, share=0.06, noise=0.2),
    "noisy12": partial(low_rank, share=0.12, noise=0.2),
    "genes": genes,
    "digits": digits,
    "china": partial(photograph, name="china.jpg"),
    "flower": partial(photograph, name="flower.jpg"),
    "ml-100k": movielens_100k,
    "ml-small": movielens_small,
    "tiny": partial(low_rank, side=60, rank=2, share=0.4, noise=0.1),  # for the tests
}


def _drawn(
    truth: np.ndarray, share: float, stream: np.random.Generator, kind: str, **more: Any
) -> CompletionCase:
    """A share of all entries is seen, and some of the rest are judged."""
    seen = stream.random(truth.shape) < share
    rows, columns = seen.nonzero()
    hidden = np.flatnonzero(~seen)
    if len(hidden) > MAX_JUDGED:
        hidden = stream.choice(hidden, MAX_JUDGED, replace=False)
    others = np.divmod(hidden, truth.shape[1])
    return CompletionCase(
        kind, truth.shape, (rows, columns, truth[rows, columns]), (*others, truth[others]), **more
    )


def _fold(users: np.ndarray, films: np.ndarray, ratings: np.ndarray, seed: int) -> CompletionCase:
    """Fold `seed` of five; every five seeds share a permutation of the ratings."""
    labels, rows = np.unique(users, return_inverse=True)
    titles, columns = np.unique(films, return_inverse=True)
    order = np.random.default_rng(seed // FOLDS).permutation(len(ratings))
    judged = np.zeros(len(ratings), bool)
    judged[order[seed % FOLDS :: FOLDS]] = True
    seen, others = ((rows[part], columns[part], ratings[part]) for part in (~judged, judged))
    return CompletionCase("ratings", (len(labels), len(titles)), seen, others)
