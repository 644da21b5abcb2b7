"""The forms that are trained, and the claims about them, from the cells: rows of the table, and the figure."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from benchmarks.shared.drawing import draw_panels
from benchmarks.shared.results import Cell
from corefold.report.plots import BLUE, GREEN, GREY, PURPLE, VERMILION
from reproduce.experiment import AGREES, DIFFERS, PARTLY, Cells, claim, not_run, paper

COMMAND = "python -m reproduce.updates.run"
SQUARE = {"width": 0, "depth": 3}
PAPER = {"method": "deep-lora", **SQUARE, "init_scale": 1e-3, "rank": 8, "lr": 1e-4}
COMPRESSED, WIDE, NARROW = "compressed", "full width", "narrow, random"
FORMS: dict[str, dict[str, Any]] = {
    "LoRA, rank 8": {"method": "lora", "rank": 8, "lr": 1e-3},
    "LoRA, rank 32": {"method": "lora", "rank": 32, "lr": 1e-3},
    "Deep LoRA, rank 8": {"method": "deep-lora", "rank": 8},
    "Deep LoRA, rank 32": {"method": "deep-lora", "rank": 32},
    "square core, rank 8": {"method": "deep-lora", "rank": 8, **SQUARE},
    "square core, rank 32": {"method": "deep-lora", "rank": 32, **SQUARE},
    # The authors' settings: DeepLoraConfig.paper(), the model that it compresses, and one of its size without bases.
    COMPRESSED: {**PAPER, "bases": "gradient", "basis_lr_ratio": 1e-2, "lr": 1e-2},
    WIDE: {**PAPER, "bases": "random", "rank": 384},
    NARROW: {**PAPER, "bases": "random"},
}
COLORS = dict(zip(FORMS, (VERMILION, VERMILION, BLUE, BLUE, GREY, GREY, GREEN, GREY, PURPLE), strict=True))
DASHED = {"LoRA, rank 32", "Deep LoRA, rank 32", "square core, rank 32"}


def claims(cells: Cells) -> list[Cell]:
    """One row a claim."""
    published = paper(__file__)
    return [
        *(
            _ranks(f"Deep LoRA's updates are of lower rank than LoRA's: rank {rank} given", published["rank"], cells,
                   f"Deep LoRA, rank {rank}", f"LoRA, rank {rank}")
            for rank in (8, 32)
        ),
        *(
            _ranks(f"Those of a square core are: rank {rank} given", published["rank"], cells,
                   f"square core, rank {rank}", f"LoRA, rank {rank}")
            for rank in (8, 32)
        ),
        _ranks("As its authors run it, too: rank 8 given", published["rank"], cells, COMPRESSED, "LoRA, rank 8"),
        _tracks(cells, published["track"]),
    ]  # fmt: skip


def _ranks(text: str, published: str, cells: Cells, one: str, other: str) -> Cell:
    mine, theirs = of(cells, one), of(cells, other)
    lower = [m < t for a, b in zip(mine, theirs, strict=False) for m, t in _layers(a, b)]
    if not lower:
        return not_run(text, published, COMMAND)
    share = fmean(lower)
    ours = (
        f"lower in {share:.0%} of layers over {min(len(mine), len(theirs))} seeds; singular values above 1 % of the "
        f"largest {_mean(mine, 'ranks'):.1f} against {_mean(theirs, 'ranks'):.1f}, stable rank "
        f"{_mean(mine, 'stable_ranks'):.1f} against {_mean(theirs, 'stable_ranks'):.1f}"
    )
    status = AGREES if share == 1 else PARTLY if share > 0.5 else DIFFERS
    return claim(text, published, ours, status, COMMAND, [*mine, *theirs])


def _layers(one: Cell, other: Cell) -> list[tuple[int, int]]:
    theirs = dict(zip(other["layers"], other["ranks"], strict=True))
    return [(rank, theirs[name]) for name, rank in zip(one["layers"], one["ranks"], strict=True)]


def _mean(cells: list[Cell], part: str) -> float:
    return fmean(value for cell in cells for value in cell[part])


def _tracks(cells: Cells, published: str) -> Cell:
    text = "The compressed model's loss follows the full-width one's, a narrow random one's lags"
    wide, parts, gaps = of(cells, WIDE), [], {}
    for form in (COMPRESSED, NARROW):
        pairs = list(zip(of(cells, form), wide, strict=False))
        if not pairs:
            return not_run(text, published, COMMAND)
        gaps[form] = fmean(
            abs(a - b)
            for one, other in pairs
            for (_, a), (_, b) in zip(one["losses"], other["losses"], strict=True)
        )
        parts.append(f"{form} {gaps[form]:.3f} off on average")
    falls = fmean(cell["losses"][0][1] - cell["losses"][-1][1] for cell in wide)
    ends = ", ".join(f"{form} {_end(of(cells, form)):.3f}" for form in (WIDE, COMPRESSED, NARROW))
    ours = f"{'; '.join(parts)}, where the full-width one's falls by {falls:.3f}; loss at the end: {ends}"
    good = gaps[COMPRESSED] < 0.1 * falls and gaps[COMPRESSED] < gaps[NARROW]
    status = AGREES if good else PARTLY if gaps[COMPRESSED] < gaps[NARROW] else DIFFERS
    return claim(text, published, ours, status, COMMAND,
                 [cell for form in (WIDE, COMPRESSED, NARROW) for cell in of(cells, form)])  # fmt: skip


def _end(cells: list[Cell]) -> float:
    return fmean(cell["losses"][-1][1] for cell in cells)


def of(cells: Cells, form: str) -> list[Cell]:
    """The cells of a form, by seed."""
    start = f"{form}, seed="
    return [
        cells[key]
        for key in sorted(key for key in cells if key.startswith(start) and key[len(start) :].isdigit())
    ]


def figure(cells: Cells, path: Path) -> None:
    """Ranks layer by layer, and losses step by step: means over seeds."""

    def fill(axes: list[Axes]) -> None:
        ranks, losses = axes
        for form, color in COLORS.items():
            own = of(cells, form)
            if not own:
                continue
            style: dict[str, Any] = {
                "color": color,
                "linestyle": "--" if form in DASHED else "-",
                "label": form,
            }
            by_layer = [fmean(each) for each in zip(*(cell["ranks"] for cell in own), strict=True)]
            ranks.plot(range(1, len(by_layer) + 1), by_layer, linewidth=1.2, **style)
            steps = [step for step, _ in own[0]["losses"]]
            means = [
                fmean(loss for _, loss in at) for at in zip(*(cell["losses"] for cell in own), strict=True)
            ]
            losses.plot(steps, means, linewidth=1.2, **style)
        ranks.set(xlabel="layer", ylabel="singular values above 1 % of the largest", yscale="log")
        losses.set(xlabel="step", ylabel="training loss")

    draw_panels(path, 1, 2, fill, width=5.6, height=3.8)
