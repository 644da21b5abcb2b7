"""Few labelled rows: Deep LoRA by its defaults against LoRA, tuned in each cell and by PEFT's defaults.

    python -m reproduce.fewshot.run --model MINILM --data ../shared/data --sets stsb trec sst2 --samples 16 64 --seeds 5

Cells lie in --work, one folder a set and a row of the table; what is there or in result.json is not run again.
The base model is in bfloat16, which takes two thirds of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from reproduce.common import Result, circumstances
from reproduce.fewshot.shown import PEERS, claims, figure

from corefold import recipe
from corefold.compare.grid import Key
from corefold.compare.plan import Plan, begin
from corefold.compare.store import read_cells
from corefold.finetune import RunConfig
from corefold.finetune.methods import METHODS
from corefold.finetune.peer_initialization import InitializationData, lora_layers

HERE = Path(__file__).parent
JUDGED = 500
COLUMNS = {
    "stsb": {"text": "sentence1", "text_pair": "sentence2", "label": "score", "task": "regression"},
    "trec": {"text": "text", "label": "label", "task": "classification"},
    "sst2": {"text": "text", "label": "label", "task": "classification"},
}
RATES = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class Run:
    """A row of the table: a method, its rank (None: the default of so many rows), and what is set or tuned."""

    method: str
    rank: int | None = 8
    rates: Sequence[float] = ()
    settings: dict[str, Any] = field(default_factory=dict)


SQUARE = {"width": 0, "depth": 3}
# DeepLoraConfig.paper(), and the model that it compresses: at full width random orthonormal bases leave nothing out.
PAPER = {**SQUARE, "bases": "gradient", "basis_lr_ratio": 1e-2, "init_scale": 1e-3, "lr": 1e-2}
WIDE, FULL_WIDTH = {**SQUARE, "bases": "random", "init_scale": 1e-3, "lr": 1e-4}, 384


def _as_authors_draw(data: InitializationData) -> None:
    for layer in lora_layers(data.adapted):
        torch.nn.init.normal_(layer.lora_A["default"].weight)


# The authors' baseline, A of unit variance and no alpha / r; but the head trains here, and the rate is constant there.
METHODS["lora-authors"] = replace(
    METHODS["lora"],
    peft=lambda settings, shared, base: LoraConfig(lora_alpha=settings.rank, **shared),
    initialize=_as_authors_draw,
)

RUNS = {
    "deep-lora": Run("deep-lora", None),
    "lora, tuned": Run("lora", rates=RATES),
    "head": Run("head"),
    "untouched": Run("untouched"),
    "lora, 2e-4": Run("lora", settings={"lr": 2e-4}),
    "lora, 1e-3": Run("lora", settings={"lr": 1e-3}),
    # Beyond the default six: a square core, which was the default before; LoRA and the compressed, the narrow and the
    # wide model as the authors run them; others' methods at their usual rates; and how flat in rank and rate.
    "deep-lora, square": Run("deep-lora", 32, settings=SQUARE),
    **{f"deep-lora, square, rank {rank}": Run("deep-lora", rank, settings=SQUARE) for rank in (2, 8, 16, 64)},
    **{
        f"deep-lora, square, {lr:g}": Run("deep-lora", 32, settings={**SQUARE, "lr": lr})
        for lr in (1e-3, 1e-2)
    },
    "lora, authors": Run("lora-authors", settings={"lr": 1e-4}),
    "deep-lora, narrow random": Run("deep-lora", 8, settings=WIDE),
    "deep-lora, paper": Run("deep-lora", 8, settings=PAPER),
    "deep-lora, full width": Run("deep-lora", FULL_WIDTH, settings=WIDE),
    **{name: Run(name) for name in PEERS if name != "vera"},
    "vera": Run("vera", 256),  # made for ranks in the hundreds
    **{f"deep-lora, rank {rank}": Run("deep-lora", rank) for rank in (4, 8, 16, 64)},
    **{f"lora, 1e-3, rank {rank}": Run("lora", rank, settings={"lr": 1e-3}) for rank in (2, 32, 64)},
    **{f"deep-lora, {lr:g}": Run("deep-lora", 2, settings={"lr": lr}) for lr in (2.2e-3, 2.2e-2)},
    **{f"lora, {lr:g}": Run("lora", settings={"lr": lr}) for lr in (3e-4, 3e-3)},
}
NEW_HEAD, NO_HEAD = {"untouched"}, {"head"}  # left out where the task has a new head, and where it has none


def folder(work: Path, name: str, run: str) -> Path:
    """Where the cells of a run on a set lie."""
    return work / name / run.replace(", ", "-").replace(" ", "-")


def main() -> None:
    """The command."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    known = Result(given.out / "result.json", "").cells
    for seeds in range(1, given.seeds + 1):  # in turns, so that what is done compares
        for (name, run), samples in product(_runs(given), given.samples):
            plan = _begin(given, name, run, samples, seeds)
            todo = [key for key in plan.todo if _called(run, name, key) not in known]
            replace(plan, todo=todo).run(1, lambda cell, run=run, name=name: _say(name, run, cell))
    write(given.work, given.out)


