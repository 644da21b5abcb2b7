"""What does a training step cost? Deep LoRA beside its peers and the frozen model: time, peak memory.

    python benchmarks/step.py [benchmarks/results/step.json]
    python benchmarks/step.py --only mpnet:16x128                        # measures this cell again
    python benchmarks/step.py gpu.json --device cuda --models llama-1b,llama-3b --shapes 4x512,8x1024 --ranks 8,32

A cell is one model and one shape of batch (rows x tokens). Cells that the file holds are left as they are, so a killed
run goes on. A step is zero_grad, forward, backward and the optimizer's step. `peak_bytes` is what tensors occupy at
the peak of a step above the base's weights; `saved_bytes`, which explains it, what autograd keeps for the backward
pass. Ratios are of steps in the same round. `merged` compares forwards without gradient after merge_and_unload.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peers import MAIN, METHODS, SQUARE, Case
from side_by_side import Results, circumstances, interleave, measure, ratio, spread
from torch import Tensor, nn

import corefold

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

LLAMAS = {  # shapes of Llama 3.2; weights are random
    "llama-tiny": (64, 96, 2, 4, 2, 512),
    "llama-1b": (2048, 8192, 16, 32, 8, 128256),
    "llama-3b": (3072, 8192, 28, 24, 8, 128256),
}
LIMITS = {  # from the project's issue
    "deep_over_floor": ("step of a square core (frozen bases) over the frozen model's", "<=", 1.05),
    "trained_over_floor": ("step of a square core (trained bases) over the frozen model's", "<=", 1.12),
    "lora_over_deep": ("step of LoRA over a square core's (frozen bases)", ">=", 1.30),
    "memory_over_lora": ("peak memory of a square core (frozen bases) over LoRA's", "<=", 0.70),
}
TARGETS = {name: f"{what} {sign} {limit:.2f}" for name, (what, sign, limit) in LIMITS.items()}
TARGETS["merged_over_base"] = (
    "forward of the merged model over the base's = 1 within the spread of base over base"
)


def main() -> None:
    given = arguments()
    if given.only:
        name, shape = given.only.split(":")
        given.models, given.shapes = name, shape
    results = Results(
        given.out,
        ("model", "rows", "tokens", "rank", "device"),
        question="time and peak memory of a training step, beside the frozen model's forward and backward",
        targets=TARGETS,
    )
    for name in given.models.split(","):
        base = None
        for rank in map(int, given.ranks.split(",")):
            for shape in given.shapes.split(","):
                rows, tokens = map(int, shape.split("x"))
                cell = {"model": name, "rows": rows, "tokens": tokens, "rank": rank, "device": given.device}
                if results.find(cell) is not None and not given.only:
                    continue
                began = time.perf_counter()
                base = load(name, given.device) if base is None else base
                cell |= run(base, cell, given)
                results.put(cell)
                print(line(cell, time.perf_counter() - began), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("results") / "step.json"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--models", default="minilm,mpnet,smollm2")
    parser.add_argument("--shapes", default="8x64,16x128,4x512")
    parser.add_argument("--ranks", default="8")
    parser.add_argument("--methods", default=",".join(METHODS), help="floor and lora always take part")
    parser.add_argument("--only", metavar="MODEL:ROWSxTOKENS", help="measure this cell, again if need be")
    parser.add_argument("--rounds", type=int, default=7, help="of floor, LoRA and Deep LoRA, at least")
    parser.add_argument("--every", type=int, default=3, help="other peers take part in one round of so many")
    parser.add_argument("--budget", type=float, default=20, help="seconds for rounds beyond these, a cell")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def load(name: str, device: str) -> nn.Module:
    """The pretrained model, or for a llama a random one: float32 on a CPU, else bfloat16."""
    if name in LLAMAS:
        return llama(*LLAMAS[name], device=device)
    import models

    models.FINDERS[name]()
    model = models.load(name).to(device)
    model.config.use_cache = False  # as Trainer has it
    return model


def llama(
    hidden: int, inner: int, layers: int, heads: int, key_heads: int, vocabulary: int, device: str
) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        use_cache=False,
    )
    with torch.device(device):
        return LlamaForCausalLM._from_config(
            config, dtype=torch.float32 if device == "cpu" else torch.bfloat16
        )


def case_of(base: nn.Module, rank: int) -> Case:
    """A classifier trains with its head, a language model as it is; bfloat16 runs under autocast, as in Trainer."""
    causal = not hasattr(base, "classifier")
    dtype = next(base.parameters()).dtype
    return Case(
        base,
        loss,
        head=None if causal else "classifier",
        task_type="CAUSAL_LM" if causal else "SEQ_CLS",
        rank=rank,
        autocast=torch.bfloat16 if dtype == torch.bfloat16 else None,
    )


def run(base: nn.Module, cell: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """All methods in one cell."""
    names = [name for name in METHODS if name in {"floor", "lora", *given.methods.split(",")}]
    dtype, case = next(base.parameters()).dtype, case_of(base, cell["rank"])

    def batch(seed: int) -> dict[str, Tensor]:
        return random_batch(base, cell["rows"], cell["tokens"], seed, given.device)

    rare = [name for name in names if name not in MAIN]
    methods = measure(case, names, batch, given.device, given.rounds, given.budget, rare, given.every)
    found = {
        "dtype": str(dtype).removeprefix("torch."),
        "autocast": case.autocast is not None,
        "adapted_layers": len(case.adapted()),
        "base_parameters": sum(p.numel() for p in base.parameters()),
        "methods": methods,
        "merged": merged(case, batch, given) if "deep_frozen" in names else None,
        **circumstances(given.device),
    }
    return found | {"targets": verdicts(found)}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss


def random_batch(base: Any, rows: int, tokens: int, seed: int, device: str) -> dict[str, Tensor]:
    """Random tokens and labels, full length."""
    stream = torch.Generator().manual_seed(seed)
    vocabulary = base.config.vocab_size
    low = min(1000, vocabulary // 4)  # above the special ones
    ids = torch.randint(low, vocabulary, (rows, tokens), generator=stream)
    labels = torch.randint(3, (rows,), generator=stream) if hasattr(base, "classifier") else ids
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {key: tensor.to(device) for key, tensor in batch.items()}


def merged(case: Case, batch: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Forward of the base, of a copy of it, and of a copy with a merged adapter."""
    adapter = case.lora(case.twin(""), corefold.DeepLoraConfig, **SQUARE, bases="random")
    forwards = {"base": case.base, "again": copy.deepcopy(case.base), "merged": adapter.merge_and_unload()}

    def forward(model: nn.Module) -> Any:
        @torch.no_grad()
        def run(fed: dict[str, Tensor]) -> None:
            case.loss(model, fed)

        return run

    steps = {name: forward(model.eval()) for name, model in forwards.items()}
    for step in steps.values():
        step(batch(0))
    seconds = interleave(steps, batch, given.device, given.rounds, given.budget / 4)
    case.base.train()
    return {
        "seconds": seconds,
        **{name: spread(values) for name, values in seconds.items()},
        "merged_over_base": ratio(seconds["merged"], seconds["base"]),
        "again_over_base": ratio(seconds["again"], seconds["base"]),
    }


