"""Would it pay to compute the cores of all layers in one batched product a step, not one small product a layer?

    python benchmarks/cores.py [benchmarks/results/cores.json]

Three ways to run the same model. `each` is corefold's own. `together` computes all cores, and their gradients, in one
batched product before the model's forward pass. `given` has the cores themselves for parameters, in one tensor: nothing
is left to compute, so no way of computing them can be faster.

What it gains with small batches was not worth its price: cores that are computed ahead belong to one pass of the whole
model, and have to be found out of date when layers are checkpointed, sharded, offloaded, transformed, or run elsewhere.
"""

from __future__ import annotations

import argparse
import time
from functools import reduce
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from corefold.adapters.layer import DeepLoraLayer
from peers import METHODS, Case, Training, adamw
from side_by_side import Results, circumstances, interleave, ratio, spread
from step import case_of, load, random_batch
from torch import Tensor, nn

from corefold.core import FactorChain

SHAPES = "1x32,8x64,16x128"  # the fewer the tokens, the more the small operations weigh


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("results") / "cores.json"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--models", default="minilm,smollm2")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=9, help="at least")
    parser.add_argument("--budget", type=float, default=20, help="seconds for rounds beyond these, a cell")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    results = Results(given.out, ("model", "rows", "tokens", "device"), question=__doc__.splitlines()[0])
    for name in given.models.split(","):
        case = case_of(load(name, given.device), rank=8)
        for shape in given.shapes.split(","):
            rows, tokens = map(int, shape.split("x"))
            cell = {"model": name, "rows": rows, "tokens": tokens, "device": given.device}
            if results.find(cell) is None:
                began = time.perf_counter()
                results.put(cell | run(case, rows, tokens, given) | circumstances(given.device))
                print(line(results.cells[-1]), f"{time.perf_counter() - began:.0f} s", flush=True)


def run(case: Case, rows: int, tokens: int, given: argparse.Namespace) -> dict[str, Any]:
    def batch(seed: int) -> dict[str, Tensor]:
        return random_batch(case.base, rows, tokens, seed, given.device)

    ways = {name: Ahead(deep(case), name == "given") for name in ("together", "given")}
    steps = {"each": deep(case).step, **{name: way.step for name, way in ways.items()}}
    for step in steps.values():
        step(batch(0))
    seconds = interleave(steps, batch, given.device, given.rounds, given.budget)
    return {
        "seconds": seconds,
        **{name: spread(values) for name, values in seconds.items()},
        **{f"each_over_{name}": ratio(seconds["each"], seconds[name]) for name in ("together", "given")},
    }


def deep(case: Case) -> Training:
    return METHODS["deep_frozen"].start(case, case.twin())


class Ahead:
    """A training whose layers get their cores from one tensor for all, computed or, if `given`, a parameter."""

    def __init__(self, training: Training, given: bool) -> None:
        self.training, self.given = training, None
        self.chains = [m.chain("default") for m in training.model.modules() if isinstance(m, DeepLoraLayer)]
        self.places = {id(chain.factors): place for place, chain in enumerate(self.chains)}
        if given:
            self.given = nn.Parameter(torch.stack([chain.core().detach() for chain in self.chains]))
            for chain in self.chains:
                chain.factors.requires_grad_(False)
            rest = [p for p in training.model.parameters() if p.requires_grad]
            training.optimizer = adamw(training.model, [self.given, *rest])

    def step(self, batch: Any) -> None:
        cores = (self.together() if self.given is None else self.given).unbind()
        with patch.object(FactorChain, "core", lambda chain: cores[self.places[id(chain.factors)]]):
            self.training.step(batch)

    def together(self) -> Tensor:
        """(layers, width, width), as `FactorChain.core` of each."""
        factors = torch.stack([chain.factors for chain in self.chains], 1).unbind()
        product = reduce(lambda done, factor: factor @ done, factors)
        return product - self.chains[0].start * torch.eye(product.shape[-1], device=product.device)


def line(cell: dict[str, Any]) -> str:
    over = [f"{name} {cell[f'each_over_{name}']['median']:.3f}" for name in ("together", "given")]
    return f"{cell['model']} {cell['rows']}x{cell['tokens']}: each over {', '.join(over)};"


if __name__ == "__main__":
    main()
