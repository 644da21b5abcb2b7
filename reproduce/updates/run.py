"""What training adds to each layer, and how the loss falls: LoRA, Deep LoRA, and the model that it compresses.

    python -m reproduce.updates.run --model MINILM --data ../shared/data [--seeds 3]

Question types, 64 rows, batches of 16, 100 steps; every form gets the same rows in the same batches at one seed. Needs
what `corefold finetune` needs, and keeps of each run only the singular values and the losses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from reproduce.common import Cell, Result
from reproduce.updates.shown import FORMS, claims, figure

from corefold.cli.run_report import updates_of
from corefold.finetune import RunConfig, finetune

HERE = Path(__file__).parent


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    result = Result(given.out / "result.json", __doc__ or "")
    for seed in range(given.seeds):
        for form, settings in FORMS.items():
            result.run(f"{form}, seed={seed}", lambda s=seed, settings=settings: fitted(given, settings, s))
    result.claims = claims(result.cells)
    result.write()
    figure(given.out / "figure.svg", result.cells)


def fitted(given: argparse.Namespace, settings: Mapping[str, Any], seed: int) -> Cell:
    """Losses and singular values of one run."""
    config = RunConfig(
        model=given.model,
        train=f"{given.data}/trec/train.csv",
        eval=f"{given.data}/trec/dev.csv",
        text="text",
        label="label",
        task="classification",
        samples=given.samples,
        eval_samples=given.judged,
        steps=given.steps,
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="all-MiniLM-L6-v2, a folder or its name on the hub")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--judged", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
