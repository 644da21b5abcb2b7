"""Draw the benchmarks' results and fill the README's tables, from the JSON files alone: python benchmarks/figures.py

Pictures go to docs/images: step.svg, memory.svg, scaling.svg, completion.svg; the same JSON gives the same bytes. In
README.md a block `<!-- figure: step -->` ... `<!-- end -->` gets the picture of that name, `<!-- table: step -->` ...
`<!-- end -->` the table of steps, `<!-- table: targets -->` how many cells meet each target,
`<!-- table: completion -->` errors of matrix completion, and `<!-- table: completion_targets -->` its targets.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from completion_figures import completion_dots, completion_table, errors
from completion_targets import completion_target_table
from drawing import head, plain
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from corefold.report.plots import BLUE, CYCLE, GREEN, GREY, VERMILION
from corefold.report.svg import figure_svg

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- (figure|table): (\w+) -->\n(?:.*?)<!-- end -->", re.DOTALL)
MODELS = {"minilm": "MiniLM", "mpnet": "MPNet-base", "smollm2": "SmolLM2-135M"}
SCALED = {"lora": VERMILION, "deep_frozen": BLUE, "deep_trained": GREEN}
OURS = ("deep_narrow", "deep_frozen", "deep_trained")
AXES = {"tokens": "tokens in a batch", "width": "width or rank", "hidden": "hidden size"}
ALTERNATIVE = {
    "step": "Time of a training step over the frozen model's, for each method, model and shape of batch",
    "memory": "Peak memory of a training step over LoRA's, for each method, model and shape of batch",
    "scaling": "Time of a step over the frozen floor's as the number of tokens, the width or the hidden size varies",
    "completion": "Error at entries held out over the best peer's, for each method and set of data",
}
Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    given = parser.parse_args()
    step, scaling, completion = (
        _read(given.results / f"{name}.json") for name in ("step", "scaling", "completion")
    )
    narrow = _read(given.results / "step_narrow.json")
    pictures = {}
    if step:
        _add(step["cells"], narrow["cells"] if narrow else [])
        height = 1.05 + 0.26 * len(_methods(step["cells"]))
        pictures["step"] = figure_svg(lambda ax: steps(step["cells"], ax), width=9, height=height)
        pictures["memory"] = figure_svg(lambda ax: memory(step["cells"], ax), width=9, height=height)
    if scaling:
        pictures["scaling"] = figure_svg(lambda ax: scales(scaling, ax), width=9, height=3.1)
    if completion and errors(completion):
        pictures["completion"] = figure_svg(lambda ax: completion_dots(completion, ax), width=9, height=3.6)
    given.images.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        # On its own, a picture has no page to take its ink and ground from.
        picture = picture.replace("<svg ", '<svg style="background: white; color: #222" ', 1)
        (given.images / f"{name}.svg").write_text(picture, encoding="utf-8")
    if given.readme.exists():
        text = given.readme.read_text(encoding="utf-8")
        given.readme.write_text(fill(text, step, completion), encoding="utf-8")


def fill(text: str, step: dict[str, Any] | None, completion: dict[str, Any] | None = None) -> str:
    """The README with its marked blocks written anew; without results they stay."""
    tables = {
        "step": (step_table, step),
        "targets": (target_table, step),
        "completion": (completion_table, completion),
        "completion_targets": (completion_target_table, completion),
    }

    def filled(block: re.Match[str]) -> str:
        kind, name = block[1], block[2]
        if kind == "figure":
            content = f"![{ALTERNATIVE[name]}](docs/images/{name}.svg)"
        else:
            write, results = tables[name]
            if results is None:
                return block[0]
            content = write(results)
        return f"<!-- {kind}: {name} -->\n{content}\n<!-- end -->"

    return BLOCK.sub(filled, text)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def steps(cells: Sequence[Cell], ax: Axes) -> None:
    """A panel a model, a row a method, a dot a shape: step time over the floor, with quartiles."""

    def over(cell: Cell, name: str) -> tuple[float, float, float]:
        found = cell["methods"][name]["over_floor"]
        return found["q1"], found["median"], found["q3"]

    _rows(
        cells,
        ax,
        over,
        "Time of a training step over the frozen model's (median and quartiles of paired rounds)",
        leave=("floor",),
    )


def memory(cells: Sequence[Cell], ax: Axes) -> None:
    """The same for peak memory over LoRA's; it hardly varies, so there are no whiskers."""

    def over(cell: Cell, name: str) -> tuple[float, float, float]:
        return (cell["methods"][name]["peak_bytes"] / cell["methods"]["lora"]["peak_bytes"],) * 3

    _rows(cells, ax, over, "Peak memory of a training step above the weights, over LoRA's")


