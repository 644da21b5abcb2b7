"""The claims of Kwon et al., from the cells: rows of the table, and the figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.shared.drawing import draw_panels
from benchmarks.shared.results import Cell
from corefold.report.plots import BLUE, GREEN, GREY, PURPLE, VERMILION
from reproduce.experiment import AGREES, DIFFERS, PARTLY, Cells, claim, not_run, paper

COMMAND = "python -m reproduce.kwon.run --only"
COLORS = {
    "wide": VERMILION,
    "compressed": BLUE,
    "compressed, alpha 5": GREEN,
    "random bases": GREY,
    "dense": PURPLE,
    "no layer": "#b8860b",
}
MIN_SPEEDUP = 2.0
MAX_LOSS = 0.005  # largest loss of accuracy
PAPER_SIZE = ", paper's size"


def claims(cells: Cells) -> list[Cell]:
    """One row a claim, from the cells alone."""
    published = paper(__file__)
    matrices = [*of(cells, "completion"), *of(cells, "sensing")]
    return [
        *_factorization(of(cells, "factorization"), published),
        _speed("Completion", "completion", cells, published),
        _speed("Sensing", "sensing", cells, published),
        _speed("Sensing, the paper's size", f"sensing{PAPER_SIZE}", cells, published),
        _alpha(matrices, published),
        _start(matrices, published),
        _layer("Digits: the 256 x 256 layer before an MLP's head", "digits", cells, published),
        _layer(
            "Film sentiment: the 384 x 384 layer of MiniLM's head, MiniLM frozen", "minilm", cells, published
        ),
    ]


def of(cells: Cells, part: str) -> list[Cell]:
    """The seeds of a part."""
    return [cell for name, cell in cells.items() if name.startswith(f"{part}, seed=")]


def _factorization(cells: list[Cell], published: Mapping[str, str]) -> list[Cell]:
    text, command = (
        "Factorization: compressed is nearer to the target than wide at every step",
        f"{COMMAND} factorization",
    )
    if not cells:
        return [not_run(text, published["factorization"], command)]
    below = sum(cell["worst_over_wide"] <= 1 for cell in cells)
    worst, points = max(cell["worst_over_wide"] for cell in cells), min(cell["points"] for cell in cells)
    ours = (
        f"{_about(cells)}: so in {below} of {len(cells)}, at {points} or more steps looked at; compressed over wide "
        f"at most {worst:.6f}, at the start; {_outcomes(cells, ('wide', 'compressed'))}; {_faster(cells)}"
    )
    status = AGREES if below == len(cells) else PARTLY if below else DIFFERS
    return [claim(text, published["factorization"], ours, status, command, cells)]


def _speed(name: str, part: str, cells: Cells, published: Mapping[str, str]) -> Cell:
    text = f"{name}: compressed comes to the error in half the time of wide"
    option = " --paper" if part.endswith(PAPER_SIZE) else ""
    command = f"{COMMAND} {part.removesuffix(PAPER_SIZE)}{option}"
    own = of(cells, part)
    ratios = _ratios(own)
    missed = sum(not cell["forms"]["compressed"]["met"] for cell in own)
    ours, status = None, DIFFERS
    if own:
        counts = own[0]["forms"]
        ours = (
            f"{_about(own)}: {_faster(own)}; {_outcomes(own, ('wide', 'compressed'))}; "
            f"{counts['wide']['parameters']:,} and {counts['compressed']['parameters']:,} parameters"
        )
        faster = bool(ratios) and statistics.median(ratios) > 1 and not missed
        status = AGREES if faster and min(ratios) >= MIN_SPEEDUP else PARTLY if faster else DIFFERS
    return claim(text, published["speed"], ours, status, command, own)


def _alpha(cells: list[Cell], published: Mapping[str, str]) -> Cell:
    text = "Outer factors at five times the rate come to the error sooner than at the same"
    return _fewer(text, published["alpha"], cells, "compressed, alpha 5", "compressed")


def _start(cells: list[Cell], published: Mapping[str, str]) -> Cell:
    text = "The spectral start, not the small width, brings the steps down"
    return _fewer(text, published["start"], cells, "compressed", "random bases")


def _fewer(text: str, published: str, cells: list[Cell], one: str, other: str) -> Cell:
    command = f"{COMMAND} completion,sensing"
    if not cells:
        return not_run(text, published, command)
    wins = [_sooner(cell["forms"][one], cell["forms"][other]) for cell in cells]
    sides = sorted({cell["side"] for cell in cells}, reverse=True)
    listed = "; ".join(
        f"{_about(same)}: {_outcomes(same, (one, other))}"
        for side in sides
        if (same := [cell for cell in cells if cell["side"] == side])
    )
    ours = f"sooner in {sum(wins)} of {len(wins)}, each at the rate chosen for it; {listed}"
    return claim(
        text, published, ours, AGREES if all(wins) else PARTLY if any(wins) else DIFFERS, command, cells
    )


def _sooner(one: Cell, other: Cell) -> bool:
    return one["met"] and (not other["met"] or one["steps"] < other["steps"])


def _about(cells: list[Cell]) -> str:
    first = cells[0]
    return f"d={first['side']}, rank {first['rank']}, {len(cells)} matrices, to {first['target']:g}"


def _ratios(cells: Iterable[Cell]) -> list[float]:
    """Seconds of wide over those of compressed, where both reached the error."""
    pairs = [(cell["forms"]["wide"], cell["forms"]["compressed"]) for cell in cells]
    return [
        wide["cpu_seconds"] / small["cpu_seconds"] for wide, small in pairs if wide["met"] and small["met"]
    ]


def _faster(cells: list[Cell]) -> str:
    ratios = _ratios(cells)
    if not ratios:
        return "no pair came to the error"
    return (
        f"{_spread(ratios, '.2g')} times as fast, faster in {sum(one > 1 for one in ratios)} of {len(cells)}"
    )


def _outcomes(cells: list[Cell], forms: Sequence[str]) -> str:
    return ", ".join(_form_outcome(cells, form) for form in forms)


def _form_outcome(cells: list[Cell], form: str) -> str:
    runs = [cell["forms"][form] for cell in cells]
    steps = [run["steps"] for run in runs if run["met"]]
    missed = len(runs) - len(steps)
    rates = ", ".join(f"{lr:g}" for lr in sorted({run["lr"] for run in runs}))
    taken = f"{_spread(steps, '.0f')} steps" if steps else "never"
    return f"{form} {taken} at lr {rates}" + (f" (not in {missed} of {len(runs)})" if missed else "")


def _spread(values: Sequence[float], digits: str) -> str:
    """The median, the least and the greatest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{digits}} [{low:{digits}}, {high:{digits}}]"


