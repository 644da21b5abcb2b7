"""Methods side by side in one process: rounds in shuffled order, medians and quartiles of the ratios within a round."""

from __future__ import annotations

import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from footprint import Watch, addresses, saved_for_backward
from peers import METHODS, Case, Training, prepare

MOST = 21  # rounds; more add nothing
Seconds = list[float | None]


def measure(
    case: Case,
    names: Sequence[str],
    batch: Callable[[int], Any],
    device: str,
    rounds: int,
    budget: float,
    rare: Sequence[str] = (),
    every: int = 3,
) -> dict[str, dict[str, Any]]:
    """Time and memory of one step of each method; `batch(seed)` makes a batch. See `interleave`."""
    trainings, figures = {}, {}
    for name in names:
        print(f"  {name}", end="", file=sys.stderr, flush=True)
        trainings[name], figures[name] = start(name, case, batch, device)
    print("; rounds", file=sys.stderr, flush=True)
    steps = {name: training.step for name, training in trainings.items()}
    seconds = interleave(steps, batch, device, rounds, budget, rare, every)
    for name, found in figures.items():
        found["seconds"] = seconds[name]
        found |= spread(seconds[name])
        found["over_floor"] = ratio(seconds[name], seconds["floor"])
        found["lora_over"] = ratio(seconds["lora"], seconds[name])
    return figures


def start(name: str, case: Case, batch: Callable[[int], Any], device: str) -> tuple[Training, dict[str, Any]]:
    """A method after two steps: the first gives the optimizer its state, the second is watched for its peak."""
    method, model = METHODS[name], prepare(name, case)
    weights = addresses(model) | addresses(case.base)
    first, second = batch(0), batch(1)
    with Watch(device) as watch:
        training = method.start(case, model)
        with saved_for_backward(left_out=weights) as saved:
            loss = training.forward(first)
        training.backward(loss)
        del loss
        watch.mark()
        training.step(second)
    figures = {
        "label": method.label,
        "note": method.note,
        "peak_bytes": watch.peak,
        "saved_bytes": sum(saved.values()),
        "trained": training.trained(),
    }
    return training, figures


def interleave(
    steps: Mapping[str, Callable[[Any], object]],
    batch: Callable[[int], Any],
    device: str,
    rounds: int,
    budget: float,
    rare: Sequence[str] = (),
    every: int = 1,
) -> dict[str, Seconds]:
    """Seconds of each in each round, None where it sat out.

    There are `rounds` of them at least, more while `budget` seconds last; the `rare` take part in one of `every`.
    """
    seconds: dict[str, Seconds] = {name: [] for name in steps}
    began, order = time.perf_counter(), random.Random(0)
    while (done := len(next(iter(seconds.values())))) < MOST:
        if done >= rounds and time.perf_counter() - began > budget:
            break
        playing = [name for name in steps if name not in rare or done % every == 0]
        order.shuffle(playing)
        fed = batch(2 + done)
        for name in steps:
            seconds[name].append(None)
        gc.collect()
        gc.disable()
        try:
            for name in playing:
                seconds[name][-1] = timed(steps[name], fed, device)
        finally:
            gc.enable()
    return seconds


def timed(step: Callable[[Any], object], batch: Any, device: str) -> float:
    """Seconds of one step; a GPU is waited for before and after."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    step(batch)
    wait()
    return time.perf_counter() - began


def spread(values: Sequence[float | None]) -> dict[str, float]:
    """Median and quartiles of the rounds that took place."""
    there = [value for value in values if value is not None]
    quarters = statistics.quantiles(there, n=4, method="inclusive") if len(there) > 1 else there * 3
    return dict(zip(("q1", "median", "q3"), quarters, strict=True))


def ratio(over: Seconds, under: Seconds) -> dict[str, float]:
    """Median and quartiles of the ratio within each round that both took part in."""
    return spread([a / b for a, b in zip(over, under, strict=True) if a is not None and b is not None])


def circumstances(device: str) -> dict[str, Any]:
    """Versions and machine."""
    import peft
    import transformers

    import corefold

    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    if torch.device(device).type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {
        "versions": {
            "corefold": corefold.__version__,
            "peft": peft.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "machine": machine,
    }


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


class Results:
    """A JSON file of cells, written after each, so that a killed run goes on where it was."""

    def __init__(self, path: Path, keys: Sequence[str], **head: Any) -> None:
        self.path, self.keys, self.head = path, keys, head
        self.cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"] if path.exists() else []

    def find(self, cell: Mapping[str, Any]) -> int | None:
        alike = (i for i, old in enumerate(self.cells) if all(old[key] == cell[key] for key in self.keys))
        return next(alike, None)

    def put(self, cell: dict[str, Any]) -> None:
        place = self.find(cell)
        if place is None:
            self.cells.append(cell)
        else:
            self.cells[place] = cell
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({**self.head, "cells": self.cells}, indent=1) + "\n")
