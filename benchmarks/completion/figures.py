"""The table and the picture of benchmarks/completion.py's errors; see figures.py, which draws them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from drawing import head, plain
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

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
NOISELESS = ("easy", "limit", "overspecified", "condition100")  # ratios of errors of 1e-6 say nothing
OURS = ("deep", "deep2")
EDGE = 2.0
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
class Found:
    """Of a method on one set: the median error at entries held out, over how many seeds, and `over` one of all methods.

    That one is the first method's, ours, on the same seed: what seeds differ by is larger than what methods do, and not
    all methods have all seeds. `over` is the median of these ratios.
    """

    error: float
    seeds: int
    over: float


def errors(results: dict[str, Any]) -> dict[str, dict[str, Found]]:
    """By set and method, in the order of SETS and NAMES."""
    cells = [cell for cell in results["cells"] if cell["part"] == "quality"]
    found: dict[str, dict[str, Found]] = {}
    for name in dict.fromkeys([*SETS, *(cell["set"] for cell in cells)]):
        alike = [cell["methods"] for cell in cells if cell["set"] == name]
        runs = [{m: one["rmse"] for m, one in methods.items() if "rmse" in one} for methods in alike]
        # Seeds without the reference have nothing to compare with.
        runs = [run for run in runs if OURS[0] in run]
        for method in NAMES:
            there = [run for run in runs if method in run]
            if there:
                over = statistics.median(run[method] / run[OURS[0]] for run in there)
                error = statistics.median(run[method] for run in there)
                found.setdefault(name, {})[method] = Found(error, len(there), over)
    return found


def completion_table(results: dict[str, Any]) -> str:
    """A row a set, a column a method; a number in brackets where a method has fewer seeds than its row.

    The best, in bold, has the lowest error over that of ours on the same seeds.
    """
    table = errors(results)
    methods = [method for method in NAMES if any(method in found for found in table.values())]
    lines = [
        f"| entries held out of | seeds | {' | '.join(NAMES[method] for method in methods)} |",
        f"| --- | ---: |{' ---: |' * len(methods)}",
    ]
    for name, found in table.items():
        best = min(one.over for one in found.values())
        seeds = max(one.seeds for one in found.values())
        row = [_entry(found.get(method), best, seeds) for method in methods]
        lines.append(f"| {SETS.get(name, name)} | {seeds} | {' | '.join(row)} |")
    return "\n".join(lines)


def _entry(found: Found | None, best: float, seeds: int) -> str:
    if found is None:
        return "n/a"
    said = f"{found.error:.1e}" if found.error < 1e-3 else f"{found.error:#.4g}"
    return (f"**{said}**" if found.over == best else said) + f" ({found.seeds})" * (found.seeds < seeds)


def completion_dots(results: dict[str, Any], ax: Axes) -> None:
    """A row a set, a dot a method: its error over that of the set's best peer; what is far off, at the edge."""
    table = {name: found for name, found in errors(results).items() if name not in NOISELESS}
    for row, found in enumerate(table.values()):
        peers = [one.over for method, one in found.items() if method not in OURS]
        if not peers:
            continue
        for method, one in reversed(found.items()):  # ours on top
            color, marker = LOOKS[method]
            size = 42 if method == "deep" else 24
            over = min(one.over / min(peers), EDGE)
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
    shown = [method for method in NAMES if any(method in found for found in table.values())]
    keys = [
        Line2D([], [], color=LOOKS[method][0], marker=LOOKS[method][1], linestyle="", label=NAMES[method])
        for method in shown
    ]
    head(ax, "Error at entries held out, over the best peer's (medians of ratios within a seed)", keys, 5)
