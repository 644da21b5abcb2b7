"""Draw the benchmarks' results and fill the tables of README.md, from the result files alone.

    python -m benchmarks.figures

Pictures go to docs/images: step.svg, memory.svg, scaling.svg, completion.svg; the same results give the same bytes. In
README.md, a block "figure: NAME" gets the picture of that name, and a block "table: NAME" the table of that name.
What has no results stays as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.completion.figures import completion_dots, completion_table, errors
from benchmarks.completion.side import side_table
from benchmarks.completion.targets import completion_target_table
from benchmarks.completion.wide.summary import count_table
from benchmarks.shared.blocks import fill
from benchmarks.shared.drawing import picture
from benchmarks.shared.results import read
from benchmarks.steps.figures import (
    figure_height,
    memory,
    scales,
    step_table,
    steps,
    target_table,
    with_later_methods,
)

ROOT = Path(__file__).parents[1]
RESULTS = {
    "step": "steps/step.json",
    "step_narrow": "steps/step_narrow.json",  # Deep LoRA's default, measured after the others
    "scaling": "steps/scaling.json",
    "completion": "completion/results.json",
    "completion_wide": "completion/wide/results.json",
    "completion_side": "completion/side.json",
}
ALTERNATIVE = {
    "step": "Time of a training step over the frozen model's, for each method, model and shape of batch",
    "memory": "Peak memory of a training step over LoRA's, for each method, model and shape of batch",
    "scaling": "Time of a step over the frozen floor's as the number of tokens, the width or the hidden size varies",
    "completion": "Error at entries held out over the best peer's, for each method and set of data",
}
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {  # by name, from the results of that name
    "step": ("step", step_table),
    "targets": ("step", target_table),
    "completion": ("completion", completion_table),
    "completion_targets": ("completion", completion_target_table),
    "completion_wide": ("completion_wide", count_table),
    "completion_side": ("completion_side", side_table),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks", help="folder of the questions")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    paths = {name: options.results / path for name, path in RESULTS.items()}
    results = {name: read(path) for name, path in paths.items() if path.exists()}
    if {"step", "step_narrow"} <= set(results):
        results["step"] = with_later_methods(results["step"], results["step_narrow"])
    options.images.mkdir(parents=True, exist_ok=True)
    for name, drawn in pictures(results).items():
        (options.images / f"{name}.svg").write_text(drawn, encoding="utf-8")
    if options.readme.exists():
        page = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(fill(page, blocks(results)), encoding="utf-8")


def pictures(results: dict[str, Any]) -> dict[str, str]:
    """The pictures of these results, by name."""
    drawn = {}
    if step := results.get("step"):
        height = figure_height(step)
        drawn["step"] = picture(lambda ax: steps(step, ax), width=9, height=height)
        drawn["memory"] = picture(lambda ax: memory(step, ax), width=9, height=height)
    if scaling := results.get("scaling"):
        drawn["scaling"] = picture(lambda ax: scales(scaling, ax), width=9, height=3.1)
    if (completion := results.get("completion")) and errors(completion["cells"].values()):
        drawn["completion"] = picture(lambda ax: completion_dots(completion, ax), width=9, height=3.6)
    return drawn


def blocks(results: dict[str, Any]) -> dict[str, str]:
    """The contents of README.md's blocks, by kind and name."""
    contents = {f"figure: {name}": f"![{text}](docs/images/{name}.svg)" for name, text in ALTERNATIVE.items()}
    for name, (source, table) in TABLES.items():
        if source in results:
            contents[f"table: {name}"] = table(results[source])
    return contents


if __name__ == "__main__":
    main()
