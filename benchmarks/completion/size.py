"""Part `size` of `benchmarks.completion.run`: seconds and memory of DeepMatrixCompletion against size.

Each size runs in a process of its own, which reports its seconds and the peak of its memory. Such a process runs

    python -m benchmarks.completion.size 1000000       # observed entries
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import torch

from benchmarks.completion.own_process import module_command, peak, report
from benchmarks.completion.planted import ENTRIES_PER_ROW, NOISE, RANK, planted
from benchmarks.shared.results import ResultFile, cell_name
from corefold.completion import DeepMatrixCompletion

LARGEST = 10**7
MAX_SEEDS, FEW_SEEDS_ABOVE = 3, 10**6  # one seed of the largest sizes


def size(results: ResultFile, options: argparse.Namespace, about: Mapping[str, Any]) -> None:
    sizes = [int(entries) for entries in options.sizes.split(",")] + [LARGEST] * options.largest
    for entries, dtype in itertools.product(sizes, options.dtypes.split(",")):
        for seed in range(min(options.seeds, 1 if entries > FEW_SEEDS_ABOVE else MAX_SEEDS)):
            identity = {"part": "size", "set": f"{entries} {dtype}", "seed": seed}
            if cell_name(identity) in results.cells and not options.again:
                continue
            arguments = [str(entries), "--seed", str(seed), "--dtype", dtype]
            figures = report([*module_command("benchmarks.completion.size"), *arguments])
            results.put(cell_name(identity), {**identity, **figures, **about})
            print(
                f"{entries} observed, {dtype}: {figures['seconds']:.1f} s, peak {figures['peak_bytes'] / 1e6:.0f} MB, "
                f"of it {figures['before_bytes'] / 1e6:.0f} before the fit, rank {figures['rank']}",
                flush=True,
            )


def child() -> None:
    """Print the figures of one size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("entries", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    side = options.entries // ENTRIES_PER_ROW
    small = planted(0, 60, 2, 1200)
    DeepMatrixCompletion(dtype=options.dtype).fit(small.seen, shape=small.shape)  # loads compiled loops
    problem = planted(options.seed, side, RANK, options.entries, noise=NOISE)
    before = peak()
    began, busy = time.perf_counter(), time.process_time()
    estimator = DeepMatrixCompletion(random_state=options.seed, dtype=options.dtype)
    estimator.fit(problem.seen, shape=problem.shape)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    figures = {
        "side": side,
        "true_rank": RANK,
        "noise": NOISE,
        "observed": len(problem.seen[2]),
        "seconds": seconds,
        "processor_seconds": busy,  # all threads together; shows how busy the machine was otherwise
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
    print(json.dumps(figures))


if __name__ == "__main__":
    child()
