"""The claims about generated texts, from the cells: rows of the table, and the figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from benchmarks.shared.drawing import draw_panels
from benchmarks.shared.results import Cell
from corefold.compare.statistics import paired
from corefold.report.plots import BLUE, GREEN, PURPLE, VERMILION
from reproduce.experiment import AGREES, DIFFERS, PARTLY, Cells, claim, paper

COMMAND = "python -m reproduce.e2e.run"
METRICS = ("BLEU", "ROUGE-L", "METEOR")
OURS, UNTOUCHED = "Deep LoRA", "untouched"
BASELINES = ("LoRA, lr 0.0003", "LoRA, lr 0.001")
FORMS: dict[str, dict[str, object]] = {
    OURS: {"method": "deep-lora"},
    BASELINES[0]: {"method": "lora", "rank": 8, "lr": 3e-4},
    BASELINES[1]: {"method": "lora", "rank": 8, "lr": 1e-3},
    UNTOUCHED: {"method": "untouched"},
}
COLORS = {OURS: BLUE, BASELINES[0]: VERMILION, BASELINES[1]: PURPLE, UNTOUCHED: GREEN}


def claims(cells: Cells) -> list[Cell]:
    """One row a LoRA."""
    published = paper(__file__)["texts"]
    return [
        _against(f"Texts from data, SmolLM2-135M: not below {name} of rank 8", published, cells, name)
        for name in BASELINES
    ]


def _against(text: str, published: str, cells: Cells, other: str) -> Cell:
    parts, used, differences, behind = [], [], [], False
    for samples in sorted({cell["samples"] for cell in cells.values()} - {0}):
        mine, theirs = of(cells, OURS, samples), of(cells, other, samples)
        pairs = {metric: paired(_scores(mine, metric), _scores(theirs, metric)) for metric in METRICS}
        found = {metric: pair for metric, pair in pairs.items() if pair is not None}
        if not found:
            continue
        used += [each[seed] for each in (mine, theirs) for seed in mine.keys() & theirs.keys()]
        differences += [pair.mean for pair in found.values()]
        behind = behind or any(pair.high < 0 for pair in found.values())
        listed = ", ".join(
            f"{metric} {_mean(mine, theirs, metric):.1f}, {pair.mean:+.1f} [{pair.low:+.1f}, {pair.high:+.1f}]"
            for metric, pair in found.items()
        )
        parts.append(f"{samples} rows, {next(iter(found.values())).pairs} seeds: {listed}")
    below = bool(differences) and fmean(differences) < 0
    status = DIFFERS if below and behind else PARTLY if below or behind else AGREES
    untouched = next((cell["scores"] for cell in cells.values() if cell["form"] == UNTOUCHED), None)
    if untouched:
        parts.append("untouched " + ", ".join(f"{metric} {untouched[metric]:.1f}" for metric in METRICS))
    judged = {cell["judged"] for cell in used}
    ours = f"{'; '.join(parts)}; {', '.join(map(str, sorted(judged)))} meanings"
    return claim(text, published, ours, status, COMMAND, used)


def of(cells: Cells, form: str, samples: int) -> dict[int, Cell]:
    """The cells of a form, by seed."""
    return {
        cell["seed"]: cell for cell in cells.values() if (cell["form"], cell["samples"]) == (form, samples)
    }


def _mean(cells: Mapping[int, Cell], others: Mapping[int, Cell], metric: str) -> float:
    return fmean(score for seed, score in _scores(cells, metric).items() if seed in others)


def _scores(cells: Mapping[int, Cell], metric: str) -> dict[int, float]:
    return {seed: cell["scores"][metric] for seed, cell in cells.items()}


def figure(cells: Cells, path: Path) -> None:
    """Each metric over the number of rows, a dot a seed."""
    places = sorted({cell["samples"] for cell in cells.values()} - {0})

    def fill(axes: list[Axes]) -> None:
        for ax, metric in zip(axes, METRICS, strict=True):
            for shift, form in enumerate((OURS, *BASELINES)):
                for place, samples in enumerate(places):
                    found = _scores(of(cells, form, samples), metric)
                    at = [place + 0.12 * (shift - 1)] * len(found)
                    ax.plot(at, list(found.values()), "o", color=COLORS[form], markersize=4, alpha=0.6,
                            label=form if place == 0 else None)  # fmt: skip
            for cell in of(cells, UNTOUCHED, 0).values():
                ax.axhline(cell["scores"][metric], color=GREEN, linewidth=1, linestyle="--", label=UNTOUCHED)
            ax.set_xticks(range(len(places)), [f"{samples} rows" for samples in places])
            ax.set_xlim(-0.5, len(places) - 0.5)
            ax.set_title(metric, fontsize=9)

    draw_panels(path, 1, len(METRICS), fill, width=3.6)
