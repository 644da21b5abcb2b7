"""Units in which a matrix is fitted: those of the data, each column's own, roots, or the normal scores of its values.

Each is an increasing map of every column's values to scores, so that it turns predictions back. Statistics are in
float64 and relative to the largest value, so that neither a large offset nor an extreme scale costs digits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed

PRIOR_ENTRIES = 2.0  # entries of the common deviation that each column's own counts as well
# Columns have several units if their deviations, but for the outer tenths, or their means differ by more.
MAX_RATIO, MAX_OFFSET = 12.0, 5.0
MIN_VARIATION = 0.7  # deviation over mean, from which on roots are tried
KNOTS = 33  # of normal scores
FEWEST_SCORED = 20  # observed entries of a column that normal scores are made of
BLOCK_ENTRIES = 2**16  # mapped at a time by normal scores
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class ColumnSpread:
    """The mean and the standard deviation of each column's observed values.

    Attributes:
        mean: the nearer to that of all columns, the fewer entries a column has.
        deviation: likewise; positive unless all observed values are equal.
        common: the geometric mean of the columns' deviations; 0 if no column has two different values.
    """

    mean: Float[Tensor, " width"]
    deviation: Float[Tensor, " width"]
    common: float

    @classmethod
    def of(cls, observed: Observed, partition: RowPartition) -> ColumnSpread:
        """Of the rows of all processes."""
        peak = _peak(observed, partition)
        counts = partition.sum(observed.column_starts.diff().double())
        mean, deviation = _moments(observed, counts, peak, partition)
        several = (counts >= 2) & (deviation > 0)
        if not bool(several.any()):
            total = float((counts * mean).sum() / counts.sum())
            return cls(torch.where(counts > 0, mean, total) * peak, torch.zeros_like(mean), 0.0)
        weights, logs = counts * several, deviation.clamp(min=TINY).log()
        common = float(torch.exp((weights * logs).sum() / weights.sum()))
        share = weights / (weights + PRIOR_ENTRIES)
        shrunken = torch.exp(share * logs).mul(common ** (1 - share))
        # A column of one value is predicted by it whatever the unit is, and the less it is off the smaller that is.
        constant = (1e-3 * mean.abs()).clamp(max=common).where(mean != 0, common)
        deviation = torch.where(several, shrunken, torch.where(counts >= 2, constant, common))
        return cls(_shrunken_means(mean, counts, common) * peak, deviation * peak, common * peak)

    def times(self, ratios: Float[Tensor, " width"]) -> ColumnSpread:
        """With deviations that much larger."""
        return replace(self, deviation=self.deviation * ratios)

    def absolute(self, error: str) -> bool:
        """Whether an error counts alike in all columns: the setting "absolute", or "auto" where they have one unit.

        They are taken to have one if none is much larger or wider than others.
        """
        if error != "auto":
            return error == "absolute"
        if not self.common:
            return True
        return self.ratio <= MAX_RATIO and float(self.mean.std(correction=0)) <= MAX_OFFSET * self.common

    @property
    def ratio(self) -> float:
        """Of the deviations at their outer tenths."""
        low, high = torch.quantile(self.deviation, self.deviation.new_tensor([0.1, 0.9])).tolist()
        return high / low if low else 1.0


@runtime_checkable
class Units(Protocol):
    """An increasing map of each column's values to scores."""

    def forward(self, values: Float[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Scores of single values, in their precision."""
        ...

    def backward(
        self, scores: Float[Tensor, " *n"], columns: Int[Tensor, " *n"] | slice
    ) -> Float[Tensor, " *n"]:
        """Values of scores of these columns, or of rows of scores; the inverse of `forward`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        ...


@dataclass(frozen=True)
class LinearUnits:
    """`(value - center) / scale`, with a center and a scale for each column."""

    center: Float[Tensor, " width"]
    scale: Float[Tensor, " width"]

    @classmethod
    def of_data(cls, width: int, device: torch.device | str = "cpu") -> LinearUnits:
        """Scores are the values."""
        one = torch.ones(width, dtype=torch.float64, device=device)
        return cls(torch.zeros_like(one), one)

    @classmethod
    def of_columns(cls, spread: ColumnSpread) -> LinearUnits:
        """Values less their column's mean, over its standard deviation."""
        return cls(spread.mean, _positive(spread.deviation))

    def forward(self, values: Tensor, columns: Tensor) -> Tensor:
        return ((values.double() - self.center[columns]) / self.scale[columns]).to(values.dtype)

    def backward(self, scores: Tensor, columns: Tensor | slice) -> Tensor:
        values = torch.addcmul(self.center[columns], self.scale[columns], scores.double())
        return values.to(scores.dtype)

    def tensors(self) -> dict[str, Tensor]:
        own = bool((self.center == 0).all() and (self.scale == 1).all())
        return {} if own else {"center": self.center, "scale": self.scale}


@dataclass(frozen=True)
class RootUnits:
    """Square roots of values over `scale`, none of which is negative: their errors may grow with the values.

    Attributes:
        low: the least value; smaller ones of new rows count as it.
        scale: the value of score 1.
    """

    low: float
    scale: float

    @classmethod
    def of(cls, observed: Observed, partition: RowPartition) -> RootUnits:
        """In which the mean value is 1."""
        values = observed.values.double()
        total = partition.sum(torch.stack([values.sum(), values.new_tensor(float(len(values)))]))
        return cls(_least(values, partition), float(total[0] / total[1]) or 1.0)

    @staticmethod
    def may_help(observed: Observed, partition: RowPartition) -> bool:
        """Whether no value is negative, and they vary so much that roots differ from them."""
        values = observed.values.double() / _peak(observed, partition)
        sums = torch.stack([values.sum(), values.square().sum(), values.new_tensor(float(len(values)))])
        total, squares, count = partition.sum(sums).tolist()
        return _least(values, partition) >= 0 and squares * count >= (1 + MIN_VARIATION**2) * total**2

    def forward(self, values: Tensor, columns: Tensor) -> Tensor:
        return (values.double().clamp(min=self.low) / self.scale).sqrt().to(values.dtype)

    def backward(self, scores: Tensor, columns: Tensor | slice) -> Tensor:
        return (self.scale * scores.double().clamp(min=0).square()).to(scores.dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {"roots": torch.tensor([self.low, self.scale], dtype=torch.float64)}


@dataclass(frozen=True)
class NormalScores:
    """Quantiles of the normal distribution in place of a column's own, linear between knots and beyond them.

    Attributes:
        values: knots of each column, ascending.
        scores: what they are mapped to.
    """

    values: Float[Tensor, "width knots"]
    scores: Float[Tensor, "width knots"]

    @classmethod
    def of(cls, observed: Observed, spread: ColumnSpread) -> NormalScores:
        """Of all rows, which must be in this process; columns of few entries keep their mean and deviation."""
        lines = torch.linspace(-3, 3, KNOTS, dtype=torch.float64, device=spread.mean.device)
        scores = lines.repeat(len(spread.mean), 1)
        values = spread.mean[:, None] + _positive(spread.deviation)[:, None] * scores
        in_order = observed.values.double().index_select(0, observed.order)
        ends = observed.column_starts.tolist()
        for column, (start, end) in enumerate(pairwise(ends)):
            knots = _knots(in_order[start:end])
            if knots is not None:
                values[column], scores[column] = knots
        return cls(values, scores)

    def forward(self, values: Tensor, columns: Tensor) -> Tensor:
        return _mapped(values, columns, self.values, self.scores)

    def backward(self, scores: Tensor, columns: Tensor | slice) -> Tensor:
        """Within the column's observed range: beyond the last knot the line of a long tail would lead far away."""
        if isinstance(columns, slice):
            columns = torch.arange(len(self.values), device=scores.device)[columns]
        flat, columns = scores.reshape(-1), columns.expand(scores.shape).reshape(-1).long()
        low, high = (self.scores[columns, end].to(flat) for end in (0, -1))
        return _mapped(flat.clamp(low, high), columns, self.scores, self.values).reshape(scores.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"knot_values": self.values, "knot_scores": self.scores}


def in_units(observed: Observed, units: Units) -> Observed:
    """The entries with scores in place of values."""
    return observed.with_values(units.forward(observed.values, observed.columns))


def score_errors(
    units: Units, values: Float[Tensor, " n"], errors: Float[Tensor, " n"], columns: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Errors of predictions in these units, from those in units of the data."""
    if isinstance(units, LinearUnits):  # to more digits than the difference of scores has
        return errors / units.scale.to(errors)[columns]
    return units.forward(values, columns) - units.forward(values - errors, columns)


def units_from(named: dict[str, Tensor], width: int) -> Units:
    """The units with the tensors that `Units.tensors` returned; those of the data where a file keeps none."""
    if "knot_values" in named:
        return NormalScores(named["knot_values"], named["knot_scores"])
    if "roots" in named:
        return RootUnits(*named["roots"].tolist())
    return LinearUnits(named["center"], named["scale"]) if "center" in named else LinearUnits.of_data(width)


def _positive(deviation: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    """1 where all values are equal."""
    return torch.where(deviation > 0, deviation, 1.0)


def _least(values: Tensor, partition: RowPartition) -> float:
    """The least value of all processes, at most 0 if this one has none."""
    return -float(partition.max((-values).amax() if len(values) else values.new_zeros(())))


def _peak(observed: Observed, partition: RowPartition) -> float:
    """The largest absolute value, or 1."""
    values = observed.values
    peak = values.abs().amax() if len(values) else values.new_zeros(())
    return float(partition.max(peak.double())) or 1.0


def _moments(
    observed: Observed, counts: Tensor, peak: float, partition: RowPartition
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column over `peak`; 0 where it has no entry."""
    values = (observed.values.double() / peak).index_select(0, observed.order)
    mean = partition.sum(column_sums(observed, values)) / counts.clamp(min=1)
    values -= mean.repeat_interleave(observed.column_starts.diff())
    variance = partition.sum(column_sums(observed, values.square_())) / counts.clamp(min=1)
    # Rounding leaves equal values a deviation.
    return mean, variance.sqrt().where(variance > (1e-14 * mean).square(), 0.0)


def column_sums(observed: Observed, in_order: Float[Tensor, " entries"]) -> Float[Tensor, " width"]:
    """Sums of numbers that are listed column by column."""
    return torch.segment_reduce(in_order, "sum", offsets=observed.column_starts)


def _shrunken_means(mean: Tensor, counts: Tensor, common: float) -> Tensor:
    """Means nearer to that of all columns, as far as columns of these counts differ by chance."""
    share = counts / counts.sum()
    total = (share * mean).sum()
    among = (share * (mean - total).square()).sum() - common**2 * float((counts > 0).sum()) / float(
        counts.sum()
    )
    weight = counts / (counts + common**2 / among.clamp(min=TINY))
    return total + weight * (mean - total)


def _knots(values: Float[Tensor, " n"]) -> tuple[Tensor, Tensor] | None:
    """Values and normal scores of a column's knots; none of few entries or different values."""
    distinct, counts = torch.unique(values, return_counts=True)
    if len(values) < FEWEST_SCORED or len(distinct) < 2:
        return None
    places = (counts.cumsum(0) - (counts + 1) / 2 + 0.5) / len(values)  # the middle of each value's ranks
    scores = torch.special.ndtri(places.double())
    at = torch.linspace(0, len(distinct) - 1, KNOTS, dtype=torch.float64, device=values.device)
    low = at.long().clamp(max=len(distinct) - 2)
    return tuple(torch.lerp(each[low], each[low + 1], at - low) for each in (distinct, scores))  # pyright: ignore[reportReturnType]


def _mapped(x: Tensor, columns: Tensor, ends: Tensor, images: Tensor) -> Tensor:
    """The image of each number of a column, linear between its ends, and beyond them as at the nearest two."""
    out = torch.empty_like(x)
    for start in range(0, len(x), BLOCK_ENTRIES):
        block = slice(start, start + BLOCK_ENTRIES)
        numbers, column = x[block].double()[:, None], columns[block].long()
        place = torch.searchsorted(ends[column], numbers).clamp(1, ends.shape[1] - 1)
        low, high, image, next_image = (
            table[column].gather(1, place + shift)[:, 0] for table in (ends, images) for shift in (-1, 0)
        )
        out[block] = (image + (numbers[:, 0] - low) * (next_image - image) / (high - low)).to(x.dtype)
    return out
