"""What does `initialize_bases` cost beside a training step on the same batch, and how good is what it finds?

    python benchmarks/init.py [benchmarks/results/init.json]
    python benchmarks/init.py --only smollm2:4x64                        # measures this cell again
    python benchmarks/init.py gpu.json --device cuda --models llama-1b --shapes 4x512

A cell is one model and one shape of batch (rows x tokens). Cells that the file holds are left as they are, so a killed
run goes on. Ratios of time are of one pass over one batch and one step in the same round, after both ran before.
`peak_bytes` is what tensors occupy at the peak above the base's weights, the adapter with them. `quality`, for the
models of `--quality`, compares each layer's bases with the dense gradient of plain backpropagation and its SVD in
float64: `angle` is the largest principal angle, in radians, to the top directions that the bases follow, where the
gradient has a gap behind them; `energy` what the bases hold of its energy, of the most that as many columns could.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from footprint import Watch
from peers import SQUARE, Case
from side_by_side import Results, circumstances, interleave, ratio, spread, start
from step import case_of, load, random_batch
from torch import Tensor

import corefold
from corefold.core import principal_angles

TIME, MEMORY = 3.0, 1.05
TARGETS = {
    "time_over_step": f"initialize_bases, one batch, over a training step's time <= {TIME}",
    "memory_over_step": f"its peak memory over the training step's <= {MEMORY}",
}
GAP = 0.95  # without one, directions are not defined


def main() -> None:
    given = arguments()
    if given.only:
        given.models, given.shapes = given.only.split(":")
    results = Results(
        given.out,
        ("model", "rows", "tokens", "rank", "bases", "device"),
        question="time and peak memory of initialize_bases on one batch, beside a training step on it",
        targets=TARGETS,
    )
    for name in given.models.split(","):
        case = None
        for shape in given.shapes.split(","):
            rows, tokens = map(int, shape.split("x"))
            cell = {"model": name, "rows": rows, "tokens": tokens, "rank": given.rank, "bases": given.bases}
            cell["device"] = given.device
            if results.find(cell) is not None and not given.only:
                continue
            began = time.perf_counter()
            case = case_of(load(name, given.device), given.rank) if case is None else case
            cell |= run(case, given.bases, rows, tokens, given.device, given.rounds, given.budget)
            if name in given.quality.split(",") and given.bases == "gradient":
                cell["quality"] = quality(case, random_batch(case.base, rows, tokens, 0, given.device))
            results.put(cell | circumstances(given.device))
            print(f"{line(cell)}; {time.perf_counter() - began:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("results") / "init.json"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--models", default="minilm,mpnet,smollm2")
    parser.add_argument("--shapes", default="4x64,8x64,16x128,4x512")
    parser.add_argument("--only", metavar="MODEL:ROWSxTOKENS", help="measure this cell, again if need be")
    parser.add_argument("--quality", default="minilm", help="models small enough for dense SVDs")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--bases", choices=["gradient", "fisher"], default="gradient")
    parser.add_argument("--rounds", type=int, default=7, help="at least")
    parser.add_argument("--budget", type=float, default=20, help="seconds for rounds beyond these, a cell")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def run(
    case: Case, bases: str, rows: int, tokens: int, device: str, rounds: int, budget: float
) -> dict[str, Any]:
    """Time and memory of the pass, of Deep LoRA's step and of the frozen model's."""

    def batch(seed: int) -> dict[str, Tensor]:
        return random_batch(case.base, rows, tokens, seed, device)

    methods, steps = {}, {}
    for name, method in (("floor", "floor"), ("step", "deep_frozen")):
        training, methods[name] = start(method, case, batch, device)
        steps[name] = training.step
    with Watch(device) as watch:
        model = adapter(case, bases)
        initialize(case, model, batch(0))
        watch.mark()
        initialize(case, model, batch(1))
    methods["init"] = {"label": "initialize_bases", "peak_bytes": watch.peak}
    steps["init"] = lambda fed: initialize(case, model, fed)
    seconds = interleave(steps, batch, device, rounds, budget)
    for name, found in methods.items():
        found |= {"seconds": seconds[name], **spread(seconds[name])}
    over = ratio(seconds["init"], seconds["step"])
    memory = methods["init"]["peak_bytes"] / methods["step"]["peak_bytes"]
    return {
        "methods": methods,
        "time_over_step": over,
        "time_over_floor": ratio(seconds["init"], seconds["floor"]),
        "memory_over_step": memory,
        "targets": {
            "time_over_step": {"value": over["median"], "met": over["median"] <= TIME},
            "memory_over_step": {"value": memory, "met": memory <= MEMORY},
        },
    }


def adapter(case: Case, bases: str = "gradient") -> Any:
    return case.lora(case.twin(), corefold.DeepLoraConfig, **SQUARE, bases=bases)


def initialize(case: Case, model: Any, batch: dict[str, Tensor]) -> None:
    device = next(model.parameters()).device.type
    with torch.autocast(device, case.autocast or torch.bfloat16, enabled=case.autocast is not None):
        corefold.initialize_bases(model, [batch], num_batches=1, progress=False)


def quality(case: Case, batch: dict[str, Tensor]) -> dict[str, Any]:
    """How far each layer's bases are from the dense gradient's top singular vectors, and what energy they hold."""
    model = adapter(case)
    initialize(case, model, batch)
    layers = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules()}
    angles, energies = [], []
    for name, gradient in dense_gradients(case, batch).items():
        left, right = (
            getattr(layers[name], f"deeplora_{side}")["default"].detach() for side in ("left", "right")
        )
        half = left.shape[1] // 2
        left, right = left[:, -half:].double(), right[:, :half].double()
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        most = s[:half].square().sum()
        energies += [float(part.square().sum() / most) for part in (left.mT @ gradient, gradient @ right)]
        if s[half] < GAP * s[half - 1]:
            angles += [
                float(principal_angles(found, exact[:, :half]).max())
                for found, exact in ((left, u), (right, vh.mT))
            ]
    return {
        "layers": len(energies) // 2,
        "layers_with_gap": len(angles) // 2,
        "directions": case.rank // 2,
        "angle": spread(angles) | {"worst": max(angles)},
        "energy": spread(energies) | {"worst": min(energies)},
    }


def dense_gradients(case: Case, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of each adapted weight, in evaluation mode, in float64."""
    names = case.adapted()
    model = case.twin().eval()
    weights = {name: model.get_submodule(name).weight for name in names}
    for name, weight in weights.items():  # parameters of this model's own, over the base's numbers
        model.get_submodule(name).weight = torch.nn.Parameter(weight.detach())
    case.loss(model, batch).backward()
    return {name: model.get_submodule(name).weight.grad.double() for name in names}


def line(cell: dict[str, Any]) -> str:
    said = f"{cell['model']} {cell['rows']}x{cell['tokens']}, {cell['bases']}, rank {cell['rank']}: "
    said += f"{cell['time_over_step']['median']:.2f} steps' time"
    said += f" ({cell['time_over_floor']['median']:.2f} of the frozen model's), "
    said += f"{cell['memory_over_step']:.2f} of a step's memory"
    if "quality" in cell:
        angle, energy = (cell["quality"][key]["worst"] for key in ("angle", "energy"))
        said += f", worst angle {angle:.1e}, energy lost {1 - energy:.1e}"
    return said


if __name__ == "__main__":
    main()
