"""How does the cost of a step depend on width, tokens and hidden size? Deep LoRA and LoRA beside the frozen model.

    python -m benchmarks.steps.scaling [benchmarks/steps/scaling.json] [--device cuda]

The model is a stack of four square linear layers, all adapted, and nothing else, so that differences show undiluted.
One size varies, the others stay. `branch` says which way Deep LoRA took in each pass: "fold" where it formed a matrix
of the weight's shape, "side" where it did not. Cells that the file holds stay as they are.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.shared.arguments import timing_parser
from benchmarks.shared.peers import MAIN, METHODS, BaseModel, initial_model
from benchmarks.shared.results import ResultFile, cell_name, circumstances
from benchmarks.shared.rounds import RoundPlan
from benchmarks.shared.training_steps import measure

LAYERS = 4
FIXED = {"width": 8, "tokens": 1024, "hidden": 768}
SWEEPS = {
    "width": (4, 8, 16, 32, 64, 128),
    "tokens": (64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "hidden": (384, 768, 1536, 2304, 4096),
}


def main() -> None:
    parser = timing_parser(__doc__, __file__, min_rounds=11, budget=3)
    parser.add_argument("--largest", type=int, default=8192, help="leave out sizes above")
    parser.add_argument("--again", action="store_true", help="measure the cells that the file holds, too")
    options = parser.parse_args()
    results = ResultFile(
        options.out,
        question="a step of a stack of adapted linear layers over the frozen stack's, as one size varies",
        layers=LAYERS,
        fixed=FIXED,
        sweeps=SWEEPS,
    )
    for sweep, values in SWEEPS.items():
        for value in (value for value in values if value <= options.largest):
            identity = {**FIXED, sweep: value, "device": options.device}
            if cell_name(identity) in results.cells and not options.again:
                continue
            began = time.perf_counter()
            cell = {**identity, **measured(identity, options)}
            results.put(cell_name(identity), cell)
            print(line(cell, sweep, time.perf_counter() - began), flush=True)


def measured(sizes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the main methods at these sizes."""
    base = stack(sizes["hidden"], sizes["width"], options.device)
    dtype = next(base.module.parameters()).dtype

    def batch(seed: int) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(seed)
        shape = (2, 1, sizes["tokens"], sizes["hidden"])
        x, gradient = torch.randn(shape, generator=stream).to(options.device, dtype)
        return x, gradient

    methods = measure(base, MAIN, batch, RoundPlan(options.device, options.rounds, options.budget))
    for name in ("deep_frozen", "deep_trained"):
        methods[name]["branch"] = branch(name, base, batch(0))
    return {"methods": methods, **circumstances(options.device)}


def stack(hidden: int, width: int, device: str) -> BaseModel:
    """Random layers whose outputs are about as large as their inputs; bfloat16 on a GPU."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(*(nn.Linear(hidden, hidden) for _ in range(LAYERS)))
    for layer in layers:
        nn.init.normal_(layer.weight, std=hidden**-0.5)
    return BaseModel(
        layers.to(device, dtype),
        inner_product,
        targets=[str(number) for number in range(LAYERS)],
        rank=width,
        autocast=None if dtype == torch.float32 else dtype,
    )


def inner_product(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss whose gradient at the output is part of the batch, so that it costs next to nothing."""
    x, gradient = batch
    y = model(x)
    return torch.vdot(y.flatten(), gradient.flatten().to(y.dtype))


def branch(name: str, base: BaseModel, batch: tuple[Tensor, Tensor]) -> dict[str, str]:
    """For each pass, "fold" where it forms a matrix of the weight's shape and "side" where it does not."""
    trained = METHODS[name].start(base, initial_model(name, base))
    with ShapeRecorder() as forward:
        loss = trained.forward(batch)
    with ShapeRecorder() as backward:
        loss.backward()
    square = (batch[0].shape[-1],) * 2  # no sweep has as many tokens as hidden units
    passes = {"forward": forward, "backward": backward}
    return {name: "fold" if square in mode.shapes else "side" for name, mode in passes.items()}


class ShapeRecorder(TorchDispatchMode):
    """Collects the last two sides of the results of all matrix products and sums."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and any(name in func.name() for name in ("mm", "add", "sub", "linear")):
            self.shapes.add(tuple(result.shape[-2:]))
        return result


def line(cell: dict[str, Any], sweep: str, seconds: float) -> str:
    methods = cell["methods"]
    taken = methods["deep_frozen"]["branch"]
    parts = [f"{name} {methods[name]['over_floor']['median']:.3f}" for name in MAIN[1:]]
    return (
        f"{sweep} {cell[sweep]}: {len(methods['floor']['seconds'])} rounds, {seconds:.0f} s; floor "
        f"{methods['floor']['median'] * 1e3:.1f} ms, over it {', '.join(parts)}; "
        f"{taken['forward']} and {taken['backward']}"
    )


if __name__ == "__main__":
    main()
