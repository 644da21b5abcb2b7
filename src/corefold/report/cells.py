"""Values as the text of a table's cells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TypeGuard

Cell = str | int | float | None

DASH = "–"
_STARTS_LIKE_A_NUMBER = re.compile(r"[-+−±<>≤≥~]?\s*\.?\d|[-–—]?$")


def as_text(value: object) -> str:
    """One value as text: thousands separated, four significant digits, "yes" and "no", lists with commas.

    >>> as_text(12345), as_text(0.123456), as_text(True), as_text(["query", "key"]), as_text(None)
    ('12,345', '0.1235', 'yes', 'query, key', '–')
    """
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return DASH if math.isnan(value) else f"{float(value):.4g}"
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return ", ".join(map(as_text, items)) or "none"
    return str(value)


def is_number(cell: Cell) -> bool:
    """Whether a cell belongs in a column of numbers: a number, text that starts like one, or nothing."""
    if isinstance(cell, str):
        return _STARTS_LIKE_A_NUMBER.match(cell) is not None
    return cell is None or (isinstance(cell, Real) and not isinstance(cell, bool))


def column_as_text(column: Sequence[Cell]) -> list[str]:
    """The cells of one column; its fractions get the same number of decimals where that loses none of them.

    >>> column_as_text([1.02, 2.1041, 0.038654]), column_as_text([0.5, 1e-6])
    (['1.020', '2.104', '0.039'], ['0.5', '1e-06'])
    """
    fractions = [abs(float(cell)) for cell in column if _is_fraction(cell)]
    sizes = [size for size in fractions if math.isfinite(size) and size > 0]
    if not sizes:
        return [as_text(cell) for cell in column]
    decimals = max(0, 3 - math.floor(math.log10(max(sizes))))
    if decimals > 6 or min(sizes) < 10.0**-decimals:
        return [as_text(cell) for cell in column]
    return [
        f"{float(cell):,.{decimals}f}" if _is_fraction(cell) and math.isfinite(cell) else as_text(cell)
        for cell in column
    ]


def _is_fraction(cell: Cell) -> TypeGuard[float]:
    return isinstance(cell, Real) and not isinstance(cell, (bool, Integral))
