"""How much memory does `initialize_bases` take beside one training step on the same batch?

    python benchmarks/init_memory.py [benchmarks/results/init_memory.json] [--runs 3]

Each measurement is a process of its own: it runs both on a tiny model first, so that no import or allocator start-up
counts, loads the model, resets the kernel's record of its peak resident memory (Linux), and then does one of the two.
`ratio` is the peak of the whole process over the other's, `ratio_above_model` the same without what was resident
before: activations, gradients, optimizer state, sketches. At most 1.15 is the target of `ratio`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

CASES = [("minilm", 16, 64), ("minilm", 16, 128), ("mpnet", 16, 64), ("smollm2", 4, 64)]
MIB = 2**20


def measure(name: str, rows: int, tokens: int, runs: int = 1) -> dict[str, Any]:
    """Medians and all values of `runs` processes of each kind, taken in turn."""
    found: dict[str, list[dict[str, float]]] = {"init": [], "step": []}
    for _ in range(runs):
        for what, results in found.items():
            command = [sys.executable, __file__, "--child", what, name, str(rows), str(tokens)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {what: {key: median(r[key] for r in rs) for key in rs[0]} for what, rs in found.items()}
    init, step = middle["init"], middle["step"]
    return {
        "model": name,
        "rows": rows,
        "tokens": tokens,
        "ratio": init["peak_mib"] / step["peak_mib"],
        "ratio_above_model": (init["peak_mib"] - init["before_mib"])
        / (step["peak_mib"] - step["before_mib"]),
        "ratio_of_seconds": init["seconds"] / step["seconds"],
        "median": middle,
        "runs": found,
    }


def child(what: str, name: str, rows: int, tokens: int) -> dict[str, float]:
    import models

    run = {"init": initialize, "step": train_one_step}[what]
    for warm in (initialize, train_one_step):
        warm(models.wrap(models.tiny_llama(), target_modules="all-linear"), models.batches("tiny", 1)[0])
    models.find(name)
    options = {"task_type": "CAUSAL_LM" if name == "smollm2" else "SEQ_CLS", "r": 8, "bases": "gradient"}
    model = models.wrap(models.load(name, copied=False), target_modules="all-linear", **options)
    (batch,) = models.batches(name, 1, rows, tokens)
    sum(
        parameter.sum() for parameter in model.parameters()
    )  # read from the file what is mapped but not yet read
    before = reset_peak()
    start = time.perf_counter()
    run(model, batch)
    seconds = time.perf_counter() - start
    return {"before_mib": before / MIB, "peak_mib": memory("VmHWM") / MIB, "seconds": seconds}


def initialize(model: Any, batch: dict[str, torch.Tensor]) -> None:
    import corefold

    corefold.initialize_bases(model, [batch], num_batches=1, progress=False)


def train_one_step(model: Any, batch: dict[str, torch.Tensor]) -> None:
    import corefold

    for config in model.peft_config.values():
        config.initialized = True  # no word about random bases
    model.train()
    optimizer = torch.optim.AdamW(corefold.param_groups(model, lr=1e-2), eps=1e-6)
    model(**batch).loss.backward()
    optimizer.step()


def reset_peak() -> int:
    """Forget the peak so far; the memory resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(kind: str) -> int:
    """`VmRSS` (resident now) or `VmHWM` (its peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("results") / "init_memory.json"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        what, name, *sizes = given.child
        print(json.dumps(child(what, name, *map(int, sizes))))
        return
    import peft
    import transformers

    import corefold

    cases = []
    for case in CASES:
        cases.append(measure(*case, runs=given.runs))
        print({key: value for key, value in cases[-1].items() if key not in ("runs", "median")})
    report = {
        "question": "peak memory of initialize_bases (1 batch) over that of one AdamW step on the same batch",
        "adapter": "width 8, depth 3, all linear layers, frozen bases, float32",
        "versions": {
            "corefold": corefold.__version__,
            "peft": peft.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.platform()},
        "cases": cases,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
