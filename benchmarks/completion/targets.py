"""The table of what matrix completion aims at, what came out and whether that meets it; see figures.py.

Each judge is given the cells of one part and says what they show, or None where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from completion_figures import NOISELESS, SETS, errors

Cell = dict[str, Any]
Verdict = tuple[str, bool] | None

RIVALS = ("soft_impute", "cmfrec", "knn", "iterative")
RATINGS = ("ml-100k", "ml-small")
LARGEST = 9_000_000  # observed entries: of the draws for 10^7 some fall on one place


def completion_target_table(results: dict[str, Any]) -> str:
    """A row a target."""
    lines = ["| target | measured | met |", "| --- | --- | :---: |"]
    for name, what in results["targets"].items():
        part, judge = JUDGES[name]
        verdict = judge([cell for cell in results["cells"] if cell["part"] == part])
        said, met = ("not yet", "") if verdict is None else (verdict[0], "yes" if verdict[1] else "no")
        lines.append(f"| {what} | {said} | {met} |")
    return "\n".join(lines)


def quality(cells: Sequence[Cell]) -> Verdict:
    """Sets where no rival's error is lower than ours, by the median of ratios within a seed."""
    lost, sets = [], 0
    for name, found in errors({"cells": cells}).items():
        rivals = [found[rival].over for rival in RIVALS if rival in found]
        if rivals and name not in NOISELESS:
            sets += 1
            lost += [SETS.get(name, name)] * (min(rivals) < 1)
    if not sets:
        return None
    won = sets - len(lost)
    return f"{won} of {sets} sets" + f"; not {'; '.join(lost)}" * bool(lost), won >= 0.8 * sets


def exact(cells: Sequence[Cell]) -> Verdict:
    there = [cell for cell in cells if cell.get("condition") == 1]
    ratios = [cell["deep_over_als"]["median"] for cell in there]
    said = (
        f"{ratio:.1f}× at {cell['observed']:,} observed" for ratio, cell in zip(ratios, there, strict=True)
    )
    return ("; ".join(said), max(ratios) <= 3) if there else None


def condition(cells: Sequence[Cell]) -> Verdict:
    there = [cell for cell in cells if cell.get("condition", 1) > 1]
    if not there:
        return None
    worst = max(error for cell in there for error in cell["methods"]["deep"]["relative_error"])
    ranks = [rank == cell["true_rank"] for cell in there for rank in cell["ranks"]]
    said = f"relative error {worst:.0e} at most, the rank in {sum(ranks)} of {len(ranks)}"
    return said, worst <= 1e-5 and all(ranks)


def descent(cells: Sequence[Cell]) -> Verdict:
    """With the fastest of the basis rates tried, where both forms came to the error."""
    there = [cell for cell in cells if "wide_over" in cell]
    best = {
        cell["side"]: max(((ratio or 0.0), name) for name, ratio in cell["wide_over"].items())
        for cell in there
    }
    said = (f"{ratio:.1f}× at {side} × {side}, {name}" for side, (ratio, name) in best.items())
    return ("; ".join(said), min(ratio for ratio, _ in best.values()) >= 7) if there else None


def size(cells: Sequence[Cell]) -> Verdict:
    there = [cell for cell in cells if cell["observed"] > LARGEST]
    said = (
        f"{cell['peak_bytes'] / 1e9:.2f} GB, {cell['seconds'] / 60:.1f} min in {cell['set'].split()[-1]}"
        for cell in there
    )
    met = all(cell["peak_bytes"] < 2e9 and cell["seconds"] < 600 for cell in there)
    return ("; ".join(said), met) if there else None


def intervals(cells: Sequence[Cell]) -> Verdict:
    """The farthest off of all folds and levels, for ratings and for the others."""
    off: dict[bool, list[float]] = {True: [], False: []}
    for cell in cells:
        off[cell["set"] in RATINGS] += [abs(level["coverage"] - level["nominal"]) for level in cell["levels"]]
    if not off[True]:
        return None
    folds = sum(cell["set"] in RATINGS for cell in cells)
    said = f"{100 * max(off[True]):.1f} points off at most in {folds} folds"
    if off[False]:
        said += f", {100 * max(off[False]):.1f} on other sets"
    return said, max(off[True]) <= 0.02


def reading(cells: Sequence[Cell]) -> Verdict:
    """Above the triples themselves, which are the caller's."""
    there = [cell for cell in cells if cell["set"].startswith("read")]
    said = []
    for cell in there:
        above, held = (cell[key] / 1e6 for key in ("above_bytes", "held_bytes"))
        said.append(f"{above:.0f} MB from {cell['set'].split()[-1]}, {held:.0f} of them kept")
    return ("; ".join(said), max(cell["above_bytes"] for cell in there) <= 4e8) if there else None


def processes(cells: Sequence[Cell]) -> Verdict:
    """The largest process of each run, above what it takes before there is data."""
    there = sorted((cell for cell in cells if "processes" in cell), key=lambda cell: len(cell["processes"]))
    most = [max(one["above_bytes"] for one in cell["processes"]) for cell in there]
    said = (
        f"{above / 1e6:.0f} MB each in {len(cell['processes'])}"
        for above, cell in zip(most, there, strict=True)
    )
    falls = all(after < before for before, after in pairwise(most))
    return (", ".join(said), falls) if len(there) > 1 else None


JUDGES: dict[str, tuple[str, Callable[[Sequence[Cell]], Verdict]]] = {
    "quality": ("quality", quality),
    "exact": ("exact", exact),
    "condition": ("exact", condition),
    "descent": ("exact", descent),
    "size": ("size", size),
    "intervals": ("intervals", intervals),
    "reading": ("memory", reading),
    "processes": ("memory", processes),
}
