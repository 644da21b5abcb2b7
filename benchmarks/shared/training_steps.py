"""Time and memory of one training step of each method, on one model and shape of batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.shared.footprint import Watch, addresses, saved_for_backward
from benchmarks.shared.peers import METHODS, BaseModel, TrainedModel, initial_model
from benchmarks.shared.rounds import RoundPlan, interleave, ratio, spread


def measure(
    base: BaseModel, names: Sequence[str], batch: Callable[[int], Any], plan: RoundPlan
) -> dict[str, dict[str, Any]]:
    """Figures of each method by name; `batch` makes the batch of a seed."""
    trained, figures = {}, {}
    for name in names:
        print(f"  {name}", end="", file=sys.stderr, flush=True)
        trained[name], figures[name] = warmed_up(name, base, batch, plan.device)
    print("; rounds", file=sys.stderr, flush=True)
    steps = {name: model.step for name, model in trained.items()}
    seconds = interleave(steps, batch, plan)
    for name, figure in figures.items():
        figure["seconds"] = seconds[name]
        figure |= spread(seconds[name])
        figure["over_floor"] = ratio(seconds[name], seconds["floor"])
        figure["lora_over"] = ratio(seconds["lora"], seconds[name])
    return figures


def warmed_up(
    name: str, base: BaseModel, batch: Callable[[int], Any], device: str
) -> tuple[TrainedModel, dict[str, Any]]:
    """A method after two steps, and its memory.

    The first step gives the optimizer its state; the second is watched for its peak.
    """
    method, model = METHODS[name], initial_model(name, base)
    weights = addresses(model) | addresses(base.module)
    first, second = batch(0), batch(1)
    with Watch(device) as watch:
        trained = method.start(base, model)
        with saved_for_backward(left_out=weights) as saved:
            loss = trained.forward(first)
        trained.backward(loss)
        del loss
        watch.mark()
        trained.step(second)
    figures = {
        "label": method.label,
        "note": method.note,
        "peak_bytes": watch.peak,
        "saved_bytes": sum(saved.values()),
        "trained": trained.trained_numbers(),
    }
    return trained, figures
