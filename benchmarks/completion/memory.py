"""Part `memory` of `benchmarks.completion.run`: reading observed entries, and each process of a shared fit.

Both are measured in processes of their own, which run

    python -m benchmarks.completion.memory read 10000000 int32     # triples, and the type of their indices
    torchrun --standalone --nproc-per-node 2 --module benchmarks.completion.memory fit FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.completion.own_process import module_command, now, peak, report, reset
from benchmarks.completion.planted import ENTRIES_PER_ROW, NOISE, RANK, Triples, planted
from benchmarks.shared.results import ResultFile, cell_name
from corefold.completion import DeepMatrixCompletion
from corefold.completion.entries import observed_entries, triples

MODULE = "benchmarks.completion.memory"
COLUMN_STRIDE = 997  # between the columns of a row's entries; prime, so that no place occurs twice
# One thread in each process, since each further one has a stack of its own.
THREADS = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}


def memory(results: ResultFile, options: argparse.Namespace, about: Mapping[str, Any]) -> None:
    for index in ("int32", "int64"):
        identity = {"part": "memory", "set": f"read {options.read} {index}", "seed": 0}
        if cell_name(identity) not in results.cells or options.again:
            figures = report([*module_command(MODULE), "read", str(options.read), index], THREADS)
            results.put(cell_name(identity), {**identity, **figures, **about})
            print(f"read {options.read} triples, {index}: {_millions(figures)}", flush=True)
    counts = [int(count) for count in options.processes.split(",")]
    identities = {count: {"part": "memory", "set": f"{count} processes", "seed": 0} for count in counts}
    if not options.again and all(cell_name(identity) in results.cells for identity in identities.values()):
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.shared)
        for count, identity in identities.items():
            command = [*module_command("torch.distributed.run"), "--standalone", f"--nproc-per-node={count}"]
            figures = report([*command, "--module", MODULE, "fit", folder], THREADS)
            cell = {**identity, "observed": options.shared, **figures, **about}
            results.put(cell_name(identity), cell)
            above = ", ".join(f"{one['above_bytes'] / 1e6:.0f}" for one in figures["processes"])
            print(f"{count} processes: {above} MB above the imports", flush=True)


def _millions(figures: Mapping[str, Any]) -> str:
    sizes = {key.removesuffix("_bytes"): value for key, value in figures.items() if key.endswith("_bytes")}
    return ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items())


def read(entries: int, index: str) -> dict[str, Any]:
    """Memory above that of the triples while they become observed entries."""
    observed_entries(triples(*_strided(2000, "int32")))  # loads compiled loops
    parts, shape = _strided(entries, index)
    reset()
    before = now()
    began = time.perf_counter()
    observed = observed_entries(triples(parts, shape))
    seconds = time.perf_counter() - began
    return {
        "observed": len(observed),
        "seconds": seconds,
        "given_bytes": sum(part.nbytes for part in parts),
        "held_bytes": sum(part.nbytes for part in vars(observed).values() if torch.is_tensor(part)),
        "kept_bytes": now() - before,  # the same as the operating system counts it
        "above_bytes": peak() - before,
    }


def _strided(entries: int, index: str) -> tuple[Triples, tuple[int, int]]:
    """Entries column after column, no place twice; making a planted matrix would need more memory than reading it."""
    side = max(entries // ENTRIES_PER_ROW, 2 * ENTRIES_PER_ROW)
    place = np.arange(entries)
    rows = (place % side).astype(index)
    columns = ((place % side * 7 + place // side * COLUMN_STRIDE) % side).astype(index)
    return (rows, columns, np.random.default_rng(0).standard_normal(entries)), (side, side)


def write(folder: Path, entries: int) -> None:
    """Write a matrix for all processes to files, of which each reads its part."""
    side = max(entries // ENTRIES_PER_ROW, 2 * ENTRIES_PER_ROW)
    matrix = planted(0, side, RANK, entries, noise=NOISE)
    for name, part in zip(("rows", "columns", "values"), matrix.seen, strict=True):
        np.save(folder / f"{name}.npy", part)
    (folder / "shape.json").write_text(json.dumps(matrix.shape))


def fit(folder: Path) -> dict[str, Any]:
    """Fit the process's rows together with the others; memory of each process above that of its imports."""
    stream = np.random.default_rng(dist.get_rank())
    small = np.where(stream.random((60, 20)) < 0.3, np.nan, stream.standard_normal((60, 20)))
    few = {"candidates": "low_rank", "max_iter": 2}
    DeepMatrixCompletion(distributed=True, random_state=0, **few).fit(small)  # loads compiled loops
    reset()
    before = now()
    own, shape = _own(folder)
    began = time.perf_counter()
    estimator = DeepMatrixCompletion(distributed=True, random_state=0).fit(own, shape=shape)
    here = {
        "rows": shape[0],
        "observed": len(own[2]),
        "seconds": time.perf_counter() - began,
        "before_bytes": before,
        "above_bytes": peak() - before,
    }
    processes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(processes, here)
    return {"rank": estimator.rank_, "steps": estimator.n_iter_, "processes": processes}


def _own(folder: Path) -> tuple[Triples, tuple[int, int]]:
    """This process's rows, numbered from 0; it reads no other part of the files."""
    height, width = json.loads((folder / "shape.json").read_text())
    rank, count = dist.get_rank(), dist.get_world_size()
    begin, end = (height * part // count for part in (rank, rank + 1))
    rows, columns, values = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "columns", "values")
    )
    part = slice(*np.searchsorted(rows, [begin, end]))
    return (rows[part] - begin, np.array(columns[part]), np.array(values[part])), (end - begin, width)


def child() -> None:
    """Print the figures of one process, or of a group."""
    warnings.simplefilter("ignore")
    part, *arguments = sys.argv[1:]
    if part == "read":
        print(json.dumps(read(int(arguments[0]), arguments[1])))
        return
    dist.init_process_group("gloo")
    figures = fit(Path(arguments[0]))
    if dist.get_rank() == 0:
        print(json.dumps(figures), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    child()
