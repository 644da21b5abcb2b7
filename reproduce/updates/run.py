"""The update that training adds to each layer, and the loss: LoRA, Deep LoRA, and the model that it compresses.

    python -m reproduce.updates.run --model MINILM --data ../shared/data [--seeds 3]

Question types, 64 rows, batches of 16, 100 steps; every form gets the same rows in the same batches at one seed. Only
the singular values and the losses of each run are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.shared.results import Cell
from corefold.cli.run_report import updates_of
from corefold.finetune import RunConfig, finetune
from reproduce.arguments import add_data, experiment_parser
from reproduce.experiment import Experiment
from reproduce.updates.claims import FORMS, claims, figure

HERE = Path(__file__).parent
QUESTION = (
    "Does Deep LoRA add updates of lower rank than LoRA, and does its loss follow the full-width model's?"
)


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    experiment = Experiment(options.out, QUESTION)
    for seed in range(options.seeds):
        for form, settings in FORMS.items():
            experiment.run(f"{form}, seed={seed}", partial(trained, options, settings, seed))
    experiment.conclude(claims, figure)


def trained(options: argparse.Namespace, settings: Mapping[str, Any], seed: int) -> Cell:
    """Losses and singular values of one run."""
    config = RunConfig(
        model=options.model,
        train=f"{options.data}/trec/train.csv",
        eval=f"{options.data}/trec/dev.csv",
        text="text",
        label="label",
        task="classification",
        samples=options.samples,
        eval_samples=options.judged,
        steps=options.steps,
        seed=seed,
        **settings,
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        metrics = finetune(config, out, progress=False).metrics
        history = json.loads((out / "history.json").read_text(encoding="utf-8"))
        updates = updates_of(out)
    return {
        "settings": dict(settings),
        "losses": [[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
        "scores": metrics["after"],
        "parameters": metrics["adapter"]["trainable_parameters"],
        "layers": [update.name for update in updates],
        "ranks": [update.numerical_rank for update in updates],
        "stable_ranks": [update.stable_rank for update in updates],
        "norms": [update.energy for update in updates],
    }


def _arguments() -> argparse.Namespace:
    parser = experiment_parser(__doc__, HERE)
    add_data(parser, "all-MiniLM-L6-v2, a folder or its name on the hub")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--judged", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
