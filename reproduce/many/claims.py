"""The claims about many runs, from the cells: rows of the table, and the figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.shared.results import Cell
from reproduce.experiment import AGREES, DIFFERS, Cells, claim, paper
from reproduce.fewshot.claims import (
    BETWEEN,
    FIXED,
    NAMED,
    OURS,
    TUNED,
    against,
    against_defaults,
    against_tuned,
    flat,
)
from reproduce.fewshot.claims import figure as differences

COMMAND = "python -m reproduce.many.run --model MINILM"
MORE = f"{COMMAND} --samples {{}} --seeds 10"
EVERY = f"{COMMAND} --samples 16 64 256"
MAIN, OTHER = "MiniLM", "MPNet"
WITH_OTHER = f"python -m reproduce.many.run --model MPNET --called {OTHER} --sets stsb --seeds 5"
MIN_RATIO = 20  # LoRA's trained numbers over Deep LoRA's
EARLIER = "deep-lora, no weight decay"
RANKS: dict[str, dict[float, str]] = {
    "deep-lora": {2: OURS, **{rank: f"deep-lora, rank {rank}" for rank in (4, 8, 16, 64)}},
    "lora": {8: FIXED[1], **{rank: f"lora, 1e-3, rank {rank}" for rank in (2, 4, 16, 64)}},
}
RATES: dict[str, dict[float, str]] = {  # a decade around the default: Deep LoRA's as shares of its own
    "deep-lora": {0.316: "deep-lora, rate x 0.316", 1: OURS, 3.16: "deep-lora, rate x 3.16"},
    "lora": {1e-4: "lora, 1e-4", 3e-4: BETWEEN, 1e-3: FIXED[1]},
}


def claims(cells: Cells) -> list[Cell]:
    """One row a target."""
    printed, ours = paper(__file__), of(cells, MAIN)
    without = f"{EVERY} --sets trec sst2 reviews --untuned --runs deep-lora '{EARLIER}'"
    ranks = f"{COMMAND} --sets trec --samples {{}} --seeds 5 --untuned --runs {_listed(RANKS)}"
    rates = f"{COMMAND} --sets {{}} --samples 64 --seeds 5 --untuned --runs {_listed(RATES)}"
    return [
        *against_tuned(ours, printed, COMMAND, MORE),
        *against_defaults(ours, printed, EVERY),
        against("Ahead of itself at half the rate and without weight decay, an earlier default", printed["decay"], ours,
                EARLIER, without),
        *(
            against(f"Less overfitted than without weight decay on {rows:,} rows: minus the loss elsewhere",
                    printed["decay"], _losses(of(cells, MAIN, rows)), EARLIER, without)
            for rows in (16, 64, 256)
        ),
        *(
            against(f"Less overfitted than the tuned LoRA on {rows:,} rows: minus the loss elsewhere", printed["loss"],
                    _losses(of(cells, MAIN, rows)), TUNED, f"{COMMAND} --samples {rows}")
            for rows in (16, 64, 256, 1024)
        ),
        against("Ahead of LoRA at lr 3e-4, between its usual rates", printed["default"], ours, BETWEEN, EVERY),
        *(
            against(f"MPNet-base, {rows} rows, against LoRA tuned in the same way", printed["few"],
                    of(cells, OTHER, rows), TUNED, f"{WITH_OTHER} --samples {rows}")
            for rows in (16, 64, 256)
        ),
        _numbers(ours, printed["parameters"]),
        *(flat("Flat in the rank", printed["rank"], ours, RANKS, rows, ranks.format(rows)) for rows in (16, 256)),
        *(flat("Flat over a decade of learning rates", printed["rate"], ours, RATES, 64, rates.format(name), name)
          for name in NAMED),
    ]  # fmt: skip


def _losses(cells: Cells) -> dict[str, Cell]:
    """The cells with minus their loss as their score."""
    return {key: {**cell, "score": -cell["loss"]} for key, cell in cells.items()}


def _listed(swept: Mapping[str, Mapping[float, str]]) -> str:
    return " ".join(f"'{run}'" for runs in swept.values() for run in runs.values())


def of(cells: Cells, base: str, samples: int | None = None) -> dict[str, Cell]:
    """The cells of one base model; on one number of rows, if given."""
    return {
        key: cell
        for key, cell in cells.items()
        if cell["base"] == base and samples in (None, cell["samples"])
    }


def _numbers(cells: Cells, published: str) -> Cell:
    # Pairs have no head, which every method trains.
    bare = [cell for cell in cells.values() if cell["main"] == "pearson"]
    ours, lora = (
        {cell["rank"]: cell["parameters"] for cell in bare if cell["run"] == run} for run in (OURS, FIXED[0])
    )
    text, counts, good = "A twentieth of LoRA's trained numbers, heads aside", None, False
    if ours and lora:
        few, ((of_lora, many),) = max(ours.values()), lora.items()
        good = many >= MIN_RATIO * few
        counts = (
            f"{few:,} at its rank, {' or '.join(map(str, sorted(ours)))}; LoRA {many:,} at its usual rank, {of_lora}, "
            f"{many / few:.1f} times as many, and at rank {min(ours)} {many * min(ours) / of_lora / few:.1f} times"
        )
    return claim(text, published, counts, AGREES if good else DIFFERS, COMMAND, bare[:1] if counts else [])


def figure(cells: Cells, path: Path) -> None:
    """Differences to the tuned LoRA, seed by seed."""
    differences(of(cells, MAIN), path)
