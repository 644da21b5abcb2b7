"""Which defaults serve classes and cosines, few rows and more: Deep LoRA's variants beside LoRA.

    python -m reproduce.defaults.run --model MINILM --data ../shared/data [--only NAME ...] [--sets trec] [--samples 64]

Judged on rows of the training files that no variant trains on; the development files are left for `fewshot`. The base
model is in bfloat16, which takes two thirds of the time, and texts are cut to 40 tokens.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from reproduce.common import Cell, Result
from reproduce.defaults.shown import claims, figure
from reproduce.defaults.variants import VARIANTS, Variant

from corefold.finetune import RunConfig
from corefold.finetune.data import draw
from corefold.finetune.run_data import SourceTables, prepare_data, read_tables, with_absolute_paths
from corefold.finetune.trainer import prepare

HERE = Path(__file__).parent
COLUMNS = {
    "stsb": {"text": "sentence1", "text_pair": "sentence2", "label": "score", "task": "regression"},
    "trec": {"text": "text", "label": "label", "task": "classification"},
    "sst2": {"text": "text", "label": "label", "task": "classification"},
}
JUDGED = {"stsb": 200, "trec": 400, "sst2": 400}
SHUFFLED = 12345  # seed of the order from which the judged rows are taken


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    result = Result(given.out / "result.json", __doc__ or "")
    for seed in range(given.seeds):
        for name in given.sets:
            config, tables = _read(given, name)
            for samples in given.samples:
                for variant in given.only:
                    key = f"{variant}, {name} {samples}, seed={seed}"
                    result.run(
                        key,
                        lambda v=VARIANTS[variant], n=samples, s=seed: fitted(v, config, tables, n, s),  # noqa: B023
                    )
    result.claims = claims(result.cells)
    result.write()
    figure(given.out / "figure.svg", result.cells)


def fitted(variant: Variant, config: RunConfig, tables: SourceTables, samples: int, seed: int) -> Cell:
    """The scores of one variant on the judged rows."""
    method, task = variant.made(), tables.task
    config = replace(config, samples=samples, seed=seed, **variant.settings)
    assert tables.held_out is not None  # noqa: S101 - for the type checker
    train = draw(tables.train, samples, seed, task.stratify, "the rows not judged")
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
    """Mean over layers of the update's spectral norm; None without chains."""
    cores = [
        each.chain("default").core() for each in model.modules() if getattr(each, "deeplora_factors", None)
    ]
    return float(torch.stack([torch.linalg.matrix_norm(core, 2) for core in cores]).mean()) if cores else None


def _read(given: argparse.Namespace, name: str) -> tuple[RunConfig, SourceTables]:
    columns: Mapping[str, Any] = COLUMNS[name]
    config = with_absolute_paths(
        RunConfig(
            model=given.model,
            train=f"{given.data}/{name}/train.csv",
            dtype="bfloat16",
            max_length=40,
            **columns,
        )
    )
    found = read_tables(config)
    rows = found.train.sample(frac=1, random_state=SHUFFLED)
    judged, pool = rows.iloc[: JUDGED[name]], rows.iloc[max(JUDGED.values()) :]
    return config, SourceTables(found.task, pool.reset_index(drop=True), judged.reset_index(drop=True))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="all-MiniLM-L6-v2, a folder or its name on the hub")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--sets", nargs="+", choices=COLUMNS, default=["stsb", "trec"])
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
