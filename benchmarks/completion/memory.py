"""Memory of reading observed entries, and of each process of a shared fit: part `memory` of completion.py.

Both are measured in processes of their own:

    python benchmarks/completion_memory.py read 10000000 int32     # so many triples, with such indices
    torchrun --standalone --nproc-per-node 2 benchmarks/completion_memory.py fit FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from completion_data import Triples

from corefold.completion import DeepMatrixCompletion
from corefold.completion.entries import observed_entries, triples

if TYPE_CHECKING:
    from side_by_side import Results

IN_A_ROW = 100  # observed entries of each row
STRIDE = 997  # between the columns of a row's entries; prime, so that no place comes twice
RANK, NOISE = 10, 0.1
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")  # one in each process: more have stacks of their own


def memory(results: Results, given: argparse.Namespace, about: Mapping[str, Any]) -> None:
    for index in ("int32", "int64"):
        key = {"part": "memory", "set": f"read {given.read} {index}", "seed": 0}
        if results.find(key) is None or given.again:
            found = reported([sys.executable, __file__, "read", str(given.read), index])
            results.put({**key, **found, **about})
            print(f"read {given.read} triples, {index}: {_millions(found)}", flush=True)
    counts = [int(count) for count in given.processes.split(",")]
    keys = {count: {"part": "memory", "set": f"{count} processes", "seed": 0} for count in counts}
    if all(results.find(key) is not None for key in keys.values()) and not given.again:
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.shared)
        for count, key in keys.items():
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            found = reported([*command, f"--nproc-per-node={count}", __file__, "fit", folder])
            results.put({**key, "observed": given.shared, **found, **about})
            above = ", ".join(f"{one['above_bytes'] / 1e6:.0f}" for one in found["processes"])
            print(f"{count} processes: {above} MB above the imports", flush=True)


def reported(command: Sequence[str]) -> dict[str, Any]:
    """What a command says in its last line."""
    alone = {name: os.environ.get(name, "1") for name in THREADS}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **alone})
    return json.loads(done.stdout.splitlines()[-1])


def _millions(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{key[:-6]} {found[key] / 1e6:.0f} MB" for key in found if key.endswith("_bytes"))


def read(entries: int, index: str) -> dict[str, Any]:
    """Triples become observed entries; memory above what there was with the triples."""
    observed_entries(triples(*_strided(2000, "int32")))  # loads compiled loops
    given, shape = _strided(entries, index)
    reset()
    before = now()
    began = time.perf_counter()
    observed = observed_entries(triples(given, shape))
    seconds = time.perf_counter() - began
    return {
        "observed": len(observed),
        "seconds": seconds,
        "given_bytes": sum(part.nbytes for part in given),
        "held_bytes": sum(part.nbytes for part in vars(observed).values() if torch.is_tensor(part)),
        "kept_bytes": now() - before,  # as the system sees what is held
        "above_bytes": peak() - before,
    }


def _strided(entries: int, index: str) -> tuple[Triples, tuple[int, int]]:
    """Entries column after column, no place twice: what a planted matrix takes would be the peak."""
    side = max(entries // IN_A_ROW, 2 * IN_A_ROW)
    place = np.arange(entries)
    rows = (place % side).astype(index)
    columns = ((place % side * 7 + place // side * STRIDE) % side).astype(index)
    return (rows, columns, np.random.default_rng(0).standard_normal(entries)), (side, side)


def write(folder: Path, entries: int) -> None:
    """A matrix for all processes, in files of which each reads its part."""
    from completion_scale import planted

    side = max(entries // IN_A_ROW, 2 * IN_A_ROW)
    problem = planted(0, side, RANK, entries, noise=NOISE)
    for name, part in zip(("rows", "columns", "values"), problem.seen, strict=True):
        np.save(folder / f"{name}.npy", part)
    (folder / "shape.json").write_text(json.dumps(problem.shape))


def fit(folder: Path) -> dict[str, Any]:
    """Fit the process's rows together with the others; memory of each above what it took to be ready."""
    stream = np.random.default_rng(dist.get_rank())
    small = np.where(stream.random((60, 20)) < 0.3, np.nan, stream.standard_normal((60, 20)))
    DeepMatrixCompletion(distributed=True, random_state=0).fit(small)  # loads compiled loops
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
    """This process's run of the rows, numbered from 0; of the files no more is read than that."""
    height, width = json.loads((folder / "shape.json").read_text())
    rank, count = dist.get_rank(), dist.get_world_size()
    begin, end = (height * part // count for part in (rank, rank + 1))
    rows, columns, values = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "columns", "values")
    )
    part = slice(*np.searchsorted(rows, [begin, end]))
    return (rows[part] - begin, np.array(columns[part]), np.array(values[part])), (end - begin, width)


def peak() -> int:
    """Of this process since it began or `reset`: Linux lets ru_maxrss begin with the peak of who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def now() -> int:
    return psutil.Process().memory_info().rss


def reset() -> None:
    """Let the peak count from here, where Linux allows it; elsewhere it may be an earlier one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def child() -> None:
    warnings.simplefilter("ignore")
    what, *told = sys.argv[1:]
    if what == "read":
        print(json.dumps(read(int(told[0]), told[1])))
        return
    dist.init_process_group("gloo")
    found = fit(Path(told[0]))
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    child()
