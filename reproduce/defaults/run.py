"""Which defaults serve classes and cosines, on few rows and on more? Deep LoRA's variants beside LoRA.

    python -m reproduce.defaults.run --model MINILM --data ../shared/data [--only NAME ...] [--sets trec] [--samples 64]

Scores are of rows of the training files on which no variant trains; the development files are left for `fewshot`. The
base model is in bfloat16, which takes two thirds of the time, and texts are cut to 40 tokens.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.shared.results import Cell
from corefold.adapters import DeepLoraLayer
from corefold.finetune import RunConfig
from corefold.finetune.data import draw
from corefold.finetune.run_data import (
    SourceTables,
    class_column,
    prepare_data,
    read_tables,
    with_absolute_paths,
)
from corefold.finetune.trainer import prepare
from reproduce.arguments import add_data, experiment_parser
from reproduce.defaults.claims import claims, figure
from reproduce.defaults.variants import VARIANTS, Variant
from reproduce.experiment import Experiment

HERE = Path(__file__).parent
QUESTION = "Which defaults serve classes and cosines, on few rows and on more?"
COLUMNS = {
    "stsb": {"text": "sentence1", "text_pair": "sentence2", "label": "score", "task": "regression"},
    "trec": {"text": "text", "label": "label", "task": "classification"},
    "sst2": {"text": "text", "label": "label", "task": "classification"},
}
JUDGED_ROWS = {"stsb": 200, "trec": 400, "sst2": 400}
SHUFFLE_SEED = 12345  # It orders the rows from which the judged ones are taken.


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    experiment = Experiment(options.out, QUESTION)
    for seed, name in product(range(options.seeds), options.sets):
        config, tables = _read(options, name)
        for samples, variant in product(options.samples, options.only):
            work = partial(judged, VARIANTS[variant], config, tables, samples, seed)
            experiment.run(f"{variant}, {name} {samples}, seed={seed}", work)
    experiment.conclude(claims, figure)


def judged(variant: Variant, config: RunConfig, tables: SourceTables, samples: int, seed: int) -> Cell:
    """The scores of one variant on the judged rows."""
    method, task = variant.changed_method(), tables.task
    config = replace(config, samples=samples, seed=seed, **variant.settings)
    assert tables.held_out is not None  # noqa: S101 - for the type checker
    train = draw(tables.train, samples, seed, class_column(task), "the rows not judged")
    data = prepare_data(config, task, train, tables.held_out, method)
    with tempfile.TemporaryDirectory() as folder:
        fit = prepare(data, Path(folder))
        fit.train()
    losses = [entry["loss"] for entry in fit.trainer.state.log_history if "loss" in entry]
    return {
        "spec": asdict(variant),
        "scores": fit.evaluate(),
        "lr": data.settings.lr,
        "steps": data.settings.steps,
        "train_loss": losses[-1],
        "norm": _norm(fit.model),
    }


def _norm(model: Any) -> float | None:
    """Mean over layers of the update's spectral norm; None for other methods than Deep LoRA."""
    cores = [layer.update("default").core() for layer in model.modules() if isinstance(layer, DeepLoraLayer)]
    return float(torch.stack([torch.linalg.matrix_norm(core, 2) for core in cores]).mean()) if cores else None


def _read(options: argparse.Namespace, name: str) -> tuple[RunConfig, SourceTables]:
    columns: Mapping[str, Any] = COLUMNS[name]
    config = with_absolute_paths(
        RunConfig(
            model=options.model,
            train=f"{options.data}/{name}/train.csv",
            dtype="bfloat16",
            max_length=40,
            **columns,
        )
    )
    tables = read_tables(config)
    rows = tables.train.sample(frac=1, random_state=SHUFFLE_SEED)
    held_out, pool = rows.iloc[: JUDGED_ROWS[name]], rows.iloc[max(JUDGED_ROWS.values()) :]
    return config, SourceTables(tables.task, pool.reset_index(drop=True), held_out.reset_index(drop=True))


def _arguments() -> argparse.Namespace:
    parser = experiment_parser(__doc__, HERE)
    add_data(parser, "all-MiniLM-L6-v2, a folder or its name on the hub")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--sets", nargs="+", choices=COLUMNS, default=["stsb", "trec"])
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