def _rows(
    cells: Sequence[Cell],
    ax: Axes,
    value: Callable[[Cell, str], tuple[float, float, float]],
    title: str,
    leave: Sequence[str] = (),
) -> None:
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    shapes = sorted({(cell["rows"], cell["tokens"]) for cell in cells}, key=lambda shape: shape[1])
    labels = {name: label for name, label in _methods(cells).items() if name not in leave}
    middle = {name: _median([value(c, name)[1] for c in cells if name in c["methods"]]) for name in labels}
    order = sorted(labels, key=lambda name: middle[name])
    panels = _panels(ax, len(models), sharex=True, sharey=True)
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
        there = [(row, value(cell, name)) for row, name in enumerate(order) if name in cell["methods"]]
        rows = [row + 0.22 * (place - (len(shapes) - 1) / 2) for row, _ in there]
        low, mid, high = zip(*(found for _, found in there), strict=True)
        panel.hlines(rows, low, high, color=CYCLE[place], linewidth=1.4, alpha=0.6)
        panel.scatter(mid, rows, s=20, color=CYCLE[place], marker="oDs^"[place], linewidths=0, zorder=3)
    for row, name in enumerate(order):
        if name in OURS:
            panel.axhspan(row - 0.5, row + 0.5, color=BLUE, alpha=0.08, linewidth=0)
    panel.axvline(1, color=GREY, linewidth=1, zorder=1)
    plain(panel, "x")
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))


def scales(results: dict[str, Any], ax: Axes) -> None:
    """A panel a sweep: time over the floor against tokens, width, hidden size; bands are quartiles."""
    sweeps = [name for name in AXES if any(_of_sweep(results, name))]
    panels = _panels(ax, len(sweeps), sharey=True)
    for panel, sweep in zip(panels, sweeps, strict=True):
        cells = _of_sweep(results, sweep)
        sizes = [cell[sweep] for cell in cells]
        for name, color in SCALED.items():
            over = [cell["methods"][name]["over_floor"] for cell in cells]
            low, mid, high = ([found[key] for found in over] for key in ("q1", "median", "q3"))
            panel.fill_between(sizes, low, high, color=color, alpha=0.18, linewidth=0)
            panel.plot(sizes, mid, color=color, linewidth=1.5, marker="o", markersize=3.5)
            folds = [
                i
                for i, c in enumerate(cells)
                if c["methods"][name].get("branch", {}).get("forward") == "fold"
            ]
            panel.plot(
                [sizes[i] for i in folds],
                [mid[i] for i in folds],
                "o",
                color=color,
                mfc="white",
                ms=5,
                mew=1.4,
            )
        panel.set_xscale("log", base=2)
        panel.set_xticks(
            sizes, [f"{size:,}" for size in sizes], rotation=45, ha="right", rotation_mode="anchor"
        )
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.axhline(1, color=GREY, linewidth=1, zorder=1)
        others = ", ".join(f"{key} {size:,}" for key, size in results["fixed"].items() if key != sweep)
        panel.set_title(others, loc="left", fontweight="normal", fontsize=8.5)
        panel.set_xlabel(AXES[sweep])
        plain(panel, "y")
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    labels = {name: found["label"] for name, found in results["cells"][0]["methods"].items()}
    keys = [_key(color, labels[name]) for name, color in SCALED.items()]
    hollow = Line2D(
        [],
        [],
        color=GREY,
        marker="o",
        mfc="white",
        mew=1.4,
        linestyle="",
        label="update folded into the weight",
    )
    head(
        panels[0],
        f"Time of a step of {results['layers']} linear layers over the frozen layers' (median and quartiles)",
        [*keys, hollow],
        len(keys) + 1,
    )


