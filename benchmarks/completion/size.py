"""Seconds and memory of DeepMatrixCompletion against size: part `size` of completion.py.

Each size runs in a process of its own, which reports its seconds and the peak of its memory:

    python benchmarks/completion_size.py 1000000       # what such a process runs: so many observed entries
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from completion_memory import IN_A_ROW, NOISE, RANK, peak
from completion_scale import planted

from corefold.completion import DeepMatrixCompletion

if TYPE_CHECKING:
    from side_by_side import Results


def size(results: Results, given: argparse.Namespace, about: Mapping[str, Any]) -> None:
    sizes = [int(entries) for entries in given.sizes.split(",")] + [10**7] * given.largest
    for entries, dtype in itertools.product(sizes, given.dtypes.split(",")):
        for seed in range(min(given.seeds, 1 if entries > 10**6 else 3)):
            key = {"part": "size", "set": f"{entries} {dtype}", "seed": seed}
            if results.find(key) is not None and not given.again:
                continue
            command = [
                sys.executable,
                str(Path(__file__)),
                str(entries),
                "--seed",
                str(seed),
                "--dtype",
                dtype,
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout)
            results.put({**key, **found, **about})
            print(
                f"{entries} observed, {dtype}: {found['seconds']:.1f} s, peak {found['peak_bytes'] / 1e6:.0f} MB, "
                f"of it {found['before_bytes'] / 1e6:.0f} before the fit, rank {found['rank']}",
                flush=True,
            )


def child() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("entries", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    side = given.entries // IN_A_ROW
    small = planted(0, 60, 2, 1200)
    DeepMatrixCompletion(dtype=given.dtype).fit(small.seen, shape=small.shape)  # loads compiled loops
    problem = planted(given.seed, side, RANK, given.entries, noise=NOISE)
    before = peak()
    began, busy = time.perf_counter(), time.process_time()
    estimator = DeepMatrixCompletion(random_state=given.seed, dtype=given.dtype)
    estimator.fit(problem.seen, shape=problem.shape)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    found = {
        "side": side,
        "true_rank": RANK,
        "noise": NOISE,
        "observed": len(problem.seen[2]),
        "seconds": seconds,
        "processor_seconds": busy,  # of all threads; tells how much else the machine had to do
        "before_bytes": before,
        "peak_bytes": peak(),
        "rank": estimator.rank_,
        "steps": estimator.n_iter_,
        "step_seconds": statistics.median(
            np.diff([step["seconds"] for step in estimator.path_]).tolist() or [seconds]
        ),
        "relative_error": problem.error(estimator.entries),
        "threads": [torch.get_num_threads(), numba.get_num_threads()],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    child()
