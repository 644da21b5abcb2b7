"""Plots `(data, ax=None) -> Axes` of a matrix completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from corefold.report.plots import BLUE, CYCLE, GREEN, GREY, VERMILION, axes_or_new, finish
from corefold.tables.atomic import atomic_write

HISTOGRAM_BINS = 60
HISTOGRAM_PERCENTILE = (
    99.5  # Percentile of the absolute residuals where a histogram ends; larger ones count in its outer bins.
)
MAX_STEPS_WITH_DOTS = 80
MAX_NAMED_STAGES = 6  # below the axis of steps
WIDE_RATIO = 5  # of errors, from which on their axis is logarithmic
TABLE_UNITS = "table"  # the name of the data's units in a record
AXIS_LABEL_LETTERS = 72  # in a line
PICTURE_GAP = 0.05  # between two pictures, as a share of the width of one

Picture = Float[np.ndarray, "height width"]


def completion_errors(path: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Error at the entries fitted and at those held out, step by step, on a logarithmic axis.

    Args:
        path: records with "stage", "error" and "held_out"; errors at the fitted entries are drawn where they are in the
            same units, "table".
        ax: where to draw.

    Raises:
        ValueError: no steps.
    """
    ax, steps = _steps(path, ax)
    kinds = (
        ("error", "entries fitted", BLUE),
        ("held_out", "entries held out to choose by", VERMILION),
    )
    lines = []
    for key, label, color in kinds:
        drawn_here = [key == "held_out" or record.get("units", TABLE_UNITS) == TABLE_UNITS for record in path]
        values = np.where(drawn_here, [record[key] for record in path], np.nan).astype(float)
        values[~(values > 0)] = np.nan  # an exact fit, or nothing held out
        if not np.isnan(values).all():
            marker = "o" if len(path) <= MAX_STEPS_WITH_DOTS else ""
            lines += ax.plot(
                steps, values, color=color, label=label, marker=marker, markersize=3, linewidth=1.5
            )
    if lines:
        drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
        _log(ax, drawn[drawn > 0])
    ax.set_ylabel("root mean square error")
    finish(ax, "Error along the path", lines)
    return ax


