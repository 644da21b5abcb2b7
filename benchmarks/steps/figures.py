"""The pictures and tables of training steps, from their result files; `benchmarks.figures` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.shared.blocks import markdown_table
from benchmarks.shared.drawing import head, plain, split
from benchmarks.shared.results import Cell
from corefold.report.plots import BLUE, CYCLE, GREEN, GREY, VERMILION

MODELS = {"minilm": "MiniLM", "mpnet": "MPNet-base", "smollm2": "SmolLM2-135M"}
SCALED = {"lora": VERMILION, "deep_frozen": BLUE, "deep_trained": GREEN}
OURS = ("deep_narrow", "deep_frozen", "deep_trained")
AXES = {"tokens": "tokens in a batch", "width": "width or rank", "hidden": "hidden size"}
MARKERS = "oDs^"  # one for each shape of batch
HOLLOW: dict[str, Any] = {"marker": "o", "mfc": "white", "mew": 1.4}


def steps(results: dict[str, Any], ax: Axes) -> None:
    """A panel a model, a row a method, a dot a shape: step time over the floor, with quartiles."""

    def over(cell: Cell, name: str) -> tuple[float, float, float]:
        figure = cell["methods"][name]["over_floor"]
        return figure["q1"], figure["median"], figure["q3"]

    title = "Time of a training step over the frozen model's (median and quartiles of paired rounds)"
    _rows([*results["cells"].values()], ax, over, title, left_out=("floor",))


def memory(results: dict[str, Any], ax: Axes) -> None:
    """The same for peak memory over LoRA's, which hardly varies, so there are no quartiles."""

    def over(cell: Cell, name: str) -> tuple[float, float, float]:
        return (cell["methods"][name]["peak_bytes"] / cell["methods"]["lora"]["peak_bytes"],) * 3

    _rows(
        [*results["cells"].values()],
        ax,
        over,
        "Peak memory of a training step above the weights, over LoRA's",
    )


def _rows(
    cells: Sequence[Cell],
    ax: Axes,
    value: Callable[[Cell, str], tuple[float, float, float]],
    title: str,
    left_out: Sequence[str] = (),
) -> None:
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    shapes = sorted({(cell["rows"], cell["tokens"]) for cell in cells}, key=lambda shape: shape[1])
    labels = {name: label for name, label in _methods(cells).items() if name not in left_out}
    middle = {name: _median([value(c, name)[1] for c in cells if name in c["methods"]]) for name in labels}
    order = sorted(labels, key=lambda name: middle[name])
    panels = split(ax, 1, len(models), sharex=True, sharey=True)
    for panel, model in zip(panels, models, strict=True):
        _dots(panel, [cell for cell in cells if cell["model"] == model], order, shapes, value)
        panel.set_title(MODELS.get(model, model), loc="left")
    panels[0].set_yticks(range(len(order)), [labels[name] for name in order])
    panels[0].set_ylim(len(order) - 0.45, -0.55)
    for tick, name in zip(panels[0].get_yticklabels(), order, strict=True):
        tick.set_fontweight("bold" if name in OURS else "normal")
    keys = [_key(CYCLE[i], f"{rows} × {tokens} tokens") for i, (rows, tokens) in enumerate(shapes)]
    head(panels[0], title, keys, len(keys))


def _dots(
    panel: Axes, cells: Sequence[Cell], order: Sequence[str], shapes: Sequence[Any], value: Any
) -> None:
    for cell in cells:
        place = shapes.index((cell["rows"], cell["tokens"]))
        dots = [(row, value(cell, name)) for row, name in enumerate(order) if name in cell["methods"]]
        rows = [row + 0.22 * (place - (len(shapes) - 1) / 2) for row, _ in dots]
        low, mid, high = zip(*(values for _, values in dots), strict=True)
        panel.hlines(rows, low, high, color=CYCLE[place], linewidth=1.4, alpha=0.6)
        panel.scatter(mid, rows, s=20, color=CYCLE[place], marker=MARKERS[place], linewidths=0, zorder=3)
    for row, name in enumerate(order):
        if name in OURS:
            panel.axhspan(row - 0.5, row + 0.5, color=BLUE, alpha=0.08, linewidth=0)
    panel.axvline(1, color=GREY, linewidth=1, zorder=1)
    plain(panel, "x")
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))


def scales(results: dict[str, Any], ax: Axes) -> None:
    """A panel a sweep: time over the floor against tokens, width, hidden size; bands are quartiles."""
    cells = {sweep: _of_sweep(results, sweep) for sweep in AXES}
    cells = {sweep: found for sweep, found in cells.items() if found}
    panels = split(ax, 1, len(cells), sharey=True)
    for panel, (sweep, found) in zip(panels, cells.items(), strict=True):
        _lines(panel, found, sweep)
        others = ", ".join(f"{key} {size:,}" for key, size in results["fixed"].items() if key != sweep)
        panel.set_title(others, loc="left", fontweight="normal", fontsize=8.5)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    labels = _methods(results["cells"].values())
    hollow = Line2D([], [], color=GREY, linestyle="", label="update folded into the weight", **HOLLOW)
    keys = [*(_key(color, labels[name]) for name, color in SCALED.items()), hollow]
    title = (
        f"Time of a step of {results['layers']} linear layers over the frozen layers' (median and quartiles)"
    )
    head(panels[0], title, keys, len(keys))


