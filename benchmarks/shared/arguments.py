"""Options that several benchmarks have."""

from __future__ import annotations

import argparse
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


def batch_shapes(text: str) -> list[tuple[int, int]]:
    """Rows and tokens of "8x64,16x128"."""
    return [(int(rows), int(tokens)) for rows, tokens in (shape.split("x") for shape in text.split(","))]
