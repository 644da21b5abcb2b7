"""Features as numbers: columns of a table standardized, words as categories, and the directions of most variance."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from corefold.completion.feature_tables import FeatureTable

MAX_CATEGORIES = 100  # of a column of words; each occurs at least FEWEST times
FEWEST = 2
CATEGORY_DEVIATION = 0.5  # that of a column of two values is at most this
MAX_DIRECTIONS = 64
MAX_GRAM_NUMBERS = 2**26  # in the normal equations of a side, which has one matrix of all directions for each
LEAST_SHARE = 1e-9  # of the largest direction's variance


@dataclass(frozen=True)
class EncodedColumn:
    """How a column of features becomes numbers: less `means`, over `deviation`; of words, one number a category."""

    name: str
    categories: tuple[str, ...]
    means: tuple[float, ...]
    deviation: float

    @classmethod
    def of(cls, name: str, column: np.ndarray) -> EncodedColumn | None:
        """None for a column that says nothing: of one value, or of words that all differ."""
        if column.dtype.kind == "f":
            known = column[~np.isnan(column)]
            different = np.unique(known)
            if len(different) < 2:
                return None
            # Otherwise a rare one of two values would be far from the mean, and its effect taken for a large one.
            half_range = CATEGORY_DEVIATION * float(different[-1] - different[0])
            deviation = half_range if len(different) == 2 else float(known.std())
            return cls(name, (), (float(known.mean()),), deviation)
        counts = Counter(text for text in column if text)
        categories = [text for text, count in counts.most_common(MAX_CATEGORIES) if count >= FEWEST]
        if not categories or len(counts) < 2:
            return None
        means = tuple(counts[text] / counts.total() for text in categories)
        return cls(name, tuple(categories), means, CATEGORY_DEVIATION)

    def encoded(self, column: np.ndarray) -> Float[np.ndarray, "lines numbers"]:
        """What is missing is average; an unknown word belongs to no category."""
        if not self.categories:
            numbers = column.astype(float)[:, None]
        else:
            numbers = np.array([[cell == word for word in self.categories] for cell in column], dtype=float)
            numbers[column == ""] = np.nan
        return np.nan_to_num((numbers - np.array(self.means)) / self.deviation)


@dataclass(frozen=True)
class FeatureEncoder:
    """Numbers for features: each column's, in the directions of the largest variance.

    Attributes:
        names: of the columns that were given.
        columns: those that say something.
        directions: principal directions of their numbers.
    """

    names: tuple[str, ...]
    columns: tuple[EncodedColumn, ...]
    directions: Float[np.ndarray, "numbers kept"]

    @classmethod
    def of(cls, table: FeatureTable, other_side: int) -> FeatureEncoder:
        """From all lines of a table.

        Args:
            table: the features of one side.
            other_side: the length of the other, each of which has a coefficient for each direction.

        Raises:
            ValueError: no column that says something.
        """
        found = [
            EncodedColumn.of(name, column) for name, column in zip(table.names, table.columns, strict=True)
        ]
        columns = tuple(each for each in found if each is not None)
        dropped = [name for name, each in zip(table.names, found, strict=True) if each is None]
        if not columns:
            raise ValueError(
                f"{table.side}_features says nothing: its columns are of one value, or of words that all differ"
            )
        if dropped:
            warnings.warn(
                f"{table.side}_features: left out {', '.join(map(repr, dropped))}, of one value or of words that all "
                "differ",
                stacklevel=6,
            )
        encoder = cls(table.names, columns, np.zeros((0, 0)))
        numbers = encoder._numbers(table)
        size, directions = np.linalg.eigh(numbers.T @ numbers)
        most = min(MAX_DIRECTIONS, max(1, math.isqrt(MAX_GRAM_NUMBERS // max(other_side, 1))))
        kept = np.flatnonzero(size > LEAST_SHARE * size[-1])[::-1][:most]
        return cls(table.names, columns, directions[:, kept])

    def encode(self, table: FeatureTable, places: np.ndarray) -> Float[np.ndarray, "side kept"]:
        """The features at lines of a table; average ones at -1.

        Raises:
            ValueError: a column that the table lacks.
        """
        features = self._numbers(table) @ self.directions
        return np.where(places[:, None] < 0, 0.0, features[places])

    def _numbers(self, table: FeatureTable) -> Float[np.ndarray, "lines numbers"]:
        place = dict(zip(table.names, table.columns, strict=True))
        missing = [each.name for each in self.columns if each.name not in place]
        if missing:
            raise ValueError(f"{table.side}_features has no column {missing[0]!r}; the fit had one")
        for each in self.columns:
            column = place[each.name]
            if (
                np.isnan(column) if column.dtype.kind == "f" else column == ""
            ).all():  # missing, of either kind
                gap = "" if each.categories else np.nan
                place[each.name] = column = np.full(len(column), gap, dtype=object if gap == "" else float)
            if bool(each.categories) != (column.dtype.kind != "f"):
                kinds = ("words", "numbers") if each.categories else ("numbers", "words")
                raise ValueError(
                    f"{table.side}_features: column {each.name!r} was of {kinds[0]} in the fit and is of {kinds[1]} now"
                )
        return np.hstack([each.encoded(place[each.name]) for each in self.columns])

    def to_plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "names": list(self.names),
            "columns": [asdict(column) for column in self.columns],
            "directions": self.directions.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> FeatureEncoder:
        """The inverse of `to_plain`."""
        columns = tuple(
            EncodedColumn(
                each["name"], tuple(each["categories"]), tuple(each["means"]), float(each["deviation"])
            )
            for each in plain["columns"]
        )
        return cls(tuple(plain["names"]), columns, np.array(plain["directions"]))