def _layer(what: str, part: str, cells: Cells, published: Mapping[str, str]) -> Cell:
    text, own = f"{what}: a chain trains in half the time as well", of(cells, part)
    if not own:
        return not_run(text, published["layers"], f"{COMMAND} {part}")
    forms, first = list(own[0]["forms"]), own[0]
    each = "; ".join(f"{form}: {_trained([cell['forms'][form] for cell in own])}" for form in forms)
    others = [form for form in forms if form != "compressed"]
    paired = ", ".join(f"less {form} {_paired(own, form)}" for form in others)
    fast = statistics.median(
        cell["forms"]["wide"]["cpu_seconds"] / cell["forms"]["compressed"]["cpu_seconds"] for cell in own
    )
    as_well = all(statistics.fmean(_differences(own, form)) >= -MAX_LOSS for form in ("wide", "dense"))
    ours = (
        f"{first['rows']} rows, {first['test_rows']} test rows, {first['steps']} steps of {first['batch']}, "
        f"{len(own)} seeds, each form at the rate chosen for it. {each}. Accuracy of compressed {paired}"
    )
    good = (fast >= MIN_SPEEDUP) + as_well
    status = {2: AGREES, 1: PARTLY, 0: DIFFERS}[good]
    return claim(text, published["layers"], ours, status, f"{COMMAND} {part}", own)


def _trained(runs: list[Cell]) -> str:
    mean: Callable[[str], float] = lambda name: statistics.fmean(run[name] for run in runs)  # noqa: E731
    counted = [run["steps_to_goal"] for run in runs if run["steps_to_goal"] is not None]
    late = f" (not in {len(runs) - len(counted)} of {len(runs)})" if len(counted) < len(runs) else ""
    steps = f"{statistics.median(counted):.0f} steps{late}" if counted else f"never{late}"
    edge = sum(run["lr"] in (run["tried"][0]["lr"], run["tried"][-1]["lr"]) for run in runs)
    at_edge = f", rate at the edge of those tried in {edge} of {len(runs)}" if edge else ""
    return (
        f"{runs[0]['parameters']:,} parameters, accuracy {mean('accuracy'):.4f}, {mean('cpu_seconds'):.2g} s, "
        f"to a point below where dense ends {steps}{at_edge}"
    )


def _differences(cells: list[Cell], other: str) -> list[float]:
    return [cell["forms"]["compressed"]["accuracy"] - cell["forms"][other]["accuracy"] for cell in cells]


def _paired(cells: list[Cell], other: str) -> str:
    apart = _differences(cells, other)
    wins, losses = sum(one > 0 for one in apart), sum(one < 0 for one in apart)
    mean, low, high = statistics.fmean(apart), min(apart), max(apart)
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}], {wins} wins, {losses} losses"


def figure(cells: Cells, path: Path) -> None:
    """Errors by step of the first matrix, accuracy by step of the first split, and seconds beside accuracy."""

    def fill(axes: list[Axes]) -> None:
        for part, ax in zip(("factorization", "completion", "sensing"), axes, strict=False):
            _draw_curves(of(cells, part), ax, "errors", f"Relative error, {part}, first seed", "log")
        names = {"digits": "digits", "minilm": "film sentiment"}
        for (part, name), ax in zip(names.items(), axes[3:], strict=False):
            _draw_curves(of(cells, part), ax, "accuracies", f"Test accuracy, {name}, first seed", "linear")
        _draw_layers([cell for part in names for cell in of(cells, part)], axes[5])

    draw_panels(path, 2, 3, fill)


def _draw_curves(cells: list[Cell], ax: Axes, values: str, title: str, scale: str) -> None:
    for form, run in (cells[0]["forms"] if cells else {}).items():
        curve = run["curve"]
        ax.plot(curve["steps"], curve[values], color=COLORS[form], linewidth=1.2, label=form)
    # Runs that never reach the error are long, so steps have a logarithmic scale too.
    ax.set(title=title, xlabel="step", yscale=scale, xscale=scale)


def _draw_layers(cells: list[Cell], ax: Axes) -> None:
    for form, color in COLORS.items():
        runs = [cell["forms"][form] for cell in cells if form in cell["forms"]]
        if runs:
            seconds, right = zip(*((run["cpu_seconds"], run["accuracy"]) for run in runs), strict=True)
            ax.plot(seconds, right, "o", color=color, markersize=4, alpha=0.8, label=form)
    ax.set(title="Both: accuracy by seconds of training, each seed", xlabel="processor seconds")
