"""Few labelled rows: Deep LoRA with its defaults beside LoRA, tuned in each cell and with PEFT's defaults.

    python -m reproduce.fewshot.run --model MINILM --data ../shared/data --sets stsb trec sst2 --samples 16 64 --seeds 5

Cells lie in --work, in a folder for each set and row of the table; cells there or in result.json are not run again.
The base model is in bfloat16, which takes two thirds of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from benchmarks.shared.results import circumstances
from corefold import recipe
from corefold.compare.grid import Key
from corefold.compare.plan import Plan, begin
from corefold.compare.store import read_cells
from corefold.finetune import RunConfig
from corefold.finetune.methods import METHODS
from corefold.finetune.peer_initialization import InitializationData, lora_layers
from reproduce.arguments import add_data, experiment_parser
from reproduce.experiment import Experiment, rounded
from reproduce.fewshot.claims import PEERS, claims, figure

HERE = Path(__file__).parent
QUESTION = "Is Deep LoRA with its defaults as good on few rows as LoRA and its kin, tuned or not?"
JUDGED_ROWS = 500
COLUMNS = {
    "stsb": {"text": "sentence1", "text_pair": "sentence2", "label": "score", "task": "regression"},
    "trec": {"text": "text", "label": "label", "task": "classification"},
    "sst2": {"text": "text", "label": "label", "task": "classification"},
}
RATES = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class ComparedMethod:
    """A row of the table.

    Attributes:
        method: by its name in `corefold compare`.
        rank: None for the default for this number of rows.
        rates: from which the rate is chosen.
        settings: of `RunConfig`.
    """

    method: str
    rank: int | None = 8
    rates: Sequence[float] = ()
    settings: dict[str, Any] = field(default_factory=dict)


SQUARE = {"width": 0, "depth": 3}
# DeepLoraConfig.paper(), and the model that it compresses: at full width, random orthonormal bases span all directions.
PAPER = {**SQUARE, "bases": "gradient", "basis_lr_ratio": 1e-2, "init_scale": 1e-3, "lr": 1e-2}
WIDE, FULL_WIDTH = {**SQUARE, "bases": "random", "init_scale": 1e-3, "lr": 1e-4}, 384


def _as_authors_draw(data: InitializationData) -> None:
    for layer in lora_layers(data.adapted):
        torch.nn.init.normal_(layer.lora_A["default"].weight)


# The authors' baseline has A of unit variance and no alpha / r. Here the head trains too; their rate is constant.
METHODS["lora-authors"] = replace(
    METHODS["lora"],
    peft=lambda settings, shared, base: LoraConfig(lora_alpha=settings.rank, **shared),
    initialize=_as_authors_draw,
)

RUNS = {
    "deep-lora": ComparedMethod("deep-lora", None),
    "lora, tuned": ComparedMethod("lora", rates=RATES),
    "head": ComparedMethod("head"),
    "untouched": ComparedMethod("untouched"),
    "lora, 2e-4": ComparedMethod("lora", settings={"lr": 2e-4}),
    "lora, 1e-3": ComparedMethod("lora", settings={"lr": 1e-3}),
    # Beyond the default six: a square core, an earlier default; LoRA and the compressed, the narrow and the wide model
    # with the authors' settings; other methods at their usual rates; and ranks and rates around the defaults.
    "deep-lora, square": ComparedMethod("deep-lora", 32, settings=SQUARE),
    **{
        f"deep-lora, square, rank {rank}": ComparedMethod("deep-lora", rank, settings=SQUARE)
        for rank in (2, 8, 16, 64)
    },
    **{
        f"deep-lora, square, {lr:g}": ComparedMethod("deep-lora", 32, settings={**SQUARE, "lr": lr})
        for lr in (1e-3, 1e-2)
    },
    "lora, authors": ComparedMethod("lora-authors", settings={"lr": 1e-4}),
    "deep-lora, narrow random": ComparedMethod("deep-lora", 8, settings=WIDE),
    "deep-lora, paper": ComparedMethod("deep-lora", 8, settings=PAPER),
    "deep-lora, full width": ComparedMethod("deep-lora", FULL_WIDTH, settings=WIDE),
    **{name: ComparedMethod(name) for name in PEERS if name != "vera"},
    "vera": ComparedMethod("vera", 256),  # its usual ranks are in the hundreds
    **{f"deep-lora, rank {rank}": ComparedMethod("deep-lora", rank) for rank in (4, 8, 16, 64)},
    **{
        f"lora, 1e-3, rank {rank}": ComparedMethod("lora", rank, settings={"lr": 1e-3})
        for rank in (2, 32, 64)
    },
    **{f"deep-lora, {lr:g}": ComparedMethod("deep-lora", 2, settings={"lr": lr}) for lr in (2.2e-3, 2.2e-2)},
    **{f"lora, {lr:g}": ComparedMethod("lora", settings={"lr": lr}) for lr in (3e-4, 3e-3)},
}
# Runs that are left out: the untouched model where the task has a new head, the head alone where it has none.
NEW_HEAD, NO_HEAD = {"untouched"}, {"head"}


def folder(work: Path, name: str, run: str) -> Path:
    """Where the cells of a run on a set lie."""
    return work / name / run.replace(", ", "-").replace(" ", "-")


def main() -> None:
    """The command."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    known = Experiment(options.out, QUESTION).cells
    for seeds in range(1, options.seeds + 1):  # in turns, so that finished cells are paired
        for (name, run), samples in product(_runs(options), options.samples):
            plan = _begin(options, name, run, samples, seeds)
            todo = [key for key in plan.todo if _cell_name(run, name, key) not in known]
            replace(plan, todo=todo).run(1, partial(_print_cell, name, run))
    write(options.work, options.out)


