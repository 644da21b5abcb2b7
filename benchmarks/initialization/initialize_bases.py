"""What does `initialize_bases` cost beside a training step on the same batch, and how good are the bases it finds?

    python -m benchmarks.initialization.initialize_bases [benchmarks/initialization/initialize_bases.json]
    python -m benchmarks.initialization.initialize_bases --only smollm2:4x64           # measure this cell again
    python -m benchmarks.initialization.initialize_bases gpu.json --device cuda --models llama-1b --shapes 4x512

A cell is one model and one shape of batch (rows x tokens). Cells that the file holds stay as they are, so a killed run
continues. Ratios of time are of one pass over one batch and one step in the same round, after both ran before.
`peak_bytes` is the memory of tensors at the peak, the adapter's included, without the base model's weights. `quality`,
for the models of `--quality`, compares each layer's bases with the SVD, in float64, of the dense gradient of plain
backpropagation: `angle` is the largest principal angle, in radians, between the bases' directions and the gradient's
top directions, where its singular values have a gap behind them; `energy` is the share of the gradient's energy in the
bases, over the largest share that as many columns can hold.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

import corefold
from benchmarks.shared.arguments import add_models, models_and_shapes, timing_parser
from benchmarks.shared.base_models import base_model, load, random_batch
from benchmarks.shared.footprint import Watch
from benchmarks.shared.peers import SQUARE, BaseModel
from benchmarks.shared.results import ResultFile, cell_name, circumstances
from benchmarks.shared.rounds import RoundPlan, interleave, ratio, spread
from benchmarks.shared.training_steps import warmed_up
from corefold.core import principal_angles

MAX_TIME, MAX_MEMORY = 3.0, 1.05
TARGETS = {
    "time_over_step": f"initialize_bases, one batch, over a training step's time <= {MAX_TIME}",
    "memory_over_step": f"its peak memory over the training step's <= {MAX_MEMORY}",
}
MAX_GAP_RATIO = 0.95  # Above this ratio of neighbouring singular values the top directions are not defined.


def main() -> None:
    options = arguments()
    question = "time and peak memory of initialize_bases on one batch, beside a training step on it"
    results = ResultFile(options.out, question=question, targets=TARGETS)
    for name, shapes in models_and_shapes(options):
        base = None
        for rows, tokens in shapes:
            identity = {"model": name, "rows": rows, "tokens": tokens, "rank": options.rank}
            identity |= {"bases": options.bases, "device": options.device}
            if cell_name(identity) in results.cells and not options.only:
                continue
            began = time.perf_counter()
            base = base_model(load(name, options.device), options.rank) if base is None else base
            cell = {**identity, **measured(base, rows, tokens, options)}
            if name in options.quality.split(",") and options.bases == "gradient":
                batch = random_batch(base.module, rows, tokens, 0, options.device)
                cell["quality"] = quality(base, batch)
            results.put(cell_name(identity), cell | circumstances(options.device))
            print(f"{line(cell)}; {time.perf_counter() - began:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = timing_parser(__doc__, __file__, min_rounds=7, budget=20)
    add_models(parser, "minilm,mpnet,smollm2", "4x64,8x64,16x128,4x512")
    parser.add_argument("--quality", default="minilm", help="models small enough for dense SVDs")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--bases", choices=["gradient", "fisher"], default="gradient")
    return parser.parse_args()


def measured(base: BaseModel, rows: int, tokens: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of the pass, of Deep LoRA's step and of the frozen model's step."""
    device = options.device

    def batch(seed: int) -> dict[str, Tensor]:
        return random_batch(base.module, rows, tokens, seed, device)

    methods, steps = {}, {}
    for name, method in (("floor", "floor"), ("step", "deep_frozen")):
        trained, methods[name] = warmed_up(method, base, batch, device)
        steps[name] = trained.step
    with Watch(device) as watch:
        model = adapter(base, options.bases)
        initialize(base, model, batch(0))
        watch.mark()
        initialize(base, model, batch(1))
    methods["init"] = {"label": "initialize_bases", "peak_bytes": watch.peak}
    steps["init"] = lambda inputs: initialize(base, model, inputs)
    seconds = interleave(steps, batch, RoundPlan(device, options.rounds, options.budget))
    for name, figures in methods.items():
        figures |= {"seconds": seconds[name], **spread(seconds[name])}
    over = ratio(seconds["init"], seconds["step"])
    memory = methods["init"]["peak_bytes"] / methods["step"]["peak_bytes"]
    return {
        "methods": methods,
        "time_over_step": over,
        "time_over_floor": ratio(seconds["init"], seconds["floor"]),
        "memory_over_step": memory,
        "targets": {
            "time_over_step": {"value": over["median"], "met": over["median"] <= MAX_TIME},
            "memory_over_step": {"value": memory, "met": memory <= MAX_MEMORY},
        },
    }


def adapter(base: BaseModel, bases: str = "gradient") -> Any:
    return base.lora(base.twin(), corefold.DeepLoraConfig, **SQUARE, bases=bases)


def initialize(base: BaseModel, model: Any, batch: dict[str, Tensor]) -> None:
    device = next(model.parameters()).device.type
    with torch.autocast(device, base.autocast or torch.bfloat16, enabled=base.autocast is not None):
        corefold.initialize_bases(model, [batch], num_batches=1, progress=False)


def quality(base: BaseModel, batch: dict[str, Tensor]) -> dict[str, Any]:
    """Angles of each layer's bases to the dense gradient's top singular vectors, and the energy in the bases."""
    model = adapter(base)
    initialize(base, model, batch)
    layers = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules()}
    angles, energies = [], []
    for name, gradient in dense_gradients(base, batch).items():
        left, right = (
            getattr(layers[name], f"deeplora_{side}")["default"].detach() for side in ("left", "right")
        )
        half = left.shape[1] // 2
        left, right = left[:, -half:].double(), right[:, :half].double()
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        most = s[:half].square().sum()
        energies += [float(part.square().sum() / most) for part in (left.mT @ gradient, gradient @ right)]
        if s[half] < MAX_GAP_RATIO * s[half - 1]:
            angles += [
                float(principal_angles(basis, exact[:, :half]).max())
                for basis, exact in ((left, u), (right, vh.mT))
            ]
    return {
        "layers": len(energies) // 2,
        "layers_with_gap": len(angles) // 2,
        "directions": base.rank // 2,
        "angle": spread(angles) | {"worst": max(angles)},
        "energy": spread(energies) | {"worst": min(energies)},
    }


def dense_gradients(base: BaseModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of each adapted weight, in evaluation mode, in float64."""
    names = base.adapted()
    model = base.twin().eval()
    weights = {name: model.get_submodule(name).weight for name in names}
    for name, weight in weights.items():  # parameters of this model alone that share the base's memory
        model.get_submodule(name).weight = torch.nn.Parameter(weight.detach())
    base.loss(model, batch).backward()
    return {name: model.get_submodule(name).weight.grad.double() for name in names}


def line(cell: dict[str, Any]) -> str:
    text = f"{cell['model']} {cell['rows']}x{cell['tokens']}, {cell['bases']}, rank {cell['rank']}: "
    text += f"{cell['time_over_step']['median']:.2f} steps' time"
    text += f" ({cell['time_over_floor']['median']:.2f} of the frozen model's), "
    text += f"{cell['memory_over_step']:.2f} of a step's memory"
    if "quality" in cell:
        angle, energy = (cell["quality"][key]["worst"] for key in ("angle", "energy"))
        text += f", worst angle {angle:.1e}, energy lost {1 - energy:.1e}"
    return text


if __name__ == "__main__":
    main()
