"""The screening of variants on the way to the defaults: a table from `screening.json`. Its scripts are gone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.shared.blocks import markdown_table
from corefold.compare.statistics import bootstrap_interval

BASELINE = "LoRA, rank 8, lr 0.001"
PLACES = (("trec", 16), ("trec", 64), ("trec", 256), ("sst2", 16), ("sst2", 64))
HEADER = ["variant", "trained numbers", *(f"{name} {samples}" for name, samples in PLACES), "all (95 %)"]


def table(content: Mapping[str, Any]) -> str:
    """Differences to LoRA on the same rows, the mean of the seeds and their number, the most promising first."""
    variants: dict[str, list[Mapping[str, Any]]] = {}
    for cell in content["cells"]:
        variants.setdefault(cell["variant"], []).append(cell)
    base = {_place(cell): cell["score"] for cell in variants.pop(BASELINE)}
    rows = []
    for name, cells in variants.items():
        apart = {_place(cell): cell["score"] - base[_place(cell)] for cell in cells if _place(cell) in base}
        apart = {place: value for place, value in apart.items() if place[:2] in PLACES}
        if apart:
            low, high = bootstrap_interval(np.array(list(apart.values())))
            mean = fmean(apart.values())
            means = [_mean([v for place, v in apart.items() if place[:2] == at]) for at in PLACES]
            count = f"{cells[0]['parameters']:,}"
            rows.append((mean, [name, count, *means, f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"]))
    rows.sort(key=lambda row: -row[0])
    return markdown_table(HEADER, "l" + "r" * (len(HEADER) - 1), [row for _, row in rows])


def read(folder: Path = Path(__file__).parent) -> Mapping[str, Any]:
    """The file."""
    return json.loads((folder / "screening.json").read_text(encoding="utf-8"))


def _place(cell: Mapping[str, Any]) -> tuple[str, int, int]:
    return cell["set"], cell["samples"], cell["seed"]


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):+.3f} ({len(values)})" if values else ""