def _of_sweep(results: dict[str, Any], sweep: str) -> list[Cell]:
    rest = {key: size for key, size in results["fixed"].items() if key != sweep}
    cells = [cell for cell in results["cells"] if all(cell[key] == size for key, size in rest.items())]
    return sorted(cells, key=lambda cell: cell[sweep])


def _panels(ax: Axes, count: int, **options: Any) -> list[Axes]:
    figure = ax.figure
    ax.remove()
    return list(figure.subplots(1, count, squeeze=False, **options)[0])  # type: ignore[union-attr]


def _key(color: str, label: str) -> Line2D:
    marker = "oDs^"[CYCLE.index(color)] if "tokens" in label else "o"
    line = "" if "tokens" in label else "-"
    return Line2D([], [], color=color, marker=marker, markersize=4.5, linestyle=line, label=label)


def _add(cells: Sequence[Cell], later: Sequence[Cell]) -> None:
    """Methods of cells measured later, each beside its own floor; what is there stays."""
    shape = ("model", "rows", "tokens", "rank", "device")
    for new in later:
        for cell in cells:
            if all(cell[key] == new[key] for key in shape):
                cell["methods"] = {**new["methods"], **cell["methods"]}


def _methods(cells: Sequence[Cell]) -> dict[str, str]:
    return {name: found["label"] for cell in cells for name, found in cell["methods"].items()}


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def step_table(step: dict[str, Any]) -> str:
    """A row a model and shape."""
    head = ("model", "rows × tokens", "frozen model", "LoRA", "square core", "its bases trained")
    lines = [
        f"| {' | '.join(head)} | LoRA over Deep LoRA | LoRA over square core "
        "| memory: Deep LoRA over LoRA | memory: square core over LoRA |",
        f"| --- | ---: |{' ---: |' * 8}",
    ]
    for cell in sorted(step["cells"], key=lambda c: ([*MODELS, c["model"]].index(c["model"]), c["tokens"])):
        methods = cell["methods"]
        there = [methods.get(name) for name in ("lora", *OURS[1:])]
        narrow = methods.get("deep_narrow")
        over = [f"{found['over_floor']['median']:.2f}×" if found else "" for found in there]
        gain = methods["deep_frozen"]["lora_over"]
        row = [
            MODELS.get(cell["model"], cell["model"]),
            f"{cell['rows']} × {cell['tokens']}",
            f"{methods['floor']['median'] * 1e3:,.0f} ms",
            *over,
            f"{narrow['lora_over']['median']:.2f}" if narrow else "",
            f"{gain['median']:.2f} ({gain['q1']:.2f} to {gain['q3']:.2f})",
            f"{narrow['peak_bytes'] / methods['lora']['peak_bytes']:.2f}" if narrow else "",
            f"{methods['deep_frozen']['peak_bytes'] / methods['lora']['peak_bytes']:.2f}",
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def target_table(step: dict[str, Any]) -> str:
    """A row a target: in how many cells it is met, and the range of its value."""
    lines = ["| target | met in | from | to |", "| --- | ---: | ---: | ---: |"]
    for name, what in step["targets"].items():
        found = [cell["targets"][name] for cell in step["cells"] if name in cell["targets"]]
        values = [one["value"] for one in found] or [float("nan")]
        met = sum(one["met"] for one in found)
        lines.append(f"| {what} | {met} of {len(found)} | {min(values):.2f} | {max(values):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
