"""Does the fast path train as the plain one does? The losses of both, step by step, from the same start.

    python benchmarks/losses.py ../shared/data [benchmarks/results/losses.json]

The fast path is `corefold.core.adapted_linear`; the plain one adds `expand(project(x))` to the base layer's output by
PyTorch's own operations, as every layer that is not linear does. MiniLM, 256 rows of SST-2 and of STS-B, all linear
layers, float32, dropout on and drawn alike; `worst` is the largest relative difference of the losses of one step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from corefold.adapters.layer import DeepLoraLayer
from corefold.adapters.leaves import DeepLoraLinear
from peft import get_peft_model
from side_by_side import Results, circumstances
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import corefold

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

TARGET = 1e-5
SAMPLES, ROWS, EPOCHS = 256, 16, 2
SETS = {"sst2": (["text"], "label", 2), "stsb": (["sentence1", "sentence2"], "score", 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("results") / "losses.json"
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    results = Results(given.out, ("set", "seed"), target=f"losses equal to {TARGET:g}, relative")
    for name in SETS:
        for seed in range(given.seeds):
            cell: dict[str, Any] = {"set": name, "seed": seed, **circumstances("cpu")}
            if results.find(cell) is not None:
                continue
            fast = train(given.data / name / "train.csv", *SETS[name], seed)
            with plainly():
                plain = train(given.data / name / "train.csv", *SETS[name], seed)
            apart = [abs(a / b - 1) for a, b in zip(fast, plain, strict=True)]
            cell |= {"fast": fast, "plain": plain, "first": apart[0], "worst": max(apart)}
            results.put(cell | {"met": max(apart) <= TARGET})
            print(name, seed, f"first step {apart[0]:.1e}, worst {max(apart):.1e}", flush=True)


@contextmanager
def plainly() -> Iterator[None]:
    """Linear layers run as those of other kinds do."""
    names = ("adapted", "updated")
    with patch.multiple(DeepLoraLinear, **{name: getattr(DeepLoraLayer, name) for name in names}):
        yield


def train(table: Path, texts: list[str], label: str, outputs: int, seed: int) -> list[float]:
    """The loss of every step."""
    from models import find_minilm

    torch.manual_seed(seed)
    rows = pd.read_csv(table).sample(SAMPLES, random_state=seed)
    tokenizer = AutoTokenizer.from_pretrained(find_minilm())
    base = AutoModelForSequenceClassification.from_pretrained(find_minilm(), num_labels=outputs)
    batches = [
        batch_of(rows[i : i + ROWS], tokenizer, texts, label, outputs) for i in range(0, SAMPLES, ROWS)
    ]
    config = corefold.DeepLoraConfig(
        r=32, width=None, depth=3, target_modules="all-linear", task_type="SEQ_CLS"
    )
    model = get_peft_model(base, config)
    corefold.initialize_bases(model, batches, num_batches=4, progress=False)
    optimizer = torch.optim.AdamW(corefold.param_groups(model, lr=1e-2), eps=1e-6)
    losses = []
    for batch in batches * EPOCHS:
        loss = model.train()(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def batch_of(rows: pd.DataFrame, tokenizer: Any, texts: list[str], label: str, outputs: int) -> Any:
    columns = [rows[text].tolist() for text in texts]
    batch = tokenizer(*columns, padding=True, truncation=True, max_length=128, return_tensors="pt")
    dtype = torch.float32 if outputs == 1 else torch.int64
    return {**batch, "labels": torch.tensor(rows[label].tolist(), dtype=dtype)}


if __name__ == "__main__":
    main()
