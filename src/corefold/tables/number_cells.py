"""Tables whose cells should be numbers, as arrays: gaps, truth values, decimal commas, and cells that are none of it.

A column of text becomes numbers in Arrow where all of its cells are plain ones, and cell by cell elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from corefold.errors import InputError
from corefold.tables.columns import GAP_WORDS, as_number, require_scalars, row_number

COMMA_NUMBER = re.compile(r"[+-]?([0-9]+,[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?")
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")
TRUTHS = (("true", "false"), ("yes", "no"), ("t", "f"), ("y", "n"))
MAX_MARKER_LETTERS = 10  # of a word that may stand for a gap


@dataclass(frozen=True)
class Spelling:
    """How cells spell numbers.

    Attributes:
        missing: cells that stand for a gap, beside empty ones and `GAP_WORDS`.
        decimal: the decimal mark, "." or ","; None: a point, or a comma where all cells are numbers with it.
    """

    missing: tuple[str, ...] = ()
    decimal: str | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise InputError(f"--decimal must be '.' or ','; got {self.decimal!r}")

    @property
    def gap_words(self) -> set[str]:
        """All cells of text that stand for a gap, without blanks around them."""
        return GAP_WORDS | {word.strip() for word in self.missing}

    @property
    def gap_numbers(self) -> list[float]:
        """The numbers that stand for a gap."""
        return [number for word in self.missing if (number := as_number(word)) is not None]


@dataclass
class Numbers:
    """The cells of a table as numbers.

    Attributes:
        table: the table.
        source: the file, for messages.
        values: a number for each cell, NaN for a gap and for a cell that is no number.
        bad: for the place of each column with a cell that is no number, where these are.
        filled: for the same columns, how many cells are no gap.
        word_counts: for the same columns, how many cells are not even numbers with a comma.
        notes: a line for each guess.
    """

    table: pd.DataFrame
    source: str
    values: Float[np.ndarray, "rows columns"]
    bad: dict[int, Bool[np.ndarray, " rows"]] = field(default_factory=dict)
    filled: dict[int, int] = field(default_factory=dict)
    word_counts: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def words(self) -> list[int]:
        """The places of columns in which more cells are words than numbers: they hold names, not mistakes."""
        return [place for place, count in self.word_counts.items() if 2 * count >= self.filled[place]]

    def require_numbers(self, places: Sequence[int]) -> None:
        """Raise InputError for the first cell of these columns that is no finite number."""
        infinite: np.ndarray = np.isinf(self.values)
        no_numbers = np.array([place in self.bad for place in places], dtype=bool)
        for place, no_number in zip(places, no_numbers | np.any(infinite, axis=0)[list(places)], strict=True):
            if not no_number:
                continue
            column = self.table.iloc[:, place]
            if (bad := self.bad.get(place)) is not None:
                raise InputError(
                    f"{self._cell(column, int(bad.argmax()))} is not a number{_cure(column, bad)}"
                )
            raise InputError(f"{self._cell(column, int(infinite[:, place].argmax()))} is infinite")

    def _cell(self, column: pd.Series, row: int) -> str:
        cell = str(column.iloc[row])
        return f"{self.source}, row {row_number(column, row)}: {cell!r} in column {column.name!r}"


def numbers_of(table: pd.DataFrame, source: str, spelling: Spelling) -> Numbers:
    """The cells of a table as numbers.

    Raises:
        InputError: a cell that is no single value, numbers with commas that may mean two things, or cells with decimal
            points where commas were named.
    """
    numbers = Numbers(table, source, np.empty(table.shape, order="F"))
    texts: list[tuple[int, Any]] = []
    for place, (_, column) in enumerate(table.items()):
        if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
            numbers.values[:, place] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            texts.append((place, column))
    left = _plain_numbers(texts, numbers.values, spelling) if spelling.decimal != "," else texts
    spelled = {place: _Spelled.of(column, source, spelling) for place, column in left}
    _read_commas(spelled, numbers, spelling)
    for place, column in spelled.items():
        column.read_truths(numbers)
        numbers.values[:, place] = column.values
        if column.bad.any():
            numbers.bad[place], numbers.filled[place] = column.bad, int(column.filled.sum())
            commas = sum(COMMA_NUMBER.fullmatch(cell) is not None for _, cell in column.bad_texts())
            numbers.word_counts[place] = int(column.bad.sum()) - commas
    for number in spelling.gap_numbers:
        numbers.values[numbers.values == number] = np.nan
    return numbers


def _plain_numbers(
    texts: list[tuple[int, pd.Series]], values: Float[np.ndarray, "rows columns"], spelling: Spelling
) -> list[tuple[int, pd.Series]]:
    """Fill in the columns of nothing but plain numbers and gaps, and return the others."""
    if len(texts) > 1 and (together := _cast([column for _, column in texts], spelling)) is not None:
        values[:, [place for place, _ in texts]] = together.reshape(len(texts), -1).T
        return []
    left = []
    for place, column in texts:
        alone = _cast([column], spelling)
        if alone is None:
            left.append((place, column))
        else:
            values[:, place] = alone
    return left


def _cast(columns: list[pd.Series], spelling: Spelling) -> Float[np.ndarray, " cells"] | None:
    """The cells of columns, one behind the other, as Arrow reads them; None where it finds a word."""
    if not all(isinstance(column.dtype, pd.StringDtype) for column in columns):
        return None
    try:
        import pyarrow as pa
    except ImportError:
        return None
    compute: Any = import_module("pyarrow.compute")  # It makes its functions when it is loaded.
    chunks = []
    for column in columns:
        array = pa.array(column.array, type=pa.large_string(), from_pandas=True)
        chunks += array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    cells = compute.utf8_trim_whitespace(pa.chunked_array(chunks, pa.large_string()))
    gaps = compute.is_in(cells, value_set=pa.array(sorted(spelling.gap_words), pa.large_string()))
    cells = compute.if_else(gaps, pa.scalar(None, pa.large_string()), cells)
    try:
        return np.asarray(compute.cast(cells, pa.float64()), dtype=np.float64)
    except pa.ArrowInvalid:
        return None


@dataclass
class _Spelled:
    """A column that is read cell by cell."""

    name: str
    cells: list[Any]  # texts without blanks around them
    values: Float[np.ndarray, " rows"]
    filled: Bool[np.ndarray, " rows"]
    bad: Bool[np.ndarray, " rows"]

    @classmethod
    def of(cls, column: pd.Series, source: str, spelling: Spelling) -> _Spelled:
        require_scalars(column, source)
        gaps = column.isna().to_numpy(dtype=bool, copy=True)
        words, cells = spelling.gap_words, []
        for place, cell in enumerate(column.tolist()):
            cells.append(cell.strip() if isinstance(cell, str) else cell)
            gaps[place] |= isinstance(cell, str) and cells[-1] in words
        found = [None if gap else _number(cell) for cell, gap in zip(cells, gaps, strict=True)]
        bad = np.array([number is None for number in found], dtype=bool) & ~gaps
        values = np.array([np.nan if number is None else number for number in found], dtype=np.float64)
        return cls(str(column.name), cells, values, ~gaps, bad)

    def bad_texts(self) -> list[tuple[int, str]]:
        """The places of texts that are no numbers, and these."""
        found = ((int(place), self.cells[place]) for place in np.flatnonzero(self.bad))
        return [(place, cell) for place, cell in found if isinstance(cell, str)]

    def read_truths(self, numbers: Numbers) -> None:
        """Read truth values as 1 and 0 where a column holds nothing else."""
        texts = self.bad_texts()
        if not texts or self.filled.sum() > len(texts):
            return
        for yes, no in TRUTHS:
            if all(cell.lower() in (yes, no) for _, cell in texts):
                for place, cell in texts:
                    self.values[place], self.bad[place] = float(cell.lower() == yes), False
                numbers.notes.append(
                    f"column {self.name!r} holds {yes} and {no}, which are read as 1 and 0; --drop leaves it out"
                )
                return


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool | np.bool_):
        return float(cell)
    if isinstance(cell, str) and cell.lower().lstrip("+-") in ("inf", "infinity"):
        return np.inf
    return as_number(cell)


def _read_commas(spelled: dict[int, _Spelled], numbers: Numbers, spelling: Spelling) -> None:
    """Read numbers with decimal commas, in all columns or in none."""
    commas = {
        place: [(row, cell) for row, cell in column.bad_texts() if COMMA_NUMBER.fullmatch(cell)]
        for place, column in spelled.items()
    }
    # In a column with words, which may hold names, a comma says nothing of the numbers in others.
    commas = {
        place: cells for place, cells in commas.items() if cells and len(cells) == spelled[place].bad.sum()
    }
    if spelling.decimal == ".":
        return
    if spelling.decimal is None and commas:
        place, first = next(iter(commas.items()))
        where = f"{numbers.source}, row {first[0][0] + 1}: {first[0][1]!r} in column {spelled[place].name!r}"
        if all(THOUSANDS.fullmatch(cell) for cells in commas.values() for _, cell in cells):
            raise InputError(
                f"{where}: the comma may stand before decimals or after thousands; add --decimal , if it is a decimal "
                "comma, otherwise write the numbers without it"
            )
        numbers.notes.append(
            f"{where} has a decimal comma, and all such cells are read so; --decimal . refuses them"
        )
    for place in spelled if spelling.decimal == "," else commas:
        _require_no_points(spelled[place], numbers.source)
    for place, cells in commas.items():
        column = spelled[place]
        for row, cell in cells:
            column.values[row], column.bad[row] = float(cell.replace(",", ".")), False


def _require_no_points(column: _Spelled, source: str) -> None:
    for row, cell in enumerate(column.cells):
        if isinstance(cell, str) and "." in cell and column.filled[row] and not column.bad[row]:
            raise InputError(
                f"{source}, row {row + 1}: {cell!r} in column {column.name!r} has a decimal point where others have "
                "decimal commas; write all numbers alike"
            )


def _cure(column: pd.Series, bad: Bool[np.ndarray, " rows"]) -> str:
    """What to do about a cell that is no number."""
    words = {str(cell).strip() for cell in column[bad].tolist()}
    if all(COMMA_NUMBER.fullmatch(word) for word in words):
        return "; add --decimal , if its comma is a decimal comma"
    word = words.pop()
    if words:
        return ""
    return f"; if it marks a gap, add --missing '{word}'" if len(word) <= MAX_MARKER_LETTERS else ""
