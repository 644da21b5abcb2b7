"""The table and the picture of errors of completion, from the result file; `benchmarks.figures` writes them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.shared.blocks import markdown_table
from benchmarks.shared.drawing import head, plain
from benchmarks.shared.results import Cell
from corefold.report.plots import BLUE, GREEN, GREY, PURPLE, VERMILION

SETS = {
    "easy": "rank 10, 20 % seen",
    "limit": "rank 10, 4 % seen",
    "overspecified": "rank 10, told at most 40",
    "condition100": "condition 100, 6 % seen",
    "noisy6": "noise .2, 6 % seen",
    "noisy12": "noise .2, 12 % seen",
    "genes": "gene expression",
    "digits": "digits",
    "china": "photograph: temple",
    "flower": "photograph: flower",
    "ml-100k": "MovieLens 100K",
    "ml-small": "MovieLens small",
}
NOISELESS = ("easy", "limit", "overspecified", "condition100")  # ratios of errors near 1e-6 mean nothing
OURS = ("deep", "deep2")
EDGE = 2.0  # Ratios beyond this edge of the picture are drawn on it.
LOOKS = {  # a colour and a marker for each method, ours round
    "deep": (BLUE, "o"),
    "deep2": ("#5fb3e0", "o"),
    "als": (PURPLE, "s"),
    "soft_impute": (VERMILION, "D"),
    "cmfrec": (GREEN, "^"),
    "knn": ("#b8860b", "v"),
    "iterative": ("#8c564b", "P"),
    "surprise": ("#5b4fa0", "<"),
    "myfm": ("#c2185b", ">"),
    "gcimpute": ("#8a9a2b", "h"),
    "biases": (GREY, "X"),
}
NAMES = {
    "deep": "Deep",
    "deep2": "depth 2",
    "als": "ALS, rank told or tuned",
    "soft_impute": "softImpute",
    "cmfrec": "cmfrec",
    "knn": "KNN imputer",
    "iterative": "Iterative imputer",
    "surprise": "Surprise",
    "myfm": "myFM",
    "gcimpute": "gcimpute",
    "biases": "biases",
}


@dataclass(frozen=True)
class MethodError:
    """The error of a method on one set, at held-out entries.

    Attributes:
        error: the median over seeds.
        seeds: their number.
        over_ours: the median of its ratio to the first method's, ours, on the same seed. Errors differ more between
            seeds than between methods, and not all methods have all seeds: medians over different seeds mislead.
    """

    error: float
    seeds: int
    over_ours: float


def errors(cells: Iterable[Cell]) -> dict[str, dict[str, MethodError]]:
    """By set and method, in the order of SETS and NAMES."""
    cells = [cell for cell in cells if cell["part"] == "quality"]
    order = dict.fromkeys([*SETS, *(cell["set"] for cell in cells)])
    by_set = {name: _method_errors(cell for cell in cells if cell["set"] == name) for name in order}
    return {name: methods for name, methods in by_set.items() if methods}


def _method_errors(cells: Iterable[Cell]) -> dict[str, MethodError]:
    seeds = [{m: one["rmse"] for m, one in cell["methods"].items() if "rmse" in one} for cell in cells]
    seeds = [seed for seed in seeds if OURS[0] in seed]  # others have nothing to compare with
    methods = {}
    for method in NAMES:
        own = [seed for seed in seeds if method in seed]
        if own:
            over = statistics.median(seed[method] / seed[OURS[0]] for seed in own)
            methods[method] = MethodError(statistics.median(seed[method] for seed in own), len(own), over)
    return methods


def completion_table(results: dict[str, Any]) -> str:
    """A row a set, a column a method; a number in brackets where a method has fewer seeds than its row.

    The best, in bold, has the lowest error over ours on the same seeds.
    """
    table = errors(results["cells"].values())
    columns = [method for method in NAMES if any(method in methods for methods in table.values())]
    header = ["entries held out of", "seeds", *(NAMES[method] for method in columns)]
    rows = []
    for name, methods in table.items():
        best = min(one.over_ours for one in methods.values())
        seeds = max(one.seeds for one in methods.values())
        entries = [_entry(methods.get(method), best, seeds) for method in columns]
        rows.append([SETS.get(name, name), f"{seeds}", *entries])
    return markdown_table(header, "l" + "r" * (len(columns) + 1), rows)


def _entry(one: MethodError | None, best: float, seeds: int) -> str:
    if one is None:
        return "n/a"
    text = f"{one.error:.1e}" if one.error < 1e-3 else f"{one.error:#.4g}"
    return (f"**{text}**" if one.over_ours == best else text) + f" ({one.seeds})" * (one.seeds < seeds)


def completion_dots(results: dict[str, Any], ax: Axes) -> None:
    """A row a set, a dot a method: its error over that of the set's best peer, at the edge where it is beyond it."""
    table = {
        name: methods for name, methods in errors(results["cells"].values()).items() if name not in NOISELESS
    }
    for row, methods in enumerate(table.values()):
        peers = [one.over_ours for method, one in methods.items() if method not in OURS]
        if not peers:
            continue
        for method, one in reversed(methods.items()):  # ours on top
            color, marker = LOOKS[method]
            size = 42 if method == "deep" else 24
            over = min(one.over_ours / min(peers), EDGE)
            place = row + 0.06 * (list(LOOKS).index(method) - len(LOOKS) / 2)
            ax.scatter(over, place, s=size, color=color, marker=marker, linewidths=0, zorder=3)
    ax.set_xscale("log")
    ax.set_xticks([0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, EDGE])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×{' or more' if x == EDGE else ''}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axvline(1, color=GREY, linewidth=1, zorder=1)
    ax.set_yticks(range(len(table)), [SETS.get(name, name) for name in table])
    ax.set_ylim(len(table) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    plain(ax, "both")
    drawn = [method for method in NAMES if any(method in methods for methods in table.values())]
    keys = [
        Line2D([], [], color=LOOKS[method][0], marker=LOOKS[method][1], linestyle="", label=NAMES[method])
        for method in drawn
    ]
    head(ax, "Error at entries held out, over the best peer's (medians of ratios within a seed)", keys, 5)
