"""Pictures of benchmarks and claims: files of their own, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from corefold.report.plots import GREY
from corefold.report.svg import figure_svg


def picture(fill: Callable[[Axes], object], width: float, height: float) -> str:
    """An SVG of that size in inches that brings its own ink and ground, since no page around it does."""
    svg = figure_svg(fill, width=width, height=height)
    return svg.replace("<svg ", '<svg style="background: white; color: #222" ', 1)


def split(ax: Axes, rows: int, columns: int, **options: Any) -> list[Axes]:
    """Panels in the place of one."""
    figure = ax.figure
    assert isinstance(figure, Figure)  # noqa: S101 - for the type checker
    ax.remove()
    return list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def plain(panel: Axes, grid: Any = "both") -> None:
    """Draw no frame at the top and on the right, and a thin grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.6)
    panel.set_axisbelow(True)


def head(panel: Axes, title: str, keys: Any, columns: int) -> None:
    """A title over the whole figure and a legend below it."""
    figure: Any = panel.figure
    figure.suptitle(title, x=0.005, ha="left", fontsize=9.5, fontweight="bold")
    figure.legend(handles=keys, loc="outside lower left", ncols=columns, frameon=False)


def draw_panels(
    path: Path,
    rows: int,
    columns: int,
    fill: Callable[[list[Axes]], object],
    *,
    width: float = 4.6,
    height: float = 3.2,
) -> None:
    """Write a figure of several panels, each of that size in inches and with a legend where it has labels."""

    def panels(ax: Axes) -> None:
        axes = split(ax, rows, columns)
        for one in axes:
            plain(one)
        fill(axes)
        for one in axes:
            if one.get_legend_handles_labels()[0]:
                one.legend(frameon=False, fontsize=7)

    path.write_text(picture(panels, width * columns, height * rows) + "\n", encoding="utf-8")
