"""Features of rows and columns beside a matrix: matched to it, and encoded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from corefold.completion.feature_effects import Features
from corefold.completion.feature_encoding import FeatureEncoder
from corefold.completion.feature_tables import FeatureTable
from corefold.completion.labelled_input import FittedLabels, LabelledEntries, Labels
from corefold.completion.observed import Observed


@dataclass(frozen=True)
class SideInformation:
    """Encoded features of the matrix, none without any, and the encoder of new rows' features."""

    features: Features | None = None
    row_encoder: FeatureEncoder | None = None


@dataclass(frozen=True)
class SideTables:
    """Features of rows and of columns as they were given; false if there are none."""

    rows: FeatureTable | None
    columns: FeatureTable | None

    @classmethod
    def of(cls, row_features: Any, column_features: Any) -> SideTables:
        """From frames or matrices; None for none.

        Raises:
            ValueError: as in `FeatureTable.of`.
        """
        return cls(
            None if row_features is None else FeatureTable.of("row", row_features),
            None if column_features is None else FeatureTable.of("column", column_features),
        )

    def __bool__(self) -> bool:
        return self.rows is not None or self.columns is not None

    def extended(self, labelled: LabelledEntries) -> LabelledEntries:
        """With the labels that only the features have, behind the others.

        Raises:
            ValueError: features of none of the labels.
        """
        rows = _extended(labelled.row_labels, self.rows)
        columns = _extended(labelled.column_labels, self.columns)
        return replace(labelled, row_labels=rows, column_labels=columns)

    def shape(self, least: tuple[int, int], labels: tuple[Any, Any] = (None, None)) -> tuple[int, int]:
        """Of a matrix of entries: a side of places has as many as there are features of, or more.

        Args:
            least: the shape that the entries need.
            labels: of rows and columns; None for places.

        Raises:
            ValueError: features of none of the places.
        """
        height, width = (
            size if table is None or of_side is not None else table.length(size)
            for table, size, of_side in zip((self.rows, self.columns), least, labels, strict=True)
        )
        return height, width

    def encoded(
        self, observed: Observed, labels: tuple[Any, Any], own: FittedLabels, numbered: bool
    ) -> SideInformation:
        """The features in the order of the matrix.

        Args:
            observed: the matrix.
            labels: of its rows and columns; None where they have none.
            own: those among them that entries were given with.
            numbered: whether entries were given by their places.

        Raises:
            ValueError: lines that do not belong to it.
        """
        if not self:
            return SideInformation()
        encoders, parts = [], []
        for table, size, other, of_side, must in zip(
            (self.rows, self.columns),
            observed.shape,
            observed.shape[::-1],
            labels,
            (own.rows, own.columns),
            strict=True,
        ):
            if table is None:
                encoders.append(None)
                parts.append(observed.values.new_zeros(size, 0))
                continue
            known = label_values(of_side)
            places = table.places(size, known, must is not None, numbered)
            _say_beyond(table, table.labels_of_matrix(size, known, numbered), known is None)
            encoders.append(FeatureEncoder.of(table, other))
            parts.append(torch.from_numpy(encoders[-1].encode(table, places)).to(observed.values))
        return SideInformation(Features(*parts), encoders[0])


def _extended(labels: Labels | None, table: FeatureTable | None) -> Labels | None:
    if labels is None or table is None or table.labels is None:
        return labels
    table.require_some(labels.values)
    return Labels((*labels.values, *table.labels_beyond(labels.values)))


def _say_beyond(table: FeatureTable, labels: Sequence[Any] | None, by_place: bool) -> None:
    """Warn of lines that belong to nothing: a frame, or a shape that was asked for, gets no rows for them."""
    beyond = () if labels is None else table.labels_beyond(labels)
    if beyond:
        how = "a larger shape" if by_place else f"a {table.side} of NaN with this label"
        warnings.warn(
            f"{len(beyond)} of {len(table)} lines of {table.side}_features belong to no {table.side} of the data, the "
            f"first is {beyond[0]!r}; to have it predicted, give the data {how}",
            stacklevel=5,
        )


def labels_of(X: Any) -> tuple[Any, Any]:
    """The index and the names of columns of a frame; none of all else."""
    if hasattr(X, "columns") and hasattr(X, "index"):
        return tuple(X.index), tuple(X.columns)
    return None, None


def label_values(labels: Any) -> Sequence[Any] | None:
    """Labels as a sequence, or None."""
    return labels.values if isinstance(labels, Labels) else labels
