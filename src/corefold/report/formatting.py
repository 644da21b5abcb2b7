"""Numbers and other values as text, alone or as a column of a table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TypeGuard

Value = str | int | float | None

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


def is_number(value: Value) -> bool:
    """Whether a value belongs in a column of numbers: a number, text that starts like one, or None."""
    if isinstance(value, str):
        return _STARTS_LIKE_A_NUMBER.match(value) is not None
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def column_as_text(column: Sequence[Value]) -> list[str]:
    """The values of one column as text. Fractions share one number of decimals, unless a small one would turn to 0.

    >>> column_as_text([1.02, 2.1041, 0.038654]), column_as_text([0.5, 1e-6])
    (['1.020', '2.104', '0.039'], ['0.5', '1e-06'])
    """
    fractions = [abs(float(value)) for value in column if _is_fraction(value)]
    sizes = [size for size in fractions if math.isfinite(size) and size > 0]
    if not sizes:
        return [as_text(value) for value in column]
    decimals = max(0, 3 - math.floor(math.log10(max(sizes))))
    if decimals > 6 or min(sizes) < 10.0**-decimals:
        return [as_text(value) for value in column]
    return [
        f"{float(value):,.{decimals}f}" if _is_fraction(value) and math.isfinite(value) else as_text(value)
        for value in column
    ]


def _is_fraction(value: Value) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, (bool, Integral))