def _lines(panel: Axes, cells: Sequence[Cell], sweep: str) -> None:
    """One sweep: a line a method, hollow markers where its update was folded into the weight."""
    sizes = [cell[sweep] for cell in cells]
    for name, color in SCALED.items():
        figures = [cell["methods"][name] for cell in cells]
        low, mid, high = ([one["over_floor"][key] for one in figures] for key in ("q1", "median", "q3"))
        panel.fill_between(sizes, low, high, color=color, alpha=0.18, linewidth=0)
        panel.plot(sizes, mid, color=color, linewidth=1.5, marker="o", markersize=3.5)
        folded = [one.get("branch", {}).get("forward") == "fold" for one in figures]
        points = [(size, value) for size, value, fold in zip(sizes, mid, folded, strict=True) if fold]
        panel.plot([x for x, _ in points], [y for _, y in points], linestyle="", color=color, ms=5, **HOLLOW)
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45, ha="right", rotation_mode="anchor")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.axhline(1, color=GREY, linewidth=1, zorder=1)
    panel.set_xlabel(AXES[sweep])
    plain(panel, "y")


def figure_height(step: dict[str, Any]) -> float:
    """Inches of a picture that has a row a method."""
    return 1.05 + 0.26 * len(_methods(step["cells"].values()))


def _of_sweep(results: dict[str, Any], sweep: str) -> list[Cell]:
    rest = {key: size for key, size in results["fixed"].items() if key != sweep}
    cells = [
        cell for cell in results["cells"].values() if all(cell[key] == size for key, size in rest.items())
    ]
    return sorted(cells, key=lambda cell: cell[sweep])


def _key(color: str, label: str) -> Line2D:
    marker = MARKERS[CYCLE.index(color)] if "tokens" in label else "o"
    line = "" if "tokens" in label else "-"
    return Line2D([], [], color=color, marker=marker, markersize=4.5, linestyle=line, label=label)


def with_later_methods(step: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The cells with methods that were measured later, each beside a floor of its own; earlier figures stay."""
    cells = {
        name: {**cell, "methods": {**later["cells"].get(name, {}).get("methods", {}), **cell["methods"]}}
        for name, cell in step["cells"].items()
    }
    return {**step, "cells": cells}


def _methods(cells: Iterable[Cell]) -> dict[str, str]:
    return {name: figure["label"] for cell in cells for name, figure in cell["methods"].items()}


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def step_table(step: dict[str, Any]) -> str:
    """A row a model and shape."""
    header = [
        "model",
        "rows × tokens",
        "frozen model",
        "LoRA",
        "square core",
        "its bases trained",
        "LoRA over Deep LoRA",
        "LoRA over square core",
        "memory: Deep LoRA over LoRA",
        "memory: square core over LoRA",
    ]
    order = [*MODELS, *dict.fromkeys(cell["model"] for cell in step["cells"].values())]
    cells = sorted(step["cells"].values(), key=lambda cell: (order.index(cell["model"]), cell["tokens"]))
    return markdown_table(header, "l" + "r" * 9, map(_step_row, cells))


def _step_row(cell: Cell) -> list[str]:
    methods = cell["methods"]
    narrow, frozen = methods.get("deep_narrow"), methods["deep_frozen"]
    gain, lora_bytes = frozen["lora_over"], methods["lora"]["peak_bytes"]
    compared = [methods.get(name) for name in ("lora", "deep_frozen", "deep_trained")]
    return [
        MODELS.get(cell["model"], cell["model"]),
        f"{cell['rows']} × {cell['tokens']}",
        f"{methods['floor']['median'] * 1e3:,.0f} ms",
        *(f"{figure['over_floor']['median']:.2f}×" if figure else "" for figure in compared),
        f"{narrow['lora_over']['median']:.2f}" if narrow else "",
        f"{gain['median']:.2f} ({gain['q1']:.2f} to {gain['q3']:.2f})",
        f"{narrow['peak_bytes'] / lora_bytes:.2f}" if narrow else "",
        f"{frozen['peak_bytes'] / lora_bytes:.2f}",
    ]


def target_table(step: dict[str, Any]) -> str:
    """A row a target: in how many cells it is met, and the range of its value."""
    rows = []
    for name, text in step["targets"].items():
        verdicts = [cell["targets"][name] for cell in step["cells"].values() if name in cell["targets"]]
        values = [verdict["value"] for verdict in verdicts] or [float("nan")]
        met = sum(verdict["met"] for verdict in verdicts)
        rows.append([text, f"{met} of {len(verdicts)}", f"{min(values):.2f}", f"{max(values):.2f}"])
    return markdown_table(["target", "met in", "from", "to"], "lrrr", rows)
