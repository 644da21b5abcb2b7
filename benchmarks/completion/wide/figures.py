"""The picture of `summary`: our error over the best peer's and over the best simple answer's, a row a table."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.completion.wide.summary import LEVEL, ratios
from benchmarks.shared.drawing import head, plain
from benchmarks.shared.results import Cell
from corefold.report.plots import BLUE, GREEN, GREY, VERMILION

LOWEST, HIGHEST = 0.3, 3.0  # Ratios beyond these edges are drawn on them.
TICKS = (0.3, 0.5, 0.7, 1, 1.4, 2, 3)


def ratio_dots(cells: Iterable[Cell], ax: Axes) -> None:
    """Right of 1 the other is better."""
    tables = sorted(ratios(cells), key=lambda table: (table.peer or table.null or ("", 1.0))[1])
    for row, table in enumerate(tables):
        if table.null is not None:
            ax.scatter(_in_picture(table.null[1]), row, s=22, facecolors="none", edgecolors=GREY, zorder=2)
        if table.peer is not None:
            ratio = table.peer[1]
            color = GREEN if ratio < 1 - LEVEL else BLUE if ratio <= 1 + LEVEL else VERMILION
            ax.scatter(_in_picture(ratio), row, s=30, color=color, linewidths=0, zorder=3)
    ax.set_xscale("log")
    ax.set_xlim(LOWEST * 0.95, HIGHEST * 1.05)
    ax.set_xticks(TICKS)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×{' or more' if x == HIGHEST else ''}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axvline(1, color=GREY, linewidth=1, zorder=1)
    ax.set_yticks(range(len(tables)), [_label(table.name, table.peer) for table in tables])
    ax.set_ylim(-0.6, len(tables) - 0.4)
    ax.tick_params(axis="y", length=0)
    plain(ax, "both")
    keys = [
        Line2D([], [], color=color, marker="o", linestyle="", label=label)
        for color, label in ((GREEN, "ahead of the best peer"), (BLUE, "level"), (VERMILION, "behind it"))
    ]
    keys.append(
        Line2D(
            [],
            [],
            color=GREY,
            marker="o",
            markerfacecolor="none",
            linestyle="",
            label="over the best null model",
        )
    )
    head(ax, "Our error over the best peer's (named) at hidden entries, medians over draws", keys, 4)


def _in_picture(ratio: float) -> float:
    return min(max(ratio, LOWEST), HIGHEST)


def _label(name: str, peer: tuple[str, float] | None) -> str:
    return f"{name} ({peer[0]})" if peer else name
