"""What does a training step cost? Deep LoRA beside its peers and the frozen model: time and peak memory.

    python -m benchmarks.steps.step [benchmarks/steps/step.json]
    python -m benchmarks.steps.step --only mpnet:16x128               # measure this cell again
    python -m benchmarks.steps.step gpu.json --device cuda --models llama-1b,llama-3b --shapes 4x512,8x1024 --ranks 8,32

A cell is one model and one shape of batch (rows x tokens). Cells that the file holds stay as they are, so a killed run
continues. A step is zero_grad, forward, backward and the optimizer's step. `peak_bytes` is the memory of tensors
at the peak of a step, without the base model's weights; `saved_bytes`, the part that autograd keeps for the backward
pass, explains it. Ratios are of steps in the same round. `merged` compares forward passes without gradient after
merge_and_unload.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

import corefold
from benchmarks.shared.arguments import add_models, models_and_shapes, timing_parser
from benchmarks.shared.base_models import base_model, load, random_batch
from benchmarks.shared.peers import MAIN, METHODS, SQUARE, BaseModel
from benchmarks.shared.results import ResultFile, cell_name, circumstances
from benchmarks.shared.rounds import RoundPlan, interleave, ratio, spread
from benchmarks.shared.training_steps import measure

LIMITS = {  # name: what is limited, its sign and its limit
    "deep_over_floor": ("step of a square core (frozen bases) over the frozen model's", "<=", 1.05),
    "trained_over_floor": ("step of a square core (trained bases) over the frozen model's", "<=", 1.12),
    "lora_over_deep": ("step of LoRA over a square core's (frozen bases)", ">=", 1.30),
    "memory_over_lora": ("peak memory of a square core (frozen bases) over LoRA's", "<=", 0.70),
}
TARGETS = {name: f"{text} {sign} {limit:.2f}" for name, (text, sign, limit) in LIMITS.items()}
TARGETS["merged_over_base"] = (
    "forward of the merged model over the base's = 1 within the spread of base over base"
)


def main() -> None:
    options = arguments()
    question = "time and peak memory of a training step, beside the frozen model's forward and backward"
    results = ResultFile(options.out, question=question, targets=TARGETS)
    for name, shapes in models_and_shapes(options):
        module = None
        for rank, (rows, tokens) in product(map(int, options.ranks.split(",")), shapes):
            identity = {"model": name, "rows": rows, "tokens": tokens, "rank": rank, "device": options.device}
            if cell_name(identity) in results.cells and not options.only:
                continue
            began = time.perf_counter()
            module = load(name, options.device) if module is None else module
            cell = {**identity, **measured(module, rank, rows, tokens, options)}
            results.put(cell_name(identity), cell)
            print(line(cell, time.perf_counter() - began), flush=True)


def arguments() -> argparse.Namespace:
    parser = timing_parser(__doc__, __file__, min_rounds=7, budget=20)
    add_models(parser, "minilm,mpnet,smollm2", "8x64,16x128,4x512")
    parser.add_argument("--ranks", default="8")
    parser.add_argument("--methods", default=",".join(METHODS), help="floor and lora always take part")
    parser.add_argument(
        "--every", type=int, default=3, help="methods without a target take part in one of so many rounds"
    )
    return parser.parse_args()


def measured(
    module: nn.Module, rank: int, rows: int, tokens: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of all methods in one cell."""
    names = [name for name in METHODS if name in {"floor", "lora", *options.methods.split(",")}]
    dtype, base = next(module.parameters()).dtype, base_model(module, rank)

    def batch(seed: int) -> dict[str, Tensor]:
        return random_batch(module, rows, tokens, seed, options.device)

    plan = RoundPlan(options.device, options.rounds, options.budget)
    rare = [name for name in names if name not in MAIN]
    figures = {
        "dtype": str(dtype).removeprefix("torch."),
        "autocast": base.autocast is not None,
        "adapted_layers": len(base.adapted()),
        "base_parameters": sum(p.numel() for p in module.parameters()),
        "methods": measure(base, names, batch, replace(plan, rare=rare, every=options.every)),
        "merged": merged(base, batch, replace(plan, budget=plan.budget / 4))
        if "deep_frozen" in names
        else None,
        **circumstances(options.device),
    }
    return figures | {"targets": verdicts(figures)}


def merged(base: BaseModel, batch: Callable[[int], dict[str, Tensor]], plan: RoundPlan) -> dict[str, Any]:
    """Times of the forward pass of the base, of a copy of it, and of a copy with a merged adapter."""
    adapter = base.lora(base.twin(""), corefold.DeepLoraConfig, **SQUARE, bases="random")
    models = {
        "base": base.module,
        "again": copy.deepcopy(base.module),
        "merged": adapter.merge_and_unload(),
    }

    def forward(model: nn.Module) -> Callable[[dict[str, Tensor]], None]:
        @torch.no_grad()
        def run(inputs: dict[str, Tensor]) -> None:
            base.loss(model, inputs)

        return run

    steps = {name: forward(model.eval()) for name, model in models.items()}
    for step in steps.values():
        step(batch(0))
    seconds = interleave(steps, batch, plan)
    base.module.train()
    return {
        "seconds": seconds,
        **{name: spread(values) for name, values in seconds.items()},
        "merged_over_base": ratio(seconds["merged"], seconds["base"]),
        "again_over_base": ratio(seconds["again"], seconds["base"]),
    }


def verdicts(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The value of each target that this cell measures, and whether it meets the target."""
    methods, values = figures["methods"], {}
    if "deep_frozen" in methods:
        deep = methods["deep_frozen"]
        values["deep_over_floor"] = deep["over_floor"]["median"]
        values["lora_over_deep"] = deep["lora_over"]["median"]
        values["memory_over_lora"] = deep["peak_bytes"] / methods["lora"]["peak_bytes"]
    if "deep_trained" in methods:
        values["trained_over_floor"] = methods["deep_trained"]["over_floor"]["median"]
    verdict = {}
    for name, value in values.items():
        _, sign, limit = LIMITS[name]
        verdict[name] = {"value": value, "met": value <= limit if sign == "<=" else value >= limit}
    if figures["merged"] is not None:
        value, noise = (figures["merged"][f"{name}_over_base"] for name in ("merged", "again"))
        overlap = value["q1"] <= max(noise["q3"], 1) and value["q3"] >= min(noise["q1"], 1)
        verdict["merged_over_base"] = {"value": value["median"], "met": overlap}
    return verdict


def line(cell: dict[str, Any], seconds: float) -> str:
    methods = cell["methods"]
    parts = [f"{name} {figure['over_floor']['median']:.3f}" for name, figure in methods.items()]
    rounds = len(methods["floor"]["seconds"])
    return (
        f"{cell['model']} {cell['rows']}x{cell['tokens']} rank {cell['rank']}: {rounds} rounds, {seconds:.0f} s; "
        f"floor {methods['floor']['median'] * 1e3:.0f} ms, over it {', '.join(parts[1:])}"
    )


if __name__ == "__main__":
    main()
