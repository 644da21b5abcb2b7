"""What pictures of benchmarks share."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from corefold.report.plots import GREY


def plain(panel: Axes, grid: Any) -> None:
    """No frame at the top and on the right, and a thin grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.6)
    panel.set_axisbelow(True)


def head(panel: Axes, title: str, keys: Any, columns: int) -> None:
    """A title over the whole figure and a legend below it."""
    figure: Any = panel.figure
    figure.suptitle(title, x=0.005, ha="left", fontsize=9.5, fontweight="bold")
    figure.legend(handles=keys, loc="outside lower left", ncols=columns, frameon=False)
