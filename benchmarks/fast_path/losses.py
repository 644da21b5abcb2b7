"""Does the fast path train as the plain one does? The losses of both, step by step, from the same start.

    python -m benchmarks.fast_path.losses [benchmarks/fast_path/losses.json] [--data ../shared/data]

The fast path is `corefold.core.adapted_linear`. The plain one adds `expand(project(x))` to the base layer's output by
PyTorch's own operations, as all layers do that are not linear. MiniLM learns from 256 rows of SST-2 and of STS-B, all
linear layers adapted, in float32, with the same draws of dropout. `worst` is the largest relative difference between
the losses of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import corefold
from benchmarks.shared.arguments import benchmark_parser
from benchmarks.shared.pretrained import find_minilm
from benchmarks.shared.results import ResultFile, cell_name, circumstances
from corefold.adapters.host.layer import AdapterLayer
from corefold.adapters.host.linear import LinearKind

MAX_DIFFERENCE = 1e-5  # between losses, relative
SAMPLES, ROWS, EPOCHS = 256, 16, 2
SETS = {"sst2": (["text"], "label", 2), "stsb": (["sentence1", "sentence2"], "score", 1)}


def main() -> None:
    parser = benchmark_parser(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    results = ResultFile(options.out, target=f"losses equal to {MAX_DIFFERENCE:g}, relative")
    for name in SETS:
        for seed in range(options.seeds):
            identity = {"set": name, "seed": seed}
            if cell_name(identity) in results.cells:
                continue
            table = options.data / name / "train.csv"
            fast = losses(table, *SETS[name], seed)
            with plain_path():
                plain = losses(table, *SETS[name], seed)
            apart = [abs(a / b - 1) for a, b in zip(fast, plain, strict=True)]
            cell = {"fast": fast, "plain": plain, "first": apart[0], "worst": max(apart)}
            cell |= {"met": max(apart) <= MAX_DIFFERENCE}
            results.put(cell_name(identity), {**identity, **circumstances("cpu"), **cell})
            print(name, seed, f"first step {apart[0]:.1e}, worst {max(apart):.1e}", flush=True)


@contextmanager
def plain_path() -> Iterator[None]:
    """Run linear layers as layers of other kinds run."""
    names = ("adapted", "updated")
    with patch.multiple(LinearKind, **{name: getattr(AdapterLayer, name) for name in names}):
        yield


def losses(table: Path, texts: list[str], label: str, outputs: int, seed: int) -> list[float]:
    """The loss of every step."""
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
    values = []
    for batch in batches * EPOCHS:
        loss = model.train()(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    return values


def batch_of(rows: pd.DataFrame, tokenizer: Any, texts: list[str], label: str, outputs: int) -> Any:
    columns = [rows[text].tolist() for text in texts]
    batch = tokenizer(*columns, padding=True, truncation=True, max_length=128, return_tensors="pt")
    dtype = torch.float32 if outputs == 1 else torch.int64
    return {**batch, "labels": torch.tensor(rows[label].tolist(), dtype=dtype)}


if __name__ == "__main__":
    main()
