"""The claims of the search for defaults, from the cells: rows of the table, and the figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from benchmarks.shared.drawing import draw_panels
from benchmarks.shared.results import Cell
from corefold.compare.statistics import paired
from corefold.report.plots import BLUE, GREEN, GREY, PURPLE, VERMILION
from reproduce.experiment import AGREES, DIFFERS, PARTLY, Cells, claim, paper

COMMAND = "python -m reproduce.defaults.run --only"
NARROW = "narrow, rank 4, width 48, lr 0.004"
WIDE = "single samples through class means, width"
NAMED = {"trec": "question types", "stsb": "sentence pairs", "sst2": "film sentiment"}
PANELS = (("trec", 64), ("trec", 16), ("stsb", 16))
COLORS = {
    "LoRA": VERMILION,
    "mean": GREY,
    "spectral": GREY,
    "random": PURPLE,
    "single": BLUE,
    "narrow": BLUE,
    "head": GREEN,
}


@dataclass(frozen=True)
class Comparison:
    """A claim that some variants are as good as others.

    Attributes:
        text: the claim.
        published: the key of the paper's figures.
        pairs: variants, and the variants with which they are compared.
        places: sets and numbers of rows.
    """

    text: str
    published: str
    pairs: list[tuple[str, str]]
    places: list[tuple[str, int]]


COMPARISONS = [
    Comparison(
        "Bases from the mean gradient are as good as from single samples'",
        "bases",
        [("single samples, width 16, lr 0.01", "mean gradient, width 16, lr 0.01")],
        [("trec", 64), ("trec", 16)],
    ),
    Comparison(
        "Width 16 is enough, with the rate falling as the width grows",
        "width",
        [(f"single samples, width {wide}", "single samples, width 16, lr 0.01")
         for wide in ("32, lr 0.003", "32, lr 0.003125", "64, lr 0.0015")],
        [("trec", 64), ("trec", 16), ("sst2", 64)],
    ),
    Comparison(
        "At width 32 or 64 it is level with LoRA of rank 8 at its best rate",
        "width",
        [("single samples, width 32, lr 0.003", "LoRA, lr 0.001"),
         ("single samples, width 64, lr 0.0015", "LoRA, lr 0.001")],
        [("trec", 64)],
    ),
    Comparison(
        "A core of rank 4 within bases of width 48 is as good as a square one of 32, with an eighth of its numbers",
        "width",
        [(NARROW, f"single samples, width 32, lr {lr}") for lr in ("0.003", "0.003125")],
        [("trec", 64), ("trec", 16), ("sst2", 64), ("trec", 256)],
    ),
    Comparison(
        "It is level with LoRA of rank 8 at its best rate",
        "width",
        [(NARROW, "LoRA, lr 0.001")],
        [("trec", 64), ("trec", 16), ("sst2", 64), ("trec", 256)],
    ),
    Comparison(
        "The rate that serves 64 rows serves 16 as well",
        "few",
        [("single samples, width 32, lr 0.00078125", "single samples, width 32, lr 0.003125")],
        [("trec", 16), ("sst2", 16)],
    ),
    Comparison(
        "Nothing is gained by training the bases as well",
        "gamma",
        [("single samples, width 32, lr 0.003125, gamma 0.3", f"single samples, width 32, lr {lr}")
         for lr in ("0.003", "0.003125")]
        + [("single samples, width 8, lr 0.0125, gamma 0.1", f"single samples, width 32, lr {lr}")
           for lr in ("0.003", "0.003125")],
        [("trec", 64), ("sst2", 64), ("trec", 256)],
    ),
    Comparison(
        "On hundreds of rows it is level with LoRA of rank 8, frozen bases, trained ones, or wider",
        "gamma",
        [(f"single samples, width {each}", "LoRA, lr 0.001")
         for each in ("32, lr 0.003125", "32, lr 0.003125, gamma 0.3", "8, lr 0.0125, gamma 0.1", "64, lr 0.0015")],
        [("trec", 256)],
    ),
    Comparison(
        "A random head serves to find the bases, one that points to the means of the classes is no better",
        "head",
        [(f"{WIDE} 16, lr 0.01", "single samples, width 16, lr 0.01")],
        [("trec", 64), ("trec", 16)],
    ),
    Comparison(
        "The head's rate matters little: 1e-3 beside 1e-2",
        "head",
        [("LoRA, lr 0.001", "LoRA, lr 0.001, fast head"),
         (f"{WIDE} 16, lr 0.01", f"{WIDE} 16, lr 0.01, fast head")],
        [("trec", 64), ("trec", 16), ("sst2", 64)],
    ),
    Comparison(
        "Depth 2 is as good as depth 3, with two thirds of the numbers",
        "depth",
        [(f"{WIDE} 16, lr 0.01", f"{WIDE} 16, lr 0.01, depth 2")],
        [("trec", 64), ("trec", 16)],
    ),
    Comparison(
        "Adam is as good as with one second moment a core, whose step does not grow with the width",
        "adam",
        [(f"{WIDE} 8, lr 0.02", f"{WIDE} 8, shared moment, lr 0.2"),
         ("single samples, width 16, lr 0.01", "single samples, width 16, shared moment, lr 0.2"),
         (f"{WIDE} 32, lr 0.005", f"{WIDE} 32, shared moment, lr 0.2")],
        [("trec", 64)],
    ),
]  # fmt: skip


def claims(cells: Cells) -> list[Cell]:
    """One row a comparison."""
    published = paper(__file__)
    return [_row(comparison, published[comparison.published], cells) for comparison in COMPARISONS]


def _row(comparison: Comparison, published: str, cells: Cells) -> Cell:
    parts, used, signs = [], [], set()
    for one, other in comparison.pairs:
        for name, samples in comparison.places:
            mine, theirs = of(cells, one, name, samples), of(cells, other, name, samples)
            difference = paired(scores(mine), scores(theirs))
            if difference is None:
                continue
            used += [*mine.values(), *theirs.values()]
            signs.add((difference.low > 0) - (difference.high < 0))
            parts.append(
                f"{NAMED[name]}, {samples} rows, {difference.pairs} seeds: {one} {_mean(mine, theirs):.3f}, "
                f"less {other} {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            )
    status = AGREES if signs <= {0} else PARTLY if 0 in signs else DIFFERS
    one, other = comparison.pairs[0]
    return claim(comparison.text, published, "; ".join(parts), status, f"{COMMAND} '{one}' '{other}'", used)


def _mean(cells: Mapping[int, Cell], others: Mapping[int, Cell]) -> float:
    return fmean(score for seed, score in scores(cells).items() if seed in others)


def of(cells: Cells, variant: str, name: str, samples: int) -> dict[int, Cell]:
    """The cells of a variant on a set, by seed."""
    start = f"{variant}, {name} {samples}, seed="
    return {int(key.removeprefix(start)): cell for key, cell in cells.items() if key.startswith(start)}


def scores(cells: Mapping[int, Cell]) -> dict[int, float]:
    """Pearson's correlation, or the accuracy."""
    return {
        seed: cell["scores"].get("pearson", cell["scores"].get("accuracy")) for seed, cell in cells.items()
    }


