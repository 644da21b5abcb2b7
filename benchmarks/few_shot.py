"""Does `corefold finetune` work on real few-shot data? One JSON line a cell; a killed run goes on.

    python benchmarks/few_shot.py ../shared/data MODEL_FOLDER results/few_shot.json --sets sst2,stsb,trec

The data sets are not part of the project: sst2, stsb and trec hold train.csv and dev.csv with the columns below.
Settings are the defaults of `corefold finetune`; the scores are of the dev files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

SETS = {
    "sst2": {"text": "text", "label": "label"},
    "trec": {"text": "text", "label": "label"},
    "stsb": {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
    "e2e": {
        "text": "meaning",
        "label": "target",
        "task": "causal-lm",
        "max_length": 128,
        "eval_samples": 200,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", default="sst2,stsb,trec")
    parser.add_argument("--methods", default="deep-lora,lora")
    parser.add_argument("--samples", default="64,256")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None)
    given = parser.parse_args()
    done = json.loads(given.out.read_text()) if given.out.exists() else []
    names = ("set", "samples", "seed", "method", "steps")
    for seed in range(given.seeds):
        for name in given.sets.split(","):
            for samples in map(int, given.samples.split(",")):
                for method in given.methods.split(","):
                    cell = dict(zip(names, (name, samples, seed, method, given.steps), strict=True))
                    if any(all(row[key] == cell[key] for key in names) for row in done):
                        continue
                    done.append(cell | run(given, cell))
                    given.out.parent.mkdir(parents=True, exist_ok=True)
                    given.out.write_text(json.dumps(done, indent=1) + "\n")


def run(given: argparse.Namespace, cell: dict) -> dict:
    import transformers

    from corefold.finetune import RunConfig, finetune

    transformers.logging.set_verbosity_error()
    folder = given.data / cell["set"]
    settings = SETS[cell["set"]] | ({"steps": cell["steps"]} if cell["steps"] else {})
    config = RunConfig(
        model=given.model,
        train=str(folder / "train.csv"),
        eval=str(folder / "dev.csv"),
        samples=cell["samples"],
        seed=cell["seed"],
        method=cell["method"],
        **settings,
    )
    with tempfile.TemporaryDirectory() as out:
        metrics = finetune(config, Path(out) / "run", progress=False).metrics
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}
    return {"model": Path(given.model).name, "machine": machine, **metrics}


if __name__ == "__main__":
    main()