def _begin(options: argparse.Namespace, name: str, run: str, samples: int, seeds: int) -> Plan:
    row = RUNS[run]
    config = RunConfig(
        model=options.model,
        train=f"{options.data}/{name}/train.csv",
        eval=f"{options.data}/{name}/dev.csv",
        eval_samples=JUDGED_ROWS,
        dtype="bfloat16",
        **COLUMNS[name],
    )
    config = replace(config, **row.settings)
    return begin(
        config,
        folder(options.work, name, run),
        methods=[row.method],
        ranks=[row.rank or recipe(rows=samples, batch_size=config.batch_size, width=config.width).r],
        samples=[samples],
        seeds=seeds,
        tries={row.method: [{"lr": rate} for rate in row.rates]},
    )


def _cell_name(run: str, name: str, key: Key) -> str:
    return f"{run}, {name} {key.samples}, seed={key.seed}"


def write(work: Path, out: Path) -> None:
    """Take the finished cells into result.json, and draw them."""
    experiment = Experiment(out, QUESTION)
    for name, run in product(COLUMNS, RUNS):
        for key, cell in read_cells(folder(work, name, run)).items():
            if not cell["error"]:
                about = {"run": run, "set": name, "seconds_in_all": cell["seconds"], **circumstances("cpu")}
                cell_name = _cell_name(run, name, key)
                experiment.cells.setdefault(cell_name, rounded({**about, **_kept(cell)}))
    experiment.conclude(claims, figure)


def _kept(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a cell of `corefold compare` that claims and readers need."""
    keys = ("method", "rank", "samples", "seed", "main", "scores", "seconds_per_step", "bytes")
    return {
        **{key: cell[key] for key in keys},
        "score": cell["scores"][cell["main"]],
        "lr": cell["settings"]["lr"],
        "tries": [{"lr": each["lr"], "score": each.get(cell["main"])} for each in cell["tries"]],
        "parameters": cell["trainable_parameters"],
        "test_rows": cell["rows"]["eval"],
    }


def _runs(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for run in RUNS if "all" in options.runs else options.runs:
        for name in options.sets:
            if run not in (NO_HEAD if name == "stsb" else NEW_HEAD):
                yield name, run


def _print_cell(name: str, run: str, cell: Any) -> None:
    score = cell["error"] or f"{cell['scores'][cell['main']]:.4f}"
    print(
        f"{name}, {run}, {cell['samples']} rows, seed {cell['seed']}: {score}, {cell['seconds']:.0f} s",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = experiment_parser(__doc__, HERE)
    add_data(parser, "all-MiniLM-L6-v2, a folder or its name on the hub")
    parser.add_argument("--work", type=Path, default=Path("build/fewshot"), help="where the cells lie")
    parser.add_argument("--sets", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--runs", nargs="+", choices=[*RUNS, "all"], default=list(RUNS)[:6])
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
