"""Options that several benchmarks have."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path


def benchmark_parser(doc: str | None, out: Path) -> argparse.ArgumentParser:
    """A parser whose first argument is the result file, by default `out`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=out, help="result file")
    return parser


def timing_parser(doc: str | None, script: str, *, min_rounds: int, budget: float) -> argparse.ArgumentParser:
    """A parser with the options of a benchmark that times rounds; its result file lies beside the script."""
    parser = benchmark_parser(doc, Path(script).with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=min_rounds, help="the fewest rounds of a cell")
    parser.add_argument(
        "--budget", type=float, default=budget, help="seconds within which a cell begins further rounds"
    )
    parser.add_argument("--device", default="cpu")
    return parser


def add_models(parser: argparse.ArgumentParser, models: str, shapes: str) -> None:
    """The options that choose the cells of a benchmark: models, and shapes of batches."""
    parser.add_argument("--models", default=models)
    parser.add_argument("--shapes", default=shapes, help="ROWSxTOKENS, separated by commas")
    parser.add_argument("--only", metavar="MODEL:ROWSxTOKENS", help="measure this cell, again if need be")


def models_and_shapes(options: argparse.Namespace) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Each chosen model, and the rows and tokens of its batches."""
    models, shapes = options.only.split(":") if options.only else (options.models, options.shapes)
    sizes = [tuple(map(int, shape.split("x"))) for shape in shapes.split(",")]
    for model in models.split(","):
        yield model, [(rows, tokens) for rows, tokens in sizes]
