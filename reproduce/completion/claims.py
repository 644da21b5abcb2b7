"""The claims about completion, from the cells: rows of the table, and the figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.shared.drawing import draw_panels
from benchmarks.shared.results import Cell
from corefold.report.plots import BLUE, CYCLE, GREEN, GREY, VERMILION
from reproduce.experiment import AGREES, DIFFERS, PARTLY, Cells, claim, not_run, paper

COMMAND = "python -m reproduce.completion.run --only"
PAPER_SIDE, PAPER_SPEEDUP = 1000, 7.0
ROUNDING = 2e-5  # the largest relative difference of equal numbers after each is rounded to six digits
FORMS = {"compressed": BLUE, "random bases": GREY, "narrow": VERMILION}


def claims(cells: Cells) -> list[Cell]:
    """One row a claim at the sizes that were run, and one more where the paper's size is missing."""
    published = paper(__file__)
    return [
        *_speed(of(cells, "speed"), published),
        *_gamma(of(cells, "gamma"), published),
        *_scaling(of(cells, "scaling"), published),
        *_rank(of(cells, "rank"), published),
        *_depth(of(cells, "depth"), published),
    ]


def of(cells: Cells, part: str) -> list[Cell]:
    """The cells of a part."""
    return [cell for name, cell in cells.items() if name.startswith(f"{part}, ")]


def time(cell: Cell) -> float:
    """The seconds that are compared: the processor's, which other processes do not stretch, or a GPU's."""
    return cell["seconds" if cell["machine"]["device"].startswith("cuda") else "cpu_seconds"]


def _pairs(cells: Iterable[Cell]) -> list[tuple[Cell, Cell]]:
    """Wide beside compressed at one size and start, where both reached the error."""
    pairs: dict[tuple[int, float], dict[str, Cell]] = {}
    for cell in cells:
        if cell["met"]:
            pairs.setdefault((cell["side"], cell["init_scale"]), {})[cell["form"]] = cell
    return [(forms["wide"], forms["compressed"]) for _, forms in sorted(pairs.items()) if len(forms) == 2]


def _speed(cells: list[Cell], published: Mapping[str, str]) -> list[Cell]:
    pairs, command = _pairs(cells), f"{COMMAND} speed --sides 100 200 300 1000 --limit 2000"
    if not pairs:
        return [
            not_run("Compressed descent comes to the error faster than wide", published["speed"], command)
        ]
    ran = [cell for pair in pairs for cell in pair]
    ratios = ", ".join(
        f"{time(wide) / time(small):.2g}x at d={wide['side']} ({time(wide):.3g} s, {time(small):.3g} s)"
        for wide, small in pairs
    )
    wide, small = pairs[-1]
    status = AGREES if time(wide) / time(small) >= PAPER_SPEEDUP else DIFFERS
    if wide["side"] < PAPER_SIDE and status == AGREES:
        status = PARTLY
    counts = ", ".join(f"{w['iterations']} and {s['iterations']} at d={w['side']}" for w, s in pairs)
    same = AGREES if abs(wide["iterations"] / small["iterations"] - 1) < 0.1 else DIFFERS
    smaller = any(abs(w["iterations"] / s["iterations"] - 1) > 0.1 for w, s in pairs)
    rows = [
        claim(
            "Compressed descent comes to the error faster than wide",
            published["speed"],
            ratios,
            status,
            command,
            ran,
        ),
        claim(
            "Wide and compressed take as many iterations",
            published["same_iterations"],
            counts,
            PARTLY if same == AGREES and smaller else same,
            command,
            ran,
        ),
    ]
    if not any(
        cell["side"] >= PAPER_SIDE and cell["init_scale"] <= 1e-3 and cell["form"] == "wide" for cell in cells
    ):
        text = "The same at the paper's size from its init_scale, 1e-3"
        rows.append(not_run(text, published["speed"], f"{COMMAND} speed --paper"))
    return rows


def _gamma(cells: list[Cell], published: Mapping[str, str]) -> list[Cell]:
    command = f"{COMMAND} gamma"
    if not cells:
        return [not_run("Frozen bases stop short, moving ones do not", published["frozen"], command)]
    side = max(cell["side"] for cell in cells)
    cells = [cell for cell in cells if cell["side"] == side]
    frozen = next((cell for cell in cells if cell["gamma"] == 0), cells[0])
    stops = not frozen["met"] and any(cell["met"] for cell in cells)
    listed = ", ".join(f"gamma {cell['gamma']:g}: {_outcome(cell)}" for cell in cells)
    ours = (
        f"d={side}, largest singular value 1: {listed}; gamma 0 stays at a relative error of "
        f"{frozen['error_all']:.2g} over all entries"
    )
    text = "Frozen bases stop short, moving ones do not"
    rows = [claim(text, published["frozen"], ours, AGREES if stops else DIFFERS, command, cells)]
    return (
        rows
        if side >= PAPER_SIDE
        else [*rows, not_run(f"{text}: the paper's size", published["frozen"], f"{command} --paper")]
    )