def verdicts(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each target of the issue that this cell can speak about: what it came to, and whether that meets it."""
    methods, values = found["methods"], {}
    if "deep_frozen" in methods:
        deep = methods["deep_frozen"]
        values["deep_over_floor"] = deep["over_floor"]["median"]
        values["lora_over_deep"] = deep["lora_over"]["median"]
        values["memory_over_lora"] = deep["peak_bytes"] / methods["lora"]["peak_bytes"]
    if "deep_trained" in methods:
        values["trained_over_floor"] = methods["deep_trained"]["over_floor"]["median"]
    said = {}
    for name, value in values.items():
        _, sign, limit = LIMITS[name]
        said[name] = {"value": value, "met": value <= limit if sign == "<=" else value >= limit}
    if found["merged"] is not None:
        value, noise = (found["merged"][f"{name}_over_base"] for name in ("merged", "again"))
        overlap = value["q1"] <= max(noise["q3"], 1) and value["q3"] >= min(noise["q1"], 1)
        said["merged_over_base"] = {"value": value["median"], "met": overlap}
    return said


def line(cell: dict[str, Any], seconds: float) -> str:
    methods = cell["methods"]
    parts = [f"{name} {found['over_floor']['median']:.3f}" for name, found in methods.items()]
    rounds = len(methods["floor"]["seconds"])
    return (
        f"{cell['model']} {cell['rows']}x{cell['tokens']} rank {cell['rank']}: {rounds} rounds, {seconds:.0f} s; "
        f"floor {methods['floor']['median'] * 1e3:.0f} ms, over it {', '.join(parts[1:])}"
    )


if __name__ == "__main__":
    main()
