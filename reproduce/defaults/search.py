"""The search for rank, width and rate, of many runs at once: tables and a figure from `search.json`.

    python -m reproduce.defaults.search

The script of the search is gone; `reproduce.many.run --held-back 600` runs variants around the default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.shared.blocks import markdown_table
from benchmarks.shared.drawing import draw_panels
from corefold.compare.statistics import bootstrap_interval
from corefold.report.plots import BLUE, GREEN, GREY, PURPLE, VERMILION

BASELINE = "LoRA, rank 8, lr 0.001"
SHAPES = {
    "rank 1, width 128": GREEN,
    "rank 2, width 112": BLUE,
    "rank 4, width 56": PURPLE,
    "rank 8, width 26": GREY,
}
SIZES = (16, 64, 256)
Scores = Mapping[str, Mapping[str, float]]  # by place and seed


def tables(content: Mapping[str, Any]) -> str:
    """A table a part of the search."""
    return "\n\n".join(_table(part) for part in content["parts"].values())


def _table(part: Mapping[str, Scores]) -> str:
    """Differences to LoRA on the same rows, or to a part's first variant; the best mean over shared places first."""
    baseline = BASELINE if BASELINE in part else next(iter(part))
    base, rows = part[baseline], []
    header = ["variant" if baseline == BASELINE else f"less {baseline}", *base, "all (95 %)"]
    for name, places in part.items():
        if name == baseline:
            continue
        apart = {
            at: [score - base[at][seed] for seed, score in seeds.items()]
            for at, seeds in places.items()
            if at in base
        }
        every = [one for differences in apart.values() for one in differences]
        low, high = bootstrap_interval(np.array(every))
        means = [f"{fmean(apart[at]):+.3f}" if at in apart else "" for at in base]
        rows.append((fmean(every), [name, *means, f"{fmean(every):+.4f} ({low:+.4f} to {high:+.4f})"]))
    rows.sort(key=lambda row: -row[0])
    return markdown_table(header, "l" + "r" * (len(header) - 1), [row for _, row in rows])


def read(folder: Path = Path(__file__).parent) -> Mapping[str, Any]:
    """The file."""
    return json.loads((folder / "search.json").read_text(encoding="utf-8"))


def figure(content: Mapping[str, Any], path: Path) -> None:
    """Mean score by rate, a line a shape, a panel a number of rows: how high, and how flat."""
    part = content["parts"]["first"]

    def fill(axes: list[Axes]) -> None:
        for ax, samples in zip(axes, SIZES, strict=True):
            at = [place for place in part[BASELINE] if place.endswith(f" {samples}")]
            for shape, color in SHAPES.items():
                _line(ax, part, rf"{shape}, c ([\d.]+)", at, shape, color, 1 / 0.005)
            _line(ax, part, r"LoRA, rank 8, lr ([\d.e-]+)", at, "LoRA, rank 8", VERMILION, 1 / 0.001)
            ax.set_xscale("log")
            ax.set_title(f"{samples} rows", fontsize=9)
            ax.set_xlabel("rate over 1e-3 (LoRA), or 0.005 / root of the rank", fontsize=8)
            ax.set_ylabel("mean score of three sets", fontsize=8)

    draw_panels(path, 1, len(SIZES), fill)


def _line(
    ax: Axes, part: Mapping[str, Scores], pattern: str, at: list[str], label: str, color: str, unit: float
) -> None:
    points = {
        float(match[1]) * unit: fmean(fmean(places[place].values()) for place in at)
        for name, places in part.items()
        if (match := re.fullmatch(pattern, name)) and all(place in places for place in at)
    }
    ax.plot(
        *zip(*sorted(points.items()), strict=True),
        "o-",
        color=color,
        label=label,
        markersize=4,
        linewidth=1.2,
    )


if __name__ == "__main__":
    figure(read(), Path(__file__).with_name("search.svg"))
