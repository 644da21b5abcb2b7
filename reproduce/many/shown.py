"""What the cells of many runs come to: rows of the table, and the figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reproduce.common import AGREES, DIFFERS, Cell, claim, paper
from reproduce.fewshot.shown import (
    BETWEEN,
    FIXED,
    OURS,
    TUNED,
    against,
    against_defaults,
    against_tuned,
    flat,
)
from reproduce.fewshot.shown import figure as differences

COMMAND = "python -m reproduce.many.run --model MINILM"
MORE = f"{COMMAND} --samples {{}} --seeds 10"
EVERY = f"{COMMAND} --samples 16 64 256"
MAIN, OTHER = "MiniLM", "MPNet"
WITH_OTHER = f"python -m reproduce.many.run --model MPNET --called {OTHER} --sets stsb --seeds 5"
TWENTIETH = 20
RANKS: dict[str, dict[float, str]] = {
    "deep-lora": {2: OURS, **{rank: f"deep-lora, rank {rank}" for rank in (4, 8, 16, 64)}},
    "lora": {8: FIXED[1], **{rank: f"lora, 1e-3, rank {rank}" for rank in (2, 4, 16, 64)}},
}
Cells = Mapping[str, Cell]


def claims(cells: Cells) -> list[Cell]:
    """One row a target."""
    said, ours = paper(Path(__file__).parent), of(cells, MAIN)
    runs = " ".join(f"'{run}'" for runs in RANKS.values() for run in runs.values())
    ranks = f"{COMMAND} --sets trec --samples {{}} --seeds 5 --untuned --runs {runs}"
    return [
        *against_tuned(ours, said, COMMAND, MORE),
        *against_defaults(ours, said, EVERY),
        against("Ahead of LoRA at lr 3e-4, between its usual rates", said["default"], ours, BETWEEN, EVERY),
        *(
            against(f"MPNet-base, {rows} rows, against LoRA tuned in the same way", said["few"],
                    of(cells, OTHER, rows), TUNED, f"{WITH_OTHER} --samples {rows}")
            for rows in (16, 64, 256)
        ),
        _numbers(ours, said["parameters"]),
        *(flat("Flat in the rank", said["rank"], ours, RANKS, samples, ranks.format(samples)) for samples in (16, 256)),
    ]  # fmt: skip


def of(cells: Cells, base: str, samples: int | None = None) -> dict[str, Cell]:
    """The cells of one base model, on so many rows."""
    return {
        key: cell
        for key, cell in cells.items()
        if cell["base"] == base and samples in (None, cell["samples"])
    }


def _numbers(cells: Cells, published: str) -> Cell:
    bare = [
        cell for cell in cells.values() if cell["main"] == "pearson"
    ]  # with no head, which trains in any case
    counts = {
        cell["run"]: (cell["parameters"], cell["rank"]) for cell in bare if cell["run"] in (OURS, *FIXED)
    }
    text, told, good = "A twentieth of LoRA's trained numbers, heads aside", None, False
    if OURS in counts and FIXED[0] in counts:
        (few, rank), (many, of_lora) = counts[OURS], counts[FIXED[0]]
        good = many >= TWENTIETH * few
        told = (
            f"{few:,} at its rank, {rank}; LoRA {many:,} at its usual rank, {of_lora}, {many / few:.1f} times as many, "
            f"and at rank {rank} {many * rank / of_lora / few:.1f} times"
        )
    return claim(text, published, told, AGREES if good else DIFFERS, COMMAND, bare[:1] if told else [])


def figure(path: Path, cells: Cells) -> None:
    """Differences to the tuned LoRA, seed by seed."""
    differences(path, of(cells, MAIN))
