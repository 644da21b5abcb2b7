"""How often do intervals of DeepMatrixCompletion hold the entries they are for? Part `intervals` of completion.py.

Entries are judged as they would be observed: where values seen have noise added, so have these. Of ratings all that the
fold leaves out are judged, and intervals are cut to the scale as predictions are.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from completion_data import CASES, Case

from corefold.completion import DeepMatrixCompletion

if TYPE_CHECKING:
    from side_by_side import Results

COVERED = (
    "ml-100k",
    "ml-small",
    "noisy6",
    "noisy12",
    "genes",
)  # without noise or misfit there is nothing to cover
NOMINAL = (0.8, 0.9, 0.95)


def intervals(results: Results, given: argparse.Namespace, about: Mapping[str, Any]) -> None:
    names = given.covered.split(",")
    for name, seed in [(name, seed) for seed in range(given.seeds) for name in names]:
        key = {"part": "intervals", "set": name, "seed": seed}
        if results.find(key) is not None and not given.again:
            continue
        case = CASES[name](seed)
        levels = covered(case, seed)
        results.put({**key, **case.about(), "levels": levels, **about})
        said = ", ".join(f"{level['coverage']:.3f} of {level['nominal']:g}" for level in levels)
        print(f"{name} {seed}: {said}", flush=True)


def covered(case: Case, seed: int) -> list[dict[str, Any]]:
    """For each nominal coverage the measured one, the mean width, and how many entries the margin is from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of films that the fold leaves without a rating
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
                "calibrated_on": len(estimator.model_.misses),
            }
        )
    return levels
