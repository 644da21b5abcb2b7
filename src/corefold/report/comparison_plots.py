"""Plots `(data, ax=None) -> Axes` of methods compared over numbers of rows, or over ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from corefold.report.plots import CYCLE, GREY, axes_or_new, finish

COLORS = (*CYCLE, GREY)
STYLES = (("-", "o"), ("--", "s"), (":", "^"))
APART = 0.03  # of an octave, between methods at one place, so that their bars do not hide each other


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
    """A line a method: the mean score, and one standard deviation to each side, on an axis of octaves.

    Args:
        lines: for each method its points; the legend keeps the order. One without points is left out, and the others
            look as they would beside it.
        ax: where to draw.
        metric: name of the score.
        against: what `x` counts.

    Raises:
        ValueError: no points, or a place or mean that is not finite.
    """
    points = [point for each in lines.values() for point in each]
    if not points or not all(math.isfinite(value) for point in points for value in point[:2]):
        raise ValueError(f"a comparison needs finite scores; got {dict(lines)}")
    ax = axes_or_new(ax)
    for number, (method, each) in enumerate(lines.items()):
        if not each:
            continue
        style, marker = STYLES[number // len(COLORS) % len(STYLES)]
        shift = 2.0 ** (APART * (number - (len(lines) - 1) / 2))
        ordered = sorted(each)
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
    for text in legend.get_texts():
        text.set_parse_math(False)
    return ax