def figure(cells: Cells, path: Path) -> None:
    """Every variant's score, a dot a seed, for three numbers of rows."""

    def fill(axes: list[Axes]) -> None:
        for ax, (name, samples) in zip(axes, PANELS, strict=True):
            _dots(ax, cells, name, samples)

    draw_panels(path, 1, len(PANELS), fill, height=9.0, width=6.0)


def _dots(ax: Axes, cells: Cells, name: str, samples: int) -> None:
    marker = f", {name} {samples}, seed="
    variants = dict.fromkeys(key.split(marker)[0] for key in cells if marker in key)
    seeds = {variant: list(scores(of(cells, variant, name, samples)).values()) for variant in variants}
    order = sorted(seeds, key=lambda variant: fmean(seeds[variant]))
    for place, variant in enumerate(order):
        color = COLORS[variant.replace(",", " ").split()[0]]
        ax.plot(seeds[variant], [place] * len(seeds[variant]), "o", color=color, markersize=3, alpha=0.6)
        ax.plot(fmean(seeds[variant]), place, "|", color=color, markersize=9, markeredgewidth=2)
    ax.set_yticks(range(len(order)), order, fontsize=5.5)
    ax.set_title(f"{NAMED[name]}, {samples} rows", fontsize=9)
    ax.set_xlabel("Pearson's correlation" if name == "stsb" else "accuracy")
