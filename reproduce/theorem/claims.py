"""The claims of the theorem, from the cells: rows of the table, and the figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.shared.drawing import draw_panels
from benchmarks.shared.results import Cell
from corefold.report.plots import BLUE, CYCLE, GREEN, GREY, VERMILION
from reproduce.experiment import AGREES, DIFFERS, PARTLY, Cells, claim, not_run, paper

MAX_DEVIATION = 1e-10  # relative; above rounding, below anything that the theorem leaves out
COMMAND = "python -m reproduce.theorem.run"


def claims(cells: Cells) -> list[Cell]:
    """One row a claim, from the cells alone."""
    published = paper(__file__)
    grid = [cell for cell in cells.values() if "core" in cell and "target_outside" not in cell]
    rows = [_exact(text, published[key], grid, names) for key, (text, names) in EXACT.items()]
    small = [cells[name] for name in cells if name.startswith("2r core")]
    first = [cells[name] for name in cells if name.startswith("first gradient")]
    angles = [cells["angles"]] if "angles" in cells else []
    return [
        *rows,
        *_rectangular(published, grid, small),
        *_gradient(published, first),
        *_angles(published, angles),
    ]


EXACT = {
    "trajectory": ("Wide and compressed runs take the same path, but for the rest", ["product", "factors"]),
    "blocks": ("Core and rest of each factor never mix", ["leak"]),
    "rho": ("Each factor maps the rest as rho_l times an isometry, by the recursion", ["rest"]),
    "gap": ("The gap between the two products is sqrt(d - 2r) prod rho_l", ["gap"]),
}


def _exact(text: str, published: str, grid: list[Cell], names: list[str]) -> Cell:
    if not grid:
        return not_run(text, published, COMMAND)
    worst = max(cell["worst"][name] for cell in grid for name in names)
    cases = [cell["case"] for cell in grid]
    varied = {
        "sides": [f"{case['out']} x {case['in_']}" for case in cases],
        "rank": [case["rank"] for case in cases],
        "depth": [case["depth"] for case in cases],
        "decay": [case["decay"] for case in cases],
    }
    listed = "; ".join(
        f"{name} {', '.join(map(str, sorted(set(values))))}" for name, values in varied.items()
    )
    ours = f"worst relative deviation {worst:.1e} in {len(grid)} runs ({listed})"
    return claim(text, published, ours, AGREES if worst < MAX_DEVIATION else DIFFERS, COMMAND, grid)


def _rectangular(published: Mapping[str, str], grid: list[Cell], small: list[Cell]) -> list[Cell]:
    odd = [cell for cell in grid if cell["case"]["out"] != cell["case"]["in_"]]
    text = "Rectangular matrices"
    if not odd or not small:
        return [not_run(text, published["rectangular"], COMMAND)]
    worst = max(cell["worst"]["product"] for cell in odd)
    core = max(max(cell["core"]) for cell in odd if cell["case"]["width"] is None)
    listed = "; ".join(
        f"{cell['v_first']['worst']:.1e} or {cell['u_first']['worst']:.1e} "
        f"({cell['case']['out']} x {cell['case']['in_']}, init_scale {cell['case']['init_scale']:g})"
        for cell in small
    )
    ours = (
        f"exact ({worst:.1e}) with a core of up to 3r = {core} on the larger side; with 2r the products part on the "
        f"way by this share of the target's norm, v's or u's pair put first: {listed}"
    )
    return [claim(text, published["rectangular"], ours, PARTLY, COMMAND, [*odd, *small])]


def _gradient(published: Mapping[str, str], first: list[Cell]) -> list[Cell]:
    text = "Bases from the first gradient are those of the target"
    if not first:
        return [not_run(text, published["first_gradient"], COMMAND)]
    worst = max(cell["worst"]["product"] for cell in first)
    outside = max(cell["target_outside"] for cell in first)
    scales = [cell["case"]["init_scale"] for cell in first]
    ours = (
        f"worst relative deviation {worst:.1e} at init_scale {min(scales):g} to {max(scales):g}, though up to "
        f"{outside:.1e} of the target is outside the gradient's own top r directions"
    )
    return [
        claim(
            text,
            published["first_gradient"],
            ours,
            AGREES if worst < MAX_DEVIATION else DIFFERS,
            COMMAND,
            first,
        )
    ]


def _angles(published: Mapping[str, str], angles: list[Cell]) -> list[Cell]:
    text = "The leading singular space of W_1 settles early, the loss goes on falling"
    if not angles:
        return [not_run(text, published["angles"], COMMAND)]
    (cell,) = angles
    ours = (
        f"within .05 rad of the last from step {cell['settled_step']} on, where the loss is "
        f"{cell['loss_when_settled']:.1e} of the first; it ends at {cell['loss_at_end']:.1e}"
    )
    agrees = cell["loss_at_end"] < 0.1 * cell["loss_when_settled"]
    return [claim(text, published["angles"], ours, AGREES if agrees else DIFFERS, COMMAND, angles)]


def figure(cells: Cells, path: Path) -> None:
    """Singular values, angles and loss over time as in the paper's first figure; deviations beside them."""

    def fill(axes: list[Axes]) -> None:
        _over_time(cells["angles"], axes)
        _deviations(cells, axes[3])

    draw_panels(path, 2, 2, fill)


def _over_time(cell: Cell, axes: list[Axes]) -> None:
    steps, rank = cell["steps"], cell["case"]["rank"]
    values = list(zip(*cell["singular_values"], strict=True))
    for place, line in enumerate(values):
        color = BLUE if place < rank else GREEN if place < 2 * rank else GREY
        label = {0: "first r", rank: "next r", 2 * rank: "others"}.get(place)
        axes[0].plot(steps, line, color=color, linewidth=1.2, label=label)
    axes[0].plot(steps, cell["rho"], color=VERMILION, linestyle=":", linewidth=2, label="rho, predicted")
    axes[0].set(title="Singular values of W_1", xlabel="step", yscale="log")
    for line in zip(*cell["angles"], strict=True):
        axes[1].plot(steps, line, color=BLUE, linewidth=1.2)
    axes[1].axvline(cell["settled_step"], color=GREY, linestyle="--", linewidth=1)
    axes[1].set(title="Its leading right space: angles to the last, rad", xlabel="step")
    axes[2].plot(steps, cell["loss"], color=BLUE)
    axes[2].axvline(cell["settled_step"], color=GREY, linestyle="--", linewidth=1, label="angles settled")
    axes[2].set(title="Loss", xlabel="step", yscale="log")


def _deviations(cells: Cells, ax: Axes) -> None:
    for depth, color in zip((2, 3, 4), CYCLE, strict=False):
        for kind, dash in (("square", "-"), ("tall", "--")):
            cell = cells[f"{kind}, depth {depth}, decay 0.01"]
            ax.plot(
                cell["steps"],
                cell["product_deviation"],
                color=color,
                linestyle=dash,
                linewidth=1.1,
                label=f"L={depth}, {kind}",
            )
    ax.axhline(MAX_DEVIATION, color=GREY, linewidth=1, linestyle=":")
    ax.set(title="Wide less predicted product, relative", xlabel="step", yscale="log")
