"""What was tried, many runs at once, to choose rank, width and rate: tables from `search.json`.

Ranks, widths and rates are runs of `reproduce.many.run --held-back 600`; scripts of what else is in the file and was
not taken up are gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from corefold.compare.statistics import bootstrap_interval

BASELINE = "LoRA, rank 8, lr 0.001"
Scores = Mapping[str, Mapping[str, float]]  # place, seed


def tables(told: Mapping[str, Any]) -> str:
    """A table a part of the search."""
    return "\n\n".join(_table(part) for part in told["parts"].values())


def _table(part: Mapping[str, Scores]) -> str:
    """Differences to LoRA on the same rows, means over seeds; the best mean over all places that it shares first."""
    base, rows = part[BASELINE], []
    header = ["variant", *base, "all (95 %)"]
    for name, places in part.items():
        if name == BASELINE:
            continue
        apart = {
            at: [score - base[at][seed] for seed, score in found.items()]
            for at, found in places.items()
            if at in base
        }
        every = [each for found in apart.values() for each in found]
        low, high = bootstrap_interval(np.array(every))
        shown = [f"{fmean(apart[at]):+.3f}" if at in apart else "" for at in base]
        rows.append((fmean(every), [name, *shown, f"{fmean(every):+.4f} ({low:+.4f} to {high:+.4f})"]))
    rows.sort(key=lambda row: -row[0])
    lines = [f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for _, row in rows)])


def read(folder: Path = Path(__file__).parent) -> Mapping[str, Any]:
    """The file."""
    return json.loads((folder / "search.json").read_text(encoding="utf-8"))
