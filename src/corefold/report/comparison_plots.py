"""Plots `(data, ax=None) -> Axes` of methods compared over numbers of rows, or over ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from corefold.report.plots import CYCLE, GREY, axes_or_new, finish, without_math

COLORS = (*CYCLE, GREY)
LINES_AND_MARKERS = (("-", "o"), ("--", "s"), (":", "^"))
METHOD_OFFSET_OCTAVES = 0.03  # keeps the bars of methods at one place from hiding each other


class Point(NamedTuple):
    """A mean and its spread at a number of rows, or at a rank."""

    x: float
    mean: float
    spread: float | None = None


def score_lines(
    lines: Mapping[str, Sequence[Point]],
    ax: Axes | None = None,
    *,
    metric: str = "accuracy",
    against: str = "training rows",
) -> Axes:
    """A line a method: the mean score and one standard deviation to each side, over a logarithmic axis of base 2.

    Args:
        lines: for each method its points; the legend keeps the order. A method without points is left out, and the
            others keep the colours that they have beside it.
        ax: where to draw.
        metric: name of the score.
        against: the quantity on the x axis.

    Raises:
        ValueError: no points, or an x or mean that is not finite.
    """
    points = [point for line in lines.values() for point in line]
    if not points or not all(math.isfinite(value) for point in points for value in point[:2]):
        raise ValueError(f"a comparison needs finite scores; got {dict(lines)}")
    ax = axes_or_new(ax)
    for number, (method, line) in enumerate(lines.items()):
        if not line:
            continue
        style, marker = LINES_AND_MARKERS[number // len(COLORS) % len(LINES_AND_MARKERS)]
        shift = 2.0 ** (METHOD_OFFSET_OCTAVES * (number - (len(lines) - 1) / 2))
        ordered = sorted(line)
        ax.errorbar(
            [point.x * shift for point in ordered],
            [point.mean for point in ordered],
            yerr=[point.spread or 0.0 for point in ordered],
            color=COLORS[number % len(COLORS)],
            linestyle=style,
            marker=marker,
            markersize=4,
            linewidth=1.5,
            elinewidth=0.8,
            label=method,
        )
    places = sorted({point.x for point in points})
    ax.set_xscale("log", base=2)
    ax.set_xticks(places, [f"{place:,g}" for place in places])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    if len(places) == 1:
        ax.set_xlim(places[0] / 2, places[0] * 2)
    ax.set_xlabel(against)
    ax.set_ylabel(metric, parse_math=False)
    finish(ax, f"{metric[:1].upper()}{metric[1:]} against {against}: mean ± standard deviation", [])
    legend = ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    without_math(legend)
    return ax
