"""Plots `(data, ax=None) -> Axes` of a training run. Without `ax` each draws on a new figure; none needs pyplot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from corefold.report.layer_axis import arrange, name_layers
from corefold.report.updates import RANK_RTOL, LayerUpdate

# Okabe and Ito's colour-blind-safe hues, toned so that all stand out alike, about 4:1, on white and black paper.
BLUE, VERMILION, GREEN, PURPLE, GREY = "#0b84c9", "#d05c00", "#0a9068", "#bb6299", "#7d858d"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE)
COLORMAP = "viridis"
DASHES = (0, (4, 3))

# Endings of entries that Trainer logs beside the metrics.
_TIMINGS = (
    "runtime",
    "per_second",
    "preparation_time",
)
_RANK_KEY = f"numerical rank: below the line, values are under {RANK_RTOL:.0%} of the layer's largest"
_MAX_BOLD_LAYERS = 60  # with more layers, lines and dots get finer
_MAX_DECADES = 4.0  # range of singular values that the colours of a spectrum tell apart


def learning_curves(
    history: Sequence[Mapping[str, Any]], ax: Axes | None = None, metric: str | None = None
) -> Axes:
    """Training and validation loss on the left axis, the main validation metric on the right.

    Where a step was logged twice, its first record counts, since a later one comes from another evaluation of the
    finished model. A value that is not finite leaves a gap.

    Args:
        history: `log_history` of a transformers Trainer, dicts with "step" and "loss" or "eval_*".
        ax: where to draw; the metric goes to its twin, or to `ax` itself where there is no loss.
        metric: the main metric, such as "accuracy" or "eval_accuracy". Default: the first `eval_*` entry that is
            neither a loss nor a timing.

    Raises:
        ValueError: no record with a loss or a validation metric, or none with `metric`.
    """
    metric = _main_metric(history, metric)
    curves = (("training loss", "loss", "-"), ("validation loss", "eval_loss", "--"))
    losses = [
        (label, _series(history, key), style) for label, key, style in curves if _series(history, key)[0]
    ]
    if not losses and metric is None:
        raise ValueError(f"no loss and no eval_* metric to draw among the {len(history)} records of history")
    ax = axes_or_new(ax)
    lines = [_curve(ax, points, label=label, color=BLUE, linestyle=style) for label, points, style in losses]
    if losses:
        ax.set_ylabel("loss", color=BLUE)
    if metric is not None:
        side = ax.twinx() if losses else ax
        name = metric.removeprefix("eval_").replace("_", " ")
        points = _series(history, metric)
        lines.append(_curve(side, points, label=f"validation {name}", color=VERMILION))
        side.set_ylabel(name, color=VERMILION, parse_math=False)
        if side is not ax:
            side.spines[["top", "left"]].set_visible(False)
    finish(ax, "Learning curves", lines)
    ax.set_xlabel("training step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def update_spectra(updates: Sequence[LayerUpdate], ax: Axes | None = None) -> Axes:
    """Heat map of singular values: a column a layer, grouped by kind, the largest value on top.

    Colours are absolute and logarithmic, over at most four decades, and a line marks each layer's numerical rank. So
    the picture shows both how far each layer moved and along how many directions.

    Args:
        updates: one for each layer, in the model's order; their widths may differ.
        ax: where to draw; the colour bar takes part of its room.

    Raises:
        ValueError: no updates.
    """
    kinds, places = arrange([update.name for update in updates])
    ax = axes_or_new(ax)
    spectra = _spectra(updates)
    norm, bold = _log_norm(spectra), len(updates) <= _MAX_BOLD_LAYERS
    for kind, place in zip(kinds, places, strict=True):
        members = list(kind.members)
        edges = np.append(place - 0.5, place[-1] + 0.5)
        box = (edges[0], edges[-1], len(spectra) + 0.5, 0.5)
        columns = spectra[:, members]
        ax.imshow(columns, COLORMAP, norm, extent=box, aspect="auto", interpolation="none")
        ranks = np.array([updates[member].numerical_rank for member in members])
        line = ax.stairs(ranks + 0.5, edges, baseline=None, color="white", linewidth=1.4 if bold else 0.9)
        line.set_path_effects([_outline(3 if bold else 2)])
    ax.set_ylim(len(spectra) + 0.5, 0.5)
    ax.set_ylabel("index (1 = largest)")
    integer_ticks(ax.yaxis)
    colors = ScalarMappable(norm, COLORMAP)
    ax.figure.colorbar(colors, ax=ax, extend="min", label="singular value of the update", pad=0.02)
    rank = Line2D([], [], color="white", linewidth=1.4, label=_RANK_KEY, path_effects=[_outline(3)])
    finish(ax, "Spectrum of each layer's update", [rank], grid=None)
    name_layers(ax, kinds, places)
    return ax


def numerical_ranks(updates: Sequence[LayerUpdate], ax: Axes | None = None) -> Axes:
    """A stem a layer, grouped by kind: how many singular values exceed 1 % of the layer's largest.

    Args:
        updates: one for each layer, in the model's order; their widths may differ.
        ax: where to draw.

    Raises:
        ValueError: no updates.
    """
    kinds, places = arrange([update.name for update in updates])
    ax = axes_or_new(ax)
    size = 28 if len(updates) <= _MAX_BOLD_LAYERS else 9
    for number, (kind, place) in enumerate(zip(kinds, places, strict=True)):
        color = CYCLE[number % len(CYCLE)]
        ranks = [updates[member].numerical_rank for member in kind.members]
        ax.vlines(place, 0, ranks, color=color, linewidth=1.2, alpha=0.6)
        ax.scatter(place, ranks, s=size, color=color, label=kind.label, zorder=3)
    widths = {update.singular_values.numel() for update in updates}
    ax.set_ylim(-0.04 * max(widths), 1.06 * max(widths))
    ax.set_ylabel("numerical rank")
    integer_ticks(ax.yaxis)
    width = ax.axhline(max(widths), color=GREY, linewidth=1, linestyle=DASHES, zorder=1)
    width.set_label("width of the adapter" if len(widths) == 1 else "largest width of an adapter")
    finish(ax, f"Singular values above {RANK_RTOL:.0%} of the layer's largest", [width])
    name_layers(ax, kinds, places)
    return ax


def score_comparison(
    scores: Mapping[str, Sequence[float]], ax: Axes | None = None, metric: str = "accuracy"
) -> Axes:
    """A row a method: a point for each seed, the mean, and one standard deviation to each side.

    The standard deviation is that of a sample (divided by n - 1); a method with one seed has none.

    Args:
        scores: for each method, its score with each seed.
        ax: where to draw; the first method comes on top.
        metric: name of the score; it labels the x axis.

    Raises:
        ValueError: no methods, or one without scores or with scores that are not finite.
    """
    _check_scores(scores)
    ax = axes_or_new(ax)
    rows = range(len(scores))
    decimals = 3 if max(abs(score) for values in scores.values() for score in values) < 10 else 1
    for row, values in zip(rows, scores.values(), strict=True):
        seeds = ax.scatter(values, [row + 0.16] * len(values), s=26, color=BLUE, alpha=0.75, linewidths=0)
        average, spread = mean(values), stdev(values) if len(values) > 1 else 0.0
        bar = ax.errorbar(average, row - 0.12, xerr=spread or None, fmt="D", color=VERMILION, markersize=5)
        text = f"{average:.{decimals}f}" + (f" ± {spread:.{decimals}f}" if len(values) > 1 else "")
        ax.annotate(text, (1, row), (6, 0), ("axes fraction", "data"), "offset points", va="center")
    ax.set_yticks(rows, list(scores), parse_math=False)
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    seeds.set_label("one seed")
    bar.set_label("mean ± standard deviation")
    ax.set_xlabel(metric, parse_math=False)
    finish(ax, f"{metric[:1].upper()}{metric[1:]} over seeds", [seeds, bar], grid="x")
    return ax


def _check_scores(scores: Mapping[str, Sequence[float]]) -> None:
    if not scores:
        raise ValueError("there are no methods to compare: got an empty dict of scores")
    for method, values in scores.items():
        if not len(values) or not all(map(math.isfinite, values)):
            raise ValueError(f"a method needs finite scores, one a seed; got {list(values)} for {method!r}")


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes to draw on: `ax`, or those of a new figure."""
    return Figure(figsize=(7.0, 3.6), layout="constrained").subplots() if ax is None else ax


