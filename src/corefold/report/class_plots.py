"""The plot `(data, ax=None) -> Axes` of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from corefold.report.plots import COLORMAP, axes_or_new, finish

MOST_NAMED_CLASSES = 40  # more names than that would overlap
MOST_COUNTED_CLASSES = 20


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Heat map of the rows of each true class by predicted class, as shares of the true class, with the counts.

    Args:
        counts: a row for each true class.
        classes: their names.
        ax: where to draw; the colour bar takes part of its room.

    Raises:
        ValueError: counts that are no square, or not one row for each class.
    """
    matrix = np.asarray(counts, dtype=float)
    if matrix.shape != (len(classes), len(classes)) or not len(classes):
        raise ValueError(
            f"a confusion matrix needs a row and a column for each of {len(classes)} classes; got {matrix.shape}"
        )
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    ax = axes_or_new(ax)
    image = ax.imshow(shares, COLORMAP, vmin=0, vmax=1, interpolation="none")
    if len(classes) <= MOST_NAMED_CLASSES:
        turned = 90 if len(classes) > 6 or max(map(len, classes)) > 8 else 0
        ax.set_xticks(range(len(classes)), classes, rotation=turned, parse_math=False)
        ax.set_yticks(range(len(classes)), classes, parse_math=False)
    if len(classes) <= MOST_COUNTED_CLASSES:
        for (row, column), share in np.ndenumerate(shares):
            color = "black" if share > 0.6 else "white"
            ax.text(column, row, f"{int(matrix[row, column]):,}", ha="center", va="center", color=color)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.figure.colorbar(image, ax=ax, label="share of the true class", pad=0.02)
    finish(ax, "Rows by true and predicted class", [], grid=None)
    return ax
