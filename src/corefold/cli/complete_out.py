"""What `corefold complete` writes: the filled table, the best of each row, or single entries."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from corefold.cli.complete_data import COLUMNS, ROWS, SUFFIXES, Matrix
from corefold.completion import DeepMatrixCompletion
from corefold.completion.bounds import fits_in_memory
from corefold.errors import InputError

BLOCK = 2**22  # entries predicted at a time
COVERAGE = 0.9  # of the intervals of single entries


def check_file(path: Path, force: bool, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Raise InputError unless a file of that name can be written without losing another."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected a name ending in one of {', '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of a file")
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another name or add --force")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")


def check_filled(matrix: Matrix, path: Path) -> None:
    """Refuse a filled table that would not fit in memory, before the fit.

    Raises:
        InputError: with the estimate.
    """
    height, width = matrix.observed.shape
    copies = 2 if path.suffix.lower() == ".parquet" else 1  # pyarrow takes columns of its own
    try:
        what = f"the filled table of {height:,} rows and {width:,} columns"
        fits_in_memory(what, copies * height * width, 8, "ask for --top or --entries instead")
    except MemoryError as error:
        raise InputError(str(error)) from error


def predictions(
    estimator: DeepMatrixCompletion, block: int = BLOCK
) -> Iterator[tuple[slice, Float[np.ndarray, "rows width"]]]:
    """What the fitted matrix is, some rows at a time."""
    model, bounds = estimator.model_, estimator.bounds_
    height, step = len(model.factors.u), max(1, block // len(model.factors.v))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        biases, factors = (
            replace(model.biases, row=model.biases.row[rows]),
            replace(model.factors, u=model.factors.u[rows]),
        )
        dense = replace(model, biases=biases, factors=factors).dense()
        yield rows, (dense if bounds is None else dense.clamp(*bounds)).cpu().numpy()


def filled(estimator: DeepMatrixCompletion, matrix: Matrix) -> Float[np.ndarray, "height width"]:
    """The matrix with its gaps filled; what is observed stays."""
    observed = matrix.observed
    whole = np.empty(observed.shape)
    for rows, dense in predictions(estimator):
        whole[rows] = dense
    whole[observed.row_of().numpy(), observed.columns.numpy()] = observed.values.numpy()
    return whole


def ranked(estimator: DeepMatrixCompletion, matrix: Matrix, top: int) -> pd.DataFrame:
    """The highest predictions of each row among the entries that are not observed, best first.

    Raises:
        InputError: a column of the matrix is called "rank".
    """
    _check_names(matrix, "rank")
    starts, columns = matrix.observed.starts.numpy(), matrix.observed.columns.numpy()
    parts: list[tuple[np.ndarray, ...]] = []
    for rows, dense in predictions(estimator):
        counts = np.diff(starts[rows.start : rows.stop + 1])
        seen = columns[starts[rows.start] : starts[rows.stop]]
        dense[np.repeat(np.arange(len(counts)), counts), seen] = -np.inf
        best = _largest(dense, top)
        value = np.take_along_axis(dense, best, 1)
        row, place = np.nonzero(value > -np.inf)
        parts.append((rows.start + row, best[row, place], value[row, place], place + 1))
    row, column, value, rank = (np.concatenate(each) for each in zip(*parts, strict=True))
    named = dict(zip(matrix.names, (matrix.rows.take(row), matrix.columns.take(column), value), strict=True))
    return pd.DataFrame({**named, "rank": rank})


def _largest(dense: Float[np.ndarray, "rows width"], count: int) -> Int[np.ndarray, "rows count"]:
    """The places of the largest values of each row, largest first; of equal ones the first."""
    if count < dense.shape[1]:
        best = np.sort(np.argpartition(dense, -count, 1)[:, -count:], 1)
    else:
        best = np.broadcast_to(np.arange(dense.shape[1]), dense.shape)
    order = np.argsort(-np.take_along_axis(dense, best, 1), 1, kind="stable")
    return np.take_along_axis(best, order, 1)


def single(
    estimator: DeepMatrixCompletion,
    matrix: Matrix,
    wanted: pd.DataFrame,
    rows: np.ndarray,
    columns: np.ndarray,
) -> tuple[pd.DataFrame, str | None]:
    """Predictions of single entries with the ends of their intervals, and why there are no ends if so.

    Raises:
        InputError: a column of the matrix is called "lower" or "upper".
    """
    _check_names(matrix, "lower", "upper")
    try:
        (lower, upper), note = estimator.intervals(rows, columns, COVERAGE), None
    except ValueError as error:
        lower, upper, note = np.nan, np.nan, str(error)
    value = estimator.entries(rows, columns)
    return wanted.assign(**{matrix.names[2]: value, "lower": lower, "upper": upper}), note


def _check_names(matrix: Matrix, *ours: str) -> None:
    for name in ours:
        if name in matrix.names:
            raise InputError(f"{matrix.source}: the result has a column {name!r} of its own; rename yours")


def write_filled(whole: Float[np.ndarray, "height width"], matrix: Matrix, path: Path) -> None:
    """Write the filled table, row labels first, or as arrays `matrix`, `row_labels` and `column_labels`."""
    if path.suffix.lower() == ".npz":
        labels = {COLUMNS: _plain(matrix.columns)}
        if matrix.labelled:
            labels[ROWS] = _plain(matrix.rows)
        write(path, {"matrix": whole, **labels})
        return
    columns = [str(label) for label in matrix.columns]
    if len(set(columns)) < len(columns):
        raise InputError(f"{matrix.source}: two columns have the same name, which {path.suffix} cannot hold")
    table = pd.DataFrame(whole, columns=pd.Index(columns), copy=False)
    if matrix.labelled:
        name = matrix.names[0]
        while name in columns:
            name += "_"
        table.insert(0, name, matrix.rows)
    write(path, table)


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """Write ranked or single entries, as a table or as an array for each column."""
    npz = path.suffix.lower() == ".npz"
    write(path, {str(name): _plain(pd.Index(table[name])) for name in table} if npz else table)


def _plain(labels: pd.Index) -> np.ndarray:
    """Labels as an array that numpy reads back without pickle."""
    array = labels.to_numpy()
    return array if array.dtype.kind in "biuf" else array.astype(str)


def write(path: Path, content: pd.DataFrame | dict[str, np.ndarray]) -> None:
    """Write a table or arrays by the name's ending; the file appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder, path.name)
        if isinstance(content, dict):
            with fresh.open("wb") as file:  # given a name, numpy would add an ending to .NPZ
                np.savez(file, **content)  # pyright: ignore[reportArgumentType]
        elif path.suffix.lower() == ".csv":
            content.to_csv(fresh, index=False)
        else:
            content.to_parquet(fresh, index=False)
        fresh.replace(path)
