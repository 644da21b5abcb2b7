"""The x axis that plots of layers share: kinds of layers side by side, each in the model's order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from corefold.report.layer_kinds import LayerKind, group_by_kind

_BLOCK_POINTS, _KIND_POINTS = 6.5, 7.2  # font sizes
_MAX_NAMED_KINDS = 24  # the names of more kinds do not fit


def arrange(names: Sequence[str]) -> tuple[list[LayerKind], list[NDArray[np.float64]]]:
    """The kinds of layers and, for each kind, the x of its members; neighbours stand 1 apart.

    Raises:
        ValueError: no names.
    """
    if not names:
        raise ValueError("there are no layers to draw: got an empty list of updates")
    kinds = group_by_kind(names)
    gap = 0.25 + 0.012 * len(names)
    places, start = [], 0.0
    for kind in kinds:
        places.append(start + np.arange(len(kind.members)))
        start += len(kind.members) + gap
    return kinds, places


def name_layers(ax: Axes, kinds: Sequence[LayerKind], places: Sequence[NDArray[np.float64]]) -> None:
    """Label the x axis of `ax` with as many block numbers as fit, and with the names of the kinds below them."""
    left, right = places[0][0] - 0.6, places[-1][-1] + 0.6
    ax.set_xlim(left, right)
    inches = ax.get_window_extent().width / ax.figure.dpi / (right - left)  # between neighbouring layers
    axis = ax.xaxis
    axis.remove_overlapping_locs = False
    blocks = [block for kind in kinds for block in kind.blocks]
    longest = max(map(len, blocks))
    every = math.ceil((0.62 * longest + 0.5) * _BLOCK_POINTS / 72 / inches)
    ticks = [
        (x, block)
        for kind, place in zip(kinds, places, strict=True)
        for x, block in list(zip(place, kind.blocks, strict=True))[:: _round_step(every)]
    ]
    axis.set_ticks([x for x, _ in ticks], [block for _, block in ticks], minor=True)
    ax.tick_params(axis="x", which="minor", length=0, pad=2, labelsize=_BLOCK_POINTS)
    ax.tick_params(axis="x", which="major", length=0, pad=13 if longest else 3)
    if len(kinds) > _MAX_NAMED_KINDS:
        axis.set_ticks([])
        ax.set_xlabel("layer, in the model's order")
        return
    _name_kinds(ax, kinds, places, inches)
    ax.set_xlabel("block, by kind of layer" if longest else "layer")


def _name_kinds(
    ax: Axes, kinds: Sequence[LayerKind], places: Sequence[NDArray[np.float64]], inches: float
) -> None:
    """Name the kinds on one line; if that does not fit, with a line for each part of a name; else tilted."""
    centers = [place.mean() for place in places]
    plain = [kind.label for kind in kinds]
    parts = [label.replace(".", ".\n").replace(" ", "\n") for label in plain]
    room = np.diff(centers) * inches * 72 / (0.6 * _KIND_POINTS) - 1  # characters between neighbours' centers
    for labels in (plain, parts):
        widths = np.array([max(map(len, label.split("\n"))) for label in labels])
        if ((widths[1:] + widths[:-1]) / 2 <= room).all():
            ax.xaxis.set_ticks(centers, labels, fontsize=_KIND_POINTS, parse_math=False, linespacing=1.1)
            return
    tilt = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    ax.xaxis.set_ticks(centers, plain, fontsize=_KIND_POINTS, parse_math=False, **tilt)


def _round_step(least: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    power = 10 ** math.floor(math.log10(max(least, 1)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)