def completion_candidates(path: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """The least held-out error of each candidate on the first entries held out, the best one at the top.

    Args:
        path: records with "stage", "units", "fold" and "relative", the error by which candidates are compared.
        ax: where to draw.

    Raises:
        ValueError: no step with a held-out error.
    """
    best: dict[str, float] = {}
    for record in path:
        if record["fold"] == 0 and np.isfinite(record["relative"]):
            name = f"{record['stage']}, {record['units']}"
            best[name] = min(best.get(name, np.inf), record["relative"])
    if not best:
        raise ValueError("there are no candidates to draw: no step has an error at held-out entries")
    ax = axes_or_new(ax)
    names = sorted(best, key=lambda name: -best[name])
    ax.plot([best[name] for name in names], range(len(names)), "o", color=BLUE, markersize=4)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    if max(best.values()) > WIDE_RATIO * min(best.values()):
        ax.set_xscale("log")
    ax.set_xlabel("relative error at held-out entries")
    finish(ax, "Candidates", [])
    return ax


def completion_ranks(path: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """The rank of the low-rank part, step by step.

    Args:
        path: records with "stage" and "rank".
        ax: where to draw.

    Raises:
        ValueError: no steps.
    """
    ax, steps = _steps(path, ax)
    ranks = [record["rank"] for record in path]
    marker = "o" if len(path) <= MAX_STEPS_WITH_DOTS else ""
    ax.plot(steps, ranks, drawstyle="steps-mid", color=GREEN, marker=marker, markersize=3, linewidth=1.5)
    ax.annotate(
        f"{ranks[-1]}", (steps[-1], ranks[-1]), (5, 0), textcoords="offset points", va="center", color=GREEN
    )
    ax.set_ylim(0, 1.08 * max(*ranks, 1))
    ax.set_ylabel("rank")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    finish(ax, f"Rank along the path; {ranks[-1]} in the end", [])
    return ax


def _steps(path: Sequence[Mapping[str, Any]], ax: Axes | None) -> tuple[Axes, range]:
    """Axes over the steps, with a line between the stages of the fit and their names below."""
    if not path:
        raise ValueError("there is no path to draw: got no steps")
    ax, begin, stages = axes_or_new(ax), 1, []
    for stage, group in groupby(record["stage"] for record in path):
        if begin > 1:
            ax.axvline(begin - 0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        count = len(list(group))
        stages.append(f"{begin}–{begin + count - 1} {stage}" if count > 1 else f"{begin} {stage}")
        begin += count
    names = f" ({', '.join(stages)})" if len(stages) <= MAX_NAMED_STAGES else ""
    ax.set_xlabel(fill(f"step{names}", AXIS_LABEL_LETTERS, break_on_hyphens=False))
    ax.set_xlim(0.4, max(begin - 0.4, 2) + 0.02 * begin)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return ax, range(1, len(path) + 1)


def _log(ax: Axes, values: Float[np.ndarray, " n"]) -> None:
    """A logarithmic axis with plain numbers; where it spans few powers of ten, 2 and 5 times these have ticks too."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    narrow = values.max() < 100 * values.min()
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if narrow else (1,)))
    ax.yaxis.set_minor_formatter("{x:g}" if narrow else NullFormatter())


def completion_spectrum(singular_values: Float[np.ndarray, " rank"], ax: Axes | None = None) -> Axes:
    """A stem for each singular value of the low-rank part, on a logarithmic axis.

    Args:
        singular_values: largest first; empty for a matrix of biases alone.
        ax: where to draw.
    """
    ax = axes_or_new(ax)
    positive = singular_values[singular_values > 0]
    places = np.arange(1, len(positive) + 1)
    if len(positive):
        _log(ax, positive)
        floor = positive.min() / 2
        ax.vlines(places, floor, positive, color=BLUE, linewidth=1.2, alpha=0.6)
        ax.scatter(places, positive, s=28 if len(places) <= 60 else 9, color=BLUE, zorder=3)
        ax.set_ylim(floor, positive.max() * 2)
    ax.set_xlabel("index (1 = largest)")
    ax.set_xlim(0.4, len(positive) + 0.6)
    ax.set_ylabel("singular value")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    finish(ax, f"Singular values of the low-rank part, rank {len(positive)}", [])
    return ax


def completion_residuals(
    residuals: Mapping[str, Float[np.ndarray, " held"]],
    ax: Axes | None = None,
    quantity: str = "observed less predicted",
) -> Axes:
    """Histograms of residuals, the first method filled and the others as outlines.

    Args:
        residuals: of the same entries, by method.
        ax: where to draw.
        quantity: the label of the x axis.

    Raises:
        ValueError: no methods, or no residuals.
    """
    if not residuals or not all(len(each) for each in residuals.values()):
        raise ValueError(
            f"there are no residuals to draw: got {[*map(len, residuals.values())]} of {[*residuals]}"
        )
    ax = axes_or_new(ax)
    reach = (
        max(float(np.percentile(np.abs(each), HISTOGRAM_PERCENTILE)) for each in residuals.values()) or 1.0
    )
    low = 0.0 if all((each >= 0).all() for each in residuals.values()) else -reach
    edges = np.linspace(low, reach, HISTOGRAM_BINS + 1)
    legend = []
    for place, (name, each) in enumerate(residuals.items()):
        counts = np.histogram(np.clip(each, low, reach), edges)[0] / len(each)
        color = CYCLE[place % len(CYCLE)]
        legend.append(
            ax.stairs(
                counts,
                edges,
                fill=not place,
                color=color,
                alpha=0.55 if not place else 1,
                linewidth=1.4,
                label=name,
            )
        )
    ax.set_xlabel(quantity)
    ax.set_ylabel("share of the entries")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.set_xlim(low, reach)
    ax.set_ylim(bottom=0)
    finish(ax, "Residuals", legend)
    return ax


def interval_coverage(coverage: Sequence[tuple[float, float, float]], ax: Axes | None = None) -> Axes:
    """Measured against nominal coverage; on the line both agree.

    Args:
        coverage: nominal and measured coverage, each from 0 to 1, and half the width, of some intervals.
        ax: where to draw.

    Raises:
        ValueError: no intervals.
    """
    if not coverage:
        raise ValueError("there are no intervals to draw: got no coverage")
    ax = axes_or_new(ax)
    nominal, measured, _ = zip(*coverage, strict=True)
    low = max(0.0, min(*nominal, *measured) - 0.05)
    (same,) = ax.plot(
        [low, 1], [low, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="as it should be"
    )
    (points,) = ax.plot(nominal, measured, "o-", color=BLUE, markersize=5, linewidth=1.5, label="measured")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlim=(low, 1), ylim=(low, 1.01), xlabel="nominal coverage", ylabel="entries inside")
    finish(ax, "Interval coverage at entries held out", [points, same])
    return ax


def side_by_side(pictures: Mapping[str, Picture], ax: Axes | None = None) -> Axes:
    """Matrices as pictures in one row, on one scale of grey; missing entries stay clear.

    Args:
        pictures: by name; of one shape, NaN where an entry is missing.
        ax: where to draw.

    Raises:
        ValueError: no pictures, or of different shapes.
    """
    shapes = {picture.shape for picture in pictures.values()}
    if len(shapes) != 1:
        raise ValueError(f"pictures side by side need one shape; got {sorted(shapes) or 'none'}")
    ((height, width),) = shapes
    ax = axes_or_new(ax)
    low, high = (pick([pick(picture) for picture in pictures.values()]) for pick in (np.nanmin, np.nanmax))
    for place, (name, picture) in enumerate(pictures.items()):
        left = place * (1 + PICTURE_GAP) * width
        box = (left, left + width, height, 0)
        ax.imshow(
            np.ma.masked_invalid(picture), "gray", vmin=low, vmax=high, extent=box, interpolation="nearest"
        )
        ax.text(left, -0.02 * height, name, va="bottom", ha="left", parse_math=False)
    ax.set_xlim(0, len(pictures) * (1 + PICTURE_GAP) * width - PICTURE_GAP * width)
    ax.set_ylim(height, 0)
    ax.set_axis_off()
    return ax


def picture_height(pictures: Mapping[str, Picture], width: float) -> float:
    """The height of a figure of this width for `side_by_side`, both in inches."""
    rows, columns = next(iter(pictures.values())).shape
    widths = len(pictures) * (1 + PICTURE_GAP) - PICTURE_GAP  # width of the row, in widths of one picture
    return width / widths * rows / columns + 0.3


def save_side_by_side(pictures: Mapping[str, Picture], path: Path, width: float) -> Path:
    """Write `side_by_side` as a figure of this width in inches, in the format of the name's ending."""
    figure = Figure(figsize=(width, picture_height(pictures, width)), layout="constrained")
    side_by_side(pictures, figure.subplots())
    with atomic_write(path) as new:
        figure.savefig(new, dpi=150)
    return path
