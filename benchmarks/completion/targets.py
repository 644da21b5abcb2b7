"""The table of completion's targets, the measured values, and whether they meet the targets.

Each judge gets the cells of one part, and returns the measured values as text and whether they meet the target, or None
where nothing was measured. `benchmarks.figures` writes the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.completion.figures import NOISELESS, SETS, errors
from benchmarks.shared.blocks import markdown_table
from benchmarks.shared.results import Cell

Verdict = tuple[str, bool] | None

RIVALS = ("soft_impute", "cmfrec", "knn", "iterative")
RATINGS = ("ml-100k", "ml-small")
LARGEST = 9_000_000  # observed entries, since some of the draws for 10^7 fall on the same place


def completion_target_table(results: dict[str, Any]) -> str:
    """A row a target."""
    rows = []
    for name, target in results["targets"].items():
        part, judge = JUDGES[name]
        verdict = judge([cell for cell in results["cells"].values() if cell["part"] == part])
        measured, met = ("not yet", "") if verdict is None else (verdict[0], "yes" if verdict[1] else "no")
        rows.append([target, measured, met])
    return markdown_table(["target", "measured", "met"], "llc", rows)


def quality(cells: Sequence[Cell]) -> Verdict:
    """Sets where no rival's error is lower than ours, by the median of ratios within a seed."""
    lost, sets = [], 0
    for name, methods in errors(cells).items():
        rivals = [methods[rival].over_ours for rival in RIVALS if rival in methods]
        if rivals and name not in NOISELESS:
            sets += 1
            lost += [SETS.get(name, name)] * (min(rivals) < 1)
    if not sets:
        return None
    won = sets - len(lost)
    return f"{won} of {sets} sets" + f"; not {'; '.join(lost)}" * bool(lost), won >= 0.8 * sets


def exact(cells: Sequence[Cell]) -> Verdict:
    measured = [cell for cell in cells if cell.get("condition") == 1]
    ratios = [cell["deep_over_als"]["median"] for cell in measured]
    parts = (
        f"{ratio:.1f}× at {cell['observed']:,} observed" for ratio, cell in zip(ratios, measured, strict=True)
    )
    return ("; ".join(parts), max(ratios) <= 3) if measured else None


def condition(cells: Sequence[Cell]) -> Verdict:
    measured = [cell for cell in cells if cell.get("condition", 1) > 1]
    if not measured:
        return None
    worst = max(error for cell in measured for error in cell["methods"]["deep"]["relative_error"])
    ranks = [rank == cell["true_rank"] for cell in measured for rank in cell["ranks"]]
    text = f"relative error {worst:.0e} at most, the rank in {sum(ranks)} of {len(ranks)}"
    return text, worst <= 1e-5 and all(ranks)


def descent(cells: Sequence[Cell]) -> Verdict:
    """The fastest of the basis rates, where both forms reached the error."""
    measured = [cell for cell in cells if "wide_over" in cell]
    best = {
        cell["side"]: max(((ratio or 0.0), name) for name, ratio in cell["wide_over"].items())
        for cell in measured
    }
    parts = (f"{ratio:.1f}× at {side} × {side}, {name}" for side, (ratio, name) in best.items())
    return ("; ".join(parts), min(ratio for ratio, _ in best.values()) >= 7) if measured else None


def size(cells: Sequence[Cell]) -> Verdict:
    measured = [cell for cell in cells if cell["observed"] > LARGEST]
    parts = (
        f"{cell['peak_bytes'] / 1e9:.2f} GB, {cell['seconds'] / 60:.1f} min in {cell['set'].split()[-1]}"
        for cell in measured
    )
    met = all(cell["peak_bytes"] < 2e9 and cell["seconds"] < 600 for cell in measured)
    return ("; ".join(parts), met) if measured else None


def intervals(cells: Sequence[Cell]) -> Verdict:
    """The largest difference over all folds and levels, for ratings and for other sets."""
    off: dict[bool, list[float]] = {True: [], False: []}
    for cell in cells:
        off[cell["set"] in RATINGS] += [abs(level["coverage"] - level["nominal"]) for level in cell["levels"]]
    if not off[True]:
        return None
    folds = sum(cell["set"] in RATINGS for cell in cells)
    text = f"{100 * max(off[True]):.1f} points off at most in {folds} folds"
    if off[False]:
        text += f", {100 * max(off[False]):.1f} on other sets"
    return text, max(off[True]) <= 0.02


def reading(cells: Sequence[Cell]) -> Verdict:
    """Memory above that of the triples, which the caller holds."""
    measured = [cell for cell in cells if cell["set"].startswith("read")]
    parts = []
    for cell in measured:
        above, held = (cell[key] / 1e6 for key in ("above_bytes", "held_bytes"))
        parts.append(f"{above:.0f} MB from {cell['set'].split()[-1]}, {held:.0f} of them kept")
    return ("; ".join(parts), max(cell["above_bytes"] for cell in measured) <= 4e8) if measured else None


def processes(cells: Sequence[Cell]) -> Verdict:
    """Memory of the largest process of each run, above that before it reads data."""
    measured = sorted(
        (cell for cell in cells if "processes" in cell), key=lambda cell: len(cell["processes"])
    )
    most = [max(one["above_bytes"] for one in cell["processes"]) for cell in measured]
    parts = (
        f"{above / 1e6:.0f} MB each in {len(cell['processes'])}"
        for above, cell in zip(most, measured, strict=True)
    )
    falls = all(after < before for before, after in pairwise(most))
    return (", ".join(parts), falls) if len(measured) > 1 else None


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
