"""Would it pay to compute the cores of all layers in one batched product a step, not in a small product a layer?

    python -m benchmarks.steps.batched_cores [benchmarks/steps/batched_cores.json]

The same model runs in three ways. `each` is corefold's own. `together` computes all cores, and their gradients, in one
batched product before the model's forward pass. `given` has the cores themselves as parameters, in one tensor, so that
nothing is left to compute: no way of computing them can be faster.

The gain with small batches was not worth its price. Cores that are computed ahead belong to one pass of the whole
model, and code must notice that they are out of date when layers are checkpointed, sharded, offloaded, transformed, or
run elsewhere.
"""

from __future__ import annotations

import argparse
import time
from functools import reduce
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.shared.arguments import add_models, models_and_shapes, timing_parser
from benchmarks.shared.base_models import base_model, load, random_batch
from benchmarks.shared.peers import METHODS, BaseModel, TrainedModel, adamw
from benchmarks.shared.results import ResultFile, cell_name, circumstances
from benchmarks.shared.rounds import RoundPlan, interleave, ratio, spread
from corefold.adapters import DeepLoraLayer
from corefold.core import DeepCore

SHAPES = "1x32,8x64,16x128"  # small operations take the largest share of a step where there are few tokens


def main() -> None:
    parser = timing_parser(__doc__, __file__, min_rounds=9, budget=20)
    add_models(parser, "minilm,smollm2", SHAPES)
    options = parser.parse_args()
    results = ResultFile(options.out, question=(__doc__ or "").splitlines()[0])
    for name, shapes in models_and_shapes(options):
        base = base_model(load(name, options.device), rank=8)
        for rows, tokens in shapes:
            identity = {"model": name, "rows": rows, "tokens": tokens, "device": options.device}
            if cell_name(identity) not in results.cells or options.only:
                began = time.perf_counter()
                cell = {**identity, **measured(base, rows, tokens, options), **circumstances(options.device)}
                results.put(cell_name(identity), cell)
                print(line(cell), f"{time.perf_counter() - began:.0f} s", flush=True)


def measured(base: BaseModel, rows: int, tokens: int, options: argparse.Namespace) -> dict[str, Any]:
    """Times of the three ways, and their ratios."""

    def batch(seed: int) -> dict[str, Tensor]:
        return random_batch(base.module, rows, tokens, seed, options.device)

    ways = {name: BatchedCores(deep_lora(base), name == "given") for name in ("together", "given")}
    steps = {"each": deep_lora(base).step, **{name: way.step for name, way in ways.items()}}
    for step in steps.values():
        step(batch(0))
    seconds = interleave(steps, batch, RoundPlan(options.device, options.rounds, options.budget))
    return {
        "seconds": seconds,
        **{name: spread(values) for name, values in seconds.items()},
        **{f"each_over_{name}": ratio(seconds["each"], seconds[name]) for name in ("together", "given")},
    }


def deep_lora(base: BaseModel) -> TrainedModel:
    return METHODS["deep_frozen"].start(base, base.twin())


class BatchedCores:
    """A model whose layers take their cores from one tensor, which is computed or, if `given`, is a parameter."""

    def __init__(self, trained: TrainedModel, given: bool) -> None:
        self.trained = trained
        self.parameter: nn.Parameter | None = None
        layers = [module for module in trained.model.modules() if isinstance(module, DeepLoraLayer)]
        self.updates = [layer.update("default") for layer in layers]
        self.places = {id(update.factors): place for place, update in enumerate(self.updates)}
        if given:
            self.parameter = nn.Parameter(torch.stack([update.core().detach() for update in self.updates]))
            for update in self.updates:
                update.factors.requires_grad_(False)
            rest = [p for p in trained.model.parameters() if p.requires_grad]
            trained.optimizer = adamw(trained.model, [self.parameter, *rest])

    def step(self, batch: Any) -> None:
        cores = (self.together() if self.parameter is None else self.parameter).unbind()
        with patch.object(DeepCore, "core", lambda update: cores[self.places[id(update.factors)]]):
            self.trained.step(batch)

    def together(self) -> Tensor:
        """The cores of all layers, each as `DeepCore.core` has it: (layers, width, width)."""
        factors = torch.stack([update.factors for update in self.updates], 1).unbind()
        product = reduce(lambda product, factor: factor @ product, factors)
        return product - self.updates[0].start * torch.eye(product.shape[-1], device=product.device)


def line(cell: dict[str, Any]) -> str:
    over = [f"{name} {cell[f'each_over_{name}']['median']:.3f}" for name in ("together", "given")]
    return f"{cell['model']} {cell['rows']}x{cell['tokens']}: each over {', '.join(over)};"


if __name__ == "__main__":
    main()
