"""How does the cost of a step depend on width, tokens and hidden size? Deep LoRA and LoRA over the frozen floor.

    python benchmarks/scaling.py [benchmarks/results/scaling.json] [--device cuda]

The model is a stack of four square linear layers, all adapted, and nothing else, so differences show undiluted. One
size varies, the others stay. `branch` says what Deep LoRA did in each pass: "fold" if it made a matrix of the weight's
shape, "side" if not. Cells that the file holds are left as they are.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from peers import MAIN, METHODS, Case, prepare
from side_by_side import Results, circumstances, measure
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LAYERS = 4
FIXED = {"width": 8, "tokens": 1024, "hidden": 768}
SWEEPS = {
    "width": (4, 8, 16, 32, 64, 128),
    "tokens": (64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "hidden": (384, 768, 1536, 2304, 4096),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("results") / "scaling.json"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--rounds", type=int, default=11, help="at least")
    parser.add_argument("--budget", type=float, default=3, help="seconds for rounds beyond these, a cell")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--largest", type=int, default=8192, help="leave out sizes above")
    parser.add_argument("--again", action="store_true", help="measure what the file holds, too")
    given = parser.parse_args()
    results = Results(
        given.out,
        ("width", "tokens", "hidden", "device"),
        question="a step of a stack of adapted linear layers over the frozen stack's, as one size varies",
        layers=LAYERS,
        fixed=FIXED,
        sweeps=SWEEPS,
    )
    for sweep, values in SWEEPS.items():
        for value in (value for value in values if value <= given.largest):
            cell = {**FIXED, sweep: value, "device": given.device}
            if results.find(cell) is not None and not given.again:
                continue
            began = time.perf_counter()
            cell |= run(cell, given)
            results.put(cell)
            print(line(cell, sweep, time.perf_counter() - began), flush=True)


def run(cell: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    case = stack(cell["hidden"], cell["width"], given.device)

    def batch(seed: int) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(seed)
        shape = (2, 1, cell["tokens"], cell["hidden"])
        x, gradient = torch.randn(shape, generator=stream).to(
            given.device, next(case.base.parameters()).dtype
        )
        return x, gradient

    methods = measure(case, MAIN, batch, given.device, given.rounds, given.budget)
    for name in ("deep_frozen", "deep_trained"):
        methods[name]["branch"] = branch(name, case, batch(0))
    return {"methods": methods, **circumstances(given.device)}


def stack(hidden: int, width: int, device: str) -> Case:
    """Random layers that keep the size of what goes through; bfloat16 on a GPU."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(*(nn.Linear(hidden, hidden) for _ in range(LAYERS)))
    for layer in layers:
        nn.init.normal_(layer.weight, std=hidden**-0.5)
    return Case(
        layers.to(device, dtype),
        along,
        targets=[str(number) for number in range(LAYERS)],
        rank=width,
        autocast=None if dtype == torch.float32 else dtype,
    )


def along(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss whose gradient at the output is given: it costs next to nothing."""
    x, gradient = batch
    y = model(x)
    return torch.vdot(y.flatten(), gradient.flatten().to(y.dtype))


def branch(name: str, case: Case, batch: tuple[Tensor, Tensor]) -> dict[str, str]:
    """What a method's forward and backward make: a matrix of the weight's shape ("fold") or not ("side")."""
    training = METHODS[name].start(case, prepare(name, case))
    with _Shapes() as forward:
        loss = training.forward(batch)
    with _Shapes() as backward:
        loss.backward()
    square = (batch[0].shape[-1],) * 2  # no size of a sweep makes the tokens a square, too
    passes = {"forward": forward, "backward": backward}
    return {name: "fold" if square in seen.shapes else "side" for name, seen in passes.items()}


class _Shapes(TorchDispatchMode):
    """Collects the last two sides of all results of matrix products and sums."""

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