def _begin(given: argparse.Namespace, name: str, run: str, samples: int, seeds: int) -> Plan:
    row = RUNS[run]
    config = RunConfig(
        model=given.model,
        train=f"{given.data}/{name}/train.csv",
        eval=f"{given.data}/{name}/dev.csv",
        eval_samples=JUDGED,
        dtype="bfloat16",
        **COLUMNS[name],
    )
    config = replace(config, **row.settings)
    return begin(
        config,
        folder(given.work, name, run),
        methods=[row.method],
        ranks=[row.rank or recipe(rows=samples, batch_size=config.batch_size, width=config.width).r],
        samples=[samples],
        seeds=seeds,
        tries={row.method: [{"lr": rate} for rate in row.rates]},
    )


def _called(run: str, name: str, key: Key) -> str:
    return f"{run}, {name} {key.samples}, seed={key.seed}"


def write(work: Path, out: Path) -> None:
    """Take the cells that are done into result.json, and draw them."""
    result = Result(out / "result.json", __doc__ or "")
    for name in COLUMNS:
        for run in RUNS:
            for key, cell in read_cells(folder(work, name, run)).items():
                found = {} if cell["error"] else _short(cell)
                if found:
                    about = {
                        "run": run,
                        "set": name,
                        "seconds_in_all": cell["seconds"],
                        **circumstances("cpu"),
                    }
                    result.cells.setdefault(
                        f"{run}, {name} {key.samples}, seed={key.seed}", {**about, **found}
                    )
    result.claims = claims(result.cells)
    result.write()
    figure(out / "figure.svg", result.cells)


def _short(cell: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("method", "rank", "samples", "seed", "main", "scores", "seconds_per_step", "bytes")
    return {
        **{key: cell[key] for key in keys},
        "score": cell["scores"][cell["main"]],
        "lr": cell["settings"]["lr"],
        "tries": [{"lr": each["lr"], "score": each.get(cell["main"])} for each in cell["tries"]],
        "parameters": cell["trainable_parameters"],
        "test_rows": cell["rows"]["eval"],
    }


def _runs(given: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for run in RUNS if "all" in given.runs else given.runs:
        for name in given.sets:
            if run not in (NO_HEAD if name == "stsb" else NEW_HEAD):
                yield name, run


def _say(name: str, run: str, cell: Any) -> None:
    score = cell["error"] or f"{cell['scores'][cell['main']]:.4f}"
    print(
        f"{name}, {run}, {cell['samples']} rows, seed {cell['seed']}: {score}, {cell['seconds']:.0f} s",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--work", type=Path, default=Path("build/fewshot"), help="where the cells lie")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--sets", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--runs", nargs="+", choices=[*RUNS, "all"], default=list(RUNS)[:6])
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