def finish(ax: Axes, title: str, keys: Sequence[Any], grid: Literal["x", "y"] | None = "y") -> None:
    """Give `ax` the look that all plots share. The legend stands above the data, so that it hides none of it."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
    ax.set_title(title, loc="left", pad=24 if keys else 8, parse_math=False)
    if keys:
        legend = ax.legend(
            handles=keys,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(keys),
            frameon=False,
            borderaxespad=0.5,
            handlelength=2.4,
            borderpad=0,
        )
        without_math(legend)


def without_math(legend: Legend) -> None:
    """Show the legend's names as they stand: a dollar sign in a name begins no formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def integer_ticks(axis: Axis) -> None:
    """Ticks at whole numbers, even where only one fits."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _outline(linewidth: float) -> withStroke:
    """A black edge, without which a white line is lost on the brightest colours."""
    return withStroke(linewidth=linewidth, foreground="black")


def _main_metric(history: Sequence[Mapping[str, Any]], metric: str | None) -> str | None:
    keys = dict.fromkeys(key for record in history for key in record if key.startswith("eval_"))
    if metric is None:
        return next((key for key in keys if not key.endswith(("_loss", *_TIMINGS))), None)
    key = "eval_" + metric.removeprefix("eval_")
    if key not in keys:
        raise ValueError(f"history holds no {key!r}; its validation entries: {', '.join(keys) or 'none'}")
    return key


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of `key`, by the first record of each step; NaN for a value that is not finite."""
    points: dict[float, float] = {}
    for record in history:
        if key in record and "step" in record:
            points.setdefault(record["step"], float(record[key]))
    return list(points), [value if math.isfinite(value) else math.nan for value in points.values()]


def _curve(ax: Axes, points: tuple[list[float], list[float]], **style: Any) -> Line2D:
    marker = "o" if len(points[0]) <= 40 else ""
    linewidth = 1.5 if len(points[0]) <= 200 else 1.0
    return ax.plot(*points, marker=marker, markersize=3.5, linewidth=linewidth, **style)[0]


def _spectra(updates: Sequence[LayerUpdate]) -> np.ma.MaskedArray:
    """Singular values as columns, (largest width, layers), masked below the last value of a narrower layer."""
    width = max(update.singular_values.numel() for update in updates)
    columns = np.full((width, len(updates)), np.nan)
    for column, update in enumerate(updates):
        values = update.singular_values.detach().double().cpu().numpy()
        columns[: len(values), column] = values
    return np.ma.masked_invalid(columns)


def _log_norm(spectra: np.ma.MaskedArray) -> LogNorm:
    """Colours from the largest value to the smallest, over four decades at most; zeros get the last colour."""
    positive = spectra[spectra > 0].compressed()
    if not positive.size:
        return LogNorm(10.0**-_MAX_DECADES, 1.0, clip=True)
    largest = positive.max()
    return LogNorm(max(min(positive.min(), largest / 10), largest * 10.0**-_MAX_DECADES), largest, clip=True)
