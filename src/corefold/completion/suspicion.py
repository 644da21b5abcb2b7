"""Values that look like marks of gaps: many equal ones at an extreme, far from all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from corefold.completion.observed import Observed

MIN_COUNT = 3
MIN_SHARE = 0.01  # of the entries of a matrix or of a column
MIN_OTHERS = 4  # different values beside the extreme
MIN_GAPS = 5.0  # from the extreme to the next value, in steps from there to the one behind
MAX_COLUMNS = 5000  # that are looked at one by one


@dataclass(frozen=True)
class Suspect:
    """A value that occurs often and far away from all others.

    Attributes:
        value: the value.
        count: how often it occurs.
        nearest: the next of the other values.
        column: the place of the column; None where it is so among all entries.
    """

    value: float
    count: int
    nearest: float
    column: int | None = None


def suspects(observed: Observed) -> list[Suspect]:
    """The values that look like marks of gaps, among all entries and, where there are none, in single columns."""
    found = _of(observed.values.cpu().numpy())
    if found or observed.shape[1] > MAX_COLUMNS:
        return found
    values = observed.values.cpu().numpy()[observed.order.cpu().numpy()]
    starts = observed.column_starts.cpu().numpy()
    return [
        Suspect(each.value, each.count, each.nearest, column)
        for column in range(observed.shape[1])
        for each in _of(values[starts[column] : starts[column + 1]])
    ]


def _of(values: Float[np.ndarray, " entries"]) -> list[Suspect]:
    if len(values) < MIN_COUNT + MIN_OTHERS:
        return []
    found = []
    for sign in (1, -1):
        signed = values if sign == 1 else -values
        extreme = signed.min()
        is_extreme = signed == extreme
        count = int(is_extreme.sum())
        if count < max(MIN_COUNT, MIN_SHARE * len(values)) or len(values) - count < MIN_OTHERS:
            continue
        others = np.unique(signed[~is_extreme])
        if len(others) < MIN_OTHERS:
            continue
        low, high = np.percentile(signed[~is_extreme], [25, 75])
        gap = others[0] - extreme
        if gap > high - low and gap > MIN_GAPS * (others[1] - others[0]):
            found.append(Suspect(float(sign * extreme), count, float(sign * others[0])))
    return found
