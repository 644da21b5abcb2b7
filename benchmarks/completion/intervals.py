"""Part `intervals` of `benchmarks.completion.run`: how often do intervals contain their entries?

Entries are judged as they would be observed: where noise is added to the seen values, it is added to these too. All
ratings that the fold leaves out are judged, and intervals are cut to the scale as predictions are.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.completion.matrices import CASES, CompletionCase
from benchmarks.shared.results import ResultFile, cell_name
from corefold.completion import DeepMatrixCompletion

# Sets with noise or misfit; without these, intervals have no width to measure.
COVERED = ("ml-100k", "ml-small", "noisy6", "noisy12", "genes")
NOMINAL = (0.8, 0.9, 0.95)


def intervals(results: ResultFile, options: argparse.Namespace, about: Mapping[str, Any]) -> None:
    names = options.covered.split(",")
    for name, seed in [(name, seed) for seed in range(options.seeds) for name in names]:
        identity = {"part": "intervals", "set": name, "seed": seed}
        if cell_name(identity) in results.cells and not options.again:
            continue
        case = CASES[name](seed)
        levels = coverage(case, seed)
        results.put(cell_name(identity), {**identity, **case.about(), "levels": levels, **about})
        line = ", ".join(f"{level['coverage']:.3f} of {level['nominal']:g}" for level in levels)
        print(f"{name} {seed}: {line}", flush=True)


def coverage(case: CompletionCase, seed: int) -> list[dict[str, Any]]:
    """For each nominal coverage the measured one, the mean width, and the number of entries behind the margin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about films that the fold leaves without a rating
        estimator = DeepMatrixCompletion(case.max_rank, random_state=seed)
        estimator.fit(case.seen, shape=case.shape)
    rows, columns, truth = case.judged
    fresh = truth + case.noise * np.random.default_rng((seed, 1)).standard_normal(len(truth))
    levels = []
    for nominal in NOMINAL:
        low, high = estimator.intervals(rows, columns, nominal)
        levels.append(
            {
                "nominal": nominal,
                "coverage": float(np.mean((low <= fresh) & (fresh <= high))),
                "mean_width": float(np.mean(high - low)),
                "calibrated_on": len(estimator.model_.calibration),
            }
        )
    return levels
