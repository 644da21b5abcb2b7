"""What an estimator is told: checked, and as a fit takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from corefold.completion.bounds import height_and_entries
from corefold.completion.search import Settings
from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows
from corefold.completion.solvers import ALS, Descent, Schatten, Solver

MOST = 64  # directions that "auto" starts from
ROOM, FEW = 2**29, 16  # bytes that a solver's copies of the factors may then take, unless there are so few
WORKING_COPIES = 20  # of the factors, in a step of a solver
SOLVERS = {"schatten": Schatten, "descent": Descent, "als": ALS}


def settings_of(told: Mapping[str, Any], observed: Observed, rows: Rows) -> Settings:
    """The fit's settings from the estimator's, by name.

    Raises:
        ValueError: no observed entry, or a setting out of its range.
    """
    height, entries = height_and_entries(observed, rows)
    if not entries:
        raise ValueError("nothing is observed: every entry of X is missing")
    width = width_of(told["max_rank"], height, observed.shape[1], entries)
    for name, least in (("depth", 2), ("max_iter", 1)):
        if not isinstance(told[name], (int, np.integer)) or told[name] < least:
            raise ValueError(f"{name} must be an integer of {least} or more; got {told[name]!r}")
    if told["fit_bias"] not in (True, False, "auto"):
        raise ValueError(f'fit_bias must be True, False or "auto"; got {told["fit_bias"]!r}')
    if not 0 <= told["validation_fraction"] < 1:
        raise ValueError(f"validation_fraction must lie in [0, 1); got {told['validation_fraction']!r}")
    if not isinstance(told["tol"], (int, float, np.number)) or not told["tol"] >= 0:
        raise ValueError(f"tol must be a number, 0 or more; got {told['tol']!r}")
    solver = solver_of(told["solver"], told["depth"])
    seed = observed.starts.new_tensor(int(check_random_state(told["random_state"]).randint(2**31)))
    return Settings(
        solver,
        width,
        float(told["validation_fraction"]),
        told["fit_bias"],
        int(told["max_iter"]),
        float(told["tol"]),
        int(rows.same(seed)),
    )


def width_of(max_rank: Any, height: int, width: int, entries: int) -> int:
    """Directions to start from; "auto": as many as the entries could settle if rows and columns were free.

    Raises:
        ValueError: a rank that no matrix of this shape has.
    """
    most = min(height, width)
    if isinstance(max_rank, str) and max_rank == "auto":
        roomy = max(FEW, ROOM // (WORKING_COPIES * 8 * (height + width)))
        return max(1, min(most, MOST, roomy, entries // (height + width)))
    if not isinstance(max_rank, (int, np.integer)) or not 1 <= max_rank <= most:
        raise ValueError(
            f'max_rank must be "auto" or an integer from 1 to {most}, the smaller side of X with '
            f"n_samples={height}, n_features={width}; got {max_rank!r}"
        )
    return int(max_rank)


def solver_of(solver: str | Solver, depth: int) -> Solver:
    """The solver of this name, or the one given.

    Raises:
        ValueError: an unknown name, or what is no solver.
    """
    if isinstance(solver, Solver) and not isinstance(solver, type):
        return solver
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise ValueError(
            f"solver must be one of {', '.join(SOLVERS)}, or an object such as Schatten(depth=4); got {solver!r}"
        )
    return ALS() if solver == "als" else SOLVERS[solver](depth=depth)