def _outcome(cell: Cell) -> str:
    if cell["met"]:
        return f"{cell['iterations']} iterations"
    return "diverges" if cell["diverged"] else f"not in {cell['iterations']}"


def _scaling(cells: list[Cell], published: Mapping[str, str]) -> list[Cell]:
    command = f"{COMMAND} scaling"
    text = "What gamma means goes with the data's scale sigma: gamma sigma^(2/L) counts"
    if not cells:
        return [not_run(text, published["gamma"], command)]
    at = {cell["largest"]: cell for cell in cells if cell["gamma"] == 0.01}
    listed = ", ".join(f"{_outcome(cell)} where sigma is {largest:g}" for largest, cell in sorted(at.items()))
    best = max((cell["normalised"] for cell in cells if cell["met"]), default=0.0)
    wild = min((cell["normalised"] for cell in cells if cell["normalised"] > best), default=float("inf"))
    apart = _apart(cells)
    agreement = f"differ by {apart:.1e}" if apart > ROUNDING else "are the same to the six digits kept"
    ours = (
        f"gamma .01: {listed}; runs of one gamma sigma^(2/3) {agreement}; up to {best:.2g} they come to the error, "
        f"from {wild:.2g} on they do not"
    )
    return [claim(text, published["gamma"], ours, AGREES if apart < 1e-3 else DIFFERS, command, cells)]


def _apart(cells: list[Cell]) -> float:
    """The largest relative difference between errors of runs that differ in their units only."""
    by_gamma: dict[str, list[float]] = {}
    for cell in cells:
        if not cell["diverged"]:
            by_gamma.setdefault(f"{cell['normalised']:.3g}", []).append(cell["error_all"])
    return max(max(errors) / min(errors) - 1 for errors in by_gamma.values())


def _rank(cells: list[Cell], published: Mapping[str, str]) -> list[Cell]:
    command, text = (
        f"{COMMAND} rank",
        "Told too high a rank, compressed keeps its pace and random narrow is slower",
    )
    if not cells:
        return [not_run(text, published["rank"], command)]
    side = max(cell["side"] for cell in cells)
    by_form = {form: [c for c in cells if c["form"] == form and c["side"] == side] for form in FORMS}
    listed = "; ".join(
        f"{form}: " + ", ".join(f"{_outcome(cell)} told {cell['told']}" for cell in found)
        for form, found in by_form.items()
    )
    counts = [cell["iterations"] for cell in by_form["compressed"]]
    even = all(cell["met"] for cell in by_form["compressed"]) and max(counts) <= 1.1 * min(counts)
    slower = all(
        other["iterations"] > 1.5 * one["iterations"]
        for one, other in zip(by_form["compressed"], by_form["narrow"], strict=True)
    )
    status = AGREES if even and slower else PARTLY if even or slower else DIFFERS
    rows = [claim(text, published["rank"], f"d={side}; {listed}", status, command, cells)]
    return (
        rows
        if side >= PAPER_SIDE
        else [*rows, not_run(f"{text}: the paper's size", published["rank"], f"{command} --paper")]
    )


def _depth(cells: list[Cell], published: Mapping[str, str]) -> list[Cell]:
    command, text = f"{COMMAND} depth", "With width the error of depth 2 grows, that of depth 3 does not"
    if not cells:
        return [not_run(text, published["depth"], command)]
    narrow, small = ([cell for cell in cells if cell["form"] == form] for form in ("narrow", "compressed"))
    shallow, deep = (list(by_width(narrow)[layers].values()) for layers in (2, 3))
    agrees = shallow[-1] > 2 * shallow[0] and deep[-1] < 2 * deep[0] and deep[-1] < 0.5 * shallow[-1]
    status = (AGREES if all(cell["met"] for cell in narrow) else PARTLY) if agrees else DIFFERS
    seeds = len({cell["seed"] for cell in narrow})
    ours = f"relative error of all entries, median of {seeds} seeds: {_widths(narrow)}{_late(narrow)}"
    rows = [claim(text, published["depth"], ours, status, command, narrow)]
    close = [cell["error_all"] < 2 * deep[-1] for cell in small if cell["layers"] == 3]
    status = AGREES if all(close) else PARTLY if any(close) else DIFFERS
    text = "The compressed form does the same where few entries are seen"
    return [
        *rows,
        claim(text, published["few"], f"one seed: {_widths(small)}{_late(small)}", status, command, small),
    ]


def _late(cells: list[Cell]) -> str:
    """The runs that ended before they reached the error at the seen entries."""
    late = [
        f"L={cell['layers']} width {cell['width']} seed {cell['seed']}" for cell in cells if not cell["met"]
    ]
    return f"; not at the error at the seen entries when they ended: {', '.join(late)}" if late else ""


def _widths(cells: list[Cell]) -> str:
    return "; ".join(
        f"L={layers}: " + ", ".join(f"{error:.2g} at width {width}" for width, error in found.items())
        for layers, found in by_width(cells).items()
    )


def by_width(cells: Iterable[Cell]) -> dict[int, dict[int, float]]:
    """Median error of all entries by depth and width."""
    found: dict[int, dict[int, list[float]]] = {}
    for cell in cells:
        found.setdefault(cell["layers"], {}).setdefault(cell["width"], []).append(cell["error_all"])
    return {
        layers: {width: statistics.median(errors) for width, errors in sorted(widths.items())}
        for layers, widths in sorted(found.items())
    }


def figure(cells: Cells, path: Path) -> None:
    """Time by size, errors by gamma, iterations by the given rank, errors by width."""

    def fill(axes: list[Axes]) -> None:
        _draw_speed(of(cells, "speed"), axes[0])
        _draw_gamma(of(cells, "gamma"), axes[1])
        _draw_rank(of(cells, "rank"), axes[2])
        _draw_depth(of(cells, "depth"), axes[3])

    draw_panels(path, 2, 2, fill)


def _draw_speed(cells: list[Cell], ax: Axes) -> None:
    pairs = _pairs(cells)
    sides = [wide["side"] for wide, _ in pairs]
    for place, (form, color) in enumerate((("wide", VERMILION), ("compressed", BLUE))):
        ax.plot(sides, [time(pair[place]) for pair in pairs], color=color, marker="o", label=form)
    ax.set(title="Seconds to the error", xlabel="d", xscale="log", yscale="log")


def _draw_gamma(cells: list[Cell], ax: Axes) -> None:
    side = max((cell["side"] for cell in cells), default=0)
    colors = [GREY, *CYCLE, "#b8860b", "#5b4fa0"]
    drawn = [cell for cell in cells if cell["side"] == side and cell["curve"]]
    for cell, color in zip(drawn, colors, strict=False):
        iterations, _, errors = zip(*cell["curve"], strict=True)
        ax.plot(iterations, errors, color=color, linewidth=1.2, label=f"gamma {cell['gamma']:g}")
    ax.set(title=f"Relative error of all entries, d={side}", xlabel="iteration", yscale="log", xscale="log")


def _draw_rank(cells: list[Cell], ax: Axes) -> None:
    side = max((cell["side"] for cell in cells), default=0)
    for form, color in FORMS.items():
        own = [cell for cell in cells if cell["form"] == form and cell["side"] == side]
        at, counts = [cell["told"] for cell in own], [cell["iterations"] for cell in own]
        ax.plot(at, counts, color=color, linewidth=1.2, label=form)
        for cell in own:  # hollow where the run stopped before it reached the error
            ax.plot(
                cell["told"],
                cell["iterations"],
                "o",
                color=color,
                fillstyle="full" if cell["met"] else "none",
            )
    ax.set(title=f"Iterations to the error, rank 5, d={side}", xlabel="rank told")
    ax.set_ylim(bottom=0)


def _draw_depth(cells: list[Cell], ax: Axes) -> None:
    for form, dash in (("narrow", "-"), ("compressed", ":")):
        own = [cell for cell in cells if cell["form"] == form]
        for (layers, found), color in zip(by_width(own).items(), (VERMILION, GREEN), strict=False):
            label = f"L={layers}" + ", compressed" * (form == "compressed")
            ax.plot(list(found), list(found.values()), dash, color=color, marker="o", label=label)
            same = [cell for cell in own if cell["layers"] == layers]
            ax.plot([c["width"] for c in same], [c["error_all"] for c in same], ".", color=color, alpha=0.5)
    ax.set(title="Relative error of all entries, d=100, rank 10", xlabel="width", yscale="log")
