"""The estimator's settings, checked against the observed entries, in the form in which a fit takes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils import check_random_state

from corefold.completion.distributed import RowPartition
from corefold.completion.feature_effects import Features
from corefold.completion.memory import WORKING_COPIES
from corefold.completion.observed import Observed
from corefold.completion.solvers import ALS, Descent, Schatten, Solver

MAX_AUTO_RANK = 64
MAX_AUTO_BYTES = 2**29  # "auto" keeps a solver's working copies below,
LEAST_POSTERIOR_RANK = (
    12  # where "auto" starts a posterior, which drops the directions that entries do not settle
)
SMALL_AUTO_RANK = 16  # unless the rank is at most this


@dataclass(frozen=True)
class FitSettings:
    """The settings of a fit, decided; see `DeepMatrixCompletion`."""

    solver: Solver
    start_rank: int
    validation_share: float
    bias: bool | Literal["auto"]
    max_iter: int
    tol: float
    seed: int
    posterior_rank: int
    max_rank: int | None
    candidates: Literal["all", "low_rank"]
    error: Literal["auto", "absolute", "relative"]
    features: Features | None = None


SOLVERS = {"schatten": Schatten, "descent": Descent, "als": ALS}


def settings_of(parameters: Mapping[str, Any], observed: Observed, partition: RowPartition) -> FitSettings:
    """The fit's settings from the estimator's parameters.

    Raises:
        ValueError: no observed entry, or a parameter out of its range.
    """
    height, entries = height_and_entries(observed, partition)
    if not entries:
        raise ValueError("nothing is observed: every entry of X is missing")
    max_rank = parameters["max_rank"]
    rank = start_rank(max_rank, height, observed.shape[1], entries)
    for name, least in (("depth", 2), ("max_iter", 1)):
        if not isinstance(parameters[name], (int, np.integer)) or parameters[name] < least:
            raise ValueError(f"{name} must be an integer of {least} or more; got {parameters[name]!r}")
    require_range(observed, partition, torch.finfo(observed.values.dtype).max / entries)
    bias, share, tol = (parameters[name] for name in ("fit_bias", "validation_fraction", "tol"))
    if bias not in (True, False, "auto"):
        raise ValueError(f'fit_bias must be True, False or "auto"; got {bias!r}')
    if not 0 <= share < 1:
        raise ValueError(f"validation_fraction must lie in [0, 1); got {share!r}")
    if not isinstance(tol, (int, float, np.number)) or not tol >= 0:
        raise ValueError(f"tol must be a number, 0 or more; got {tol!r}")
    solver = solver_of(parameters["solver"], parameters["depth"])
    seed = int(check_random_state(parameters["random_state"]).randint(2**31))
    seed = int(partition.broadcast(observed.starts.new_tensor(seed)))
    candidates = parameters["candidates"]
    if candidates not in ("all", "low_rank"):
        raise ValueError(f'candidates must be "all" or "low_rank"; got {candidates!r}')
    if not isinstance(solver, Schatten):
        candidates = "low_rank"
    error = parameters["error"]
    if error not in ("auto", "absolute", "relative"):
        raise ValueError(f'error must be "auto", "absolute" or "relative"; got {error!r}')
    bound = None if isinstance(max_rank, str) else rank
    wide = (
        min(height, observed.shape[1], max(rank, LEAST_POSTERIOR_RANK)) if isinstance(max_rank, str) else rank
    )
    return FitSettings(
        solver,
        rank,
        float(share),
        bias,
        int(parameters["max_iter"]),
        float(tol),
        seed,
        wide,
        bound,
        candidates,
        error,
    )


def require_range(observed: Observed, partition: RowPartition, limit: float) -> None:
    """Raise ValueError for values beyond a limit, where they would overflow."""
    largest = observed.values.abs().amax() if len(observed) else observed.values.new_zeros(())
    if float(partition.max(largest)) > limit:
        dtype = str(observed.values.dtype).removeprefix("torch.")
        raise ValueError(f"values beyond {limit:.1g} overflow in {dtype}; divide them")


def start_rank(max_rank: Any, height: int, width: int, entries: int) -> int:
    """The rank to start from; "auto": as many directions as the entries could settle if all were independent.

    Raises:
        ValueError: a rank that no matrix of this shape has.
    """
    largest = min(height, width)
    if isinstance(max_rank, str) and max_rank == "auto":
        affordable = max(SMALL_AUTO_RANK, MAX_AUTO_BYTES // (WORKING_COPIES * 8 * (height + width)))
        return max(1, min(largest, MAX_AUTO_RANK, affordable, entries // (height + width)))
    if not isinstance(max_rank, (int, np.integer)) or not 1 <= max_rank <= largest:
        raise ValueError(
            f'max_rank must be "auto" or an integer from 1 to {largest}, the smaller side of X with '
            f"n_samples={height}, n_features={width}; got {max_rank!r}"
        )
    return int(max_rank)


def solver_of(solver: Any, depth: int) -> Solver:
    """The solver of this name, or the object itself.

    Raises:
        ValueError: an unknown name, or an object that is not a solver.
    """
    if isinstance(solver, Solver) and not isinstance(solver, type):
        return solver
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise ValueError(
            f"solver must be one of {', '.join(SOLVERS)}, or an object such as Schatten(depth=4); got {solver!r}"
        )
    return ALS() if solver == "als" else SOLVERS[solver](depth=depth)


def warn_of_gaps(observed: Observed, partition: RowPartition, settings: FitSettings) -> None:
    """Warn of rows and columns without an entry, and of fewer entries than the rank has degrees of freedom."""
    column_counts = partition.sum(observed.column_starts.diff())
    empty_rows = partition.sum((observed.starts.diff() == 0).sum())
    features, rank = settings.features, settings.start_rank
    of_rows, of_columns = (
        (False, False) if features is None else (features.rows.shape[1] > 0, features.columns.shape[1] > 0)
    )
    sides = (
        ("rows", int(empty_rows), of_rows),
        ("columns", int((column_counts == 0).sum()), of_columns),
    )
    for name, empty, featured in sides:
        if empty and not featured:
            warnings.warn(f"{empty} {name} have no observed entry; biases alone predict them", stacklevel=3)
    height, entries = height_and_entries(observed, partition)
    freedom = rank * (height + observed.shape[1] - rank)
    if entries < freedom:
        warnings.warn(
            f"{entries} observed entries are fewer than the {freedom} degrees of freedom of a matrix of shape "
            f"{(height, observed.shape[1])} and rank {rank}",
            stacklevel=3,
        )


def height_and_entries(observed: Observed, partition: RowPartition) -> tuple[int, int]:
    """Rows and observed entries of the whole matrix."""
    height, entries = partition.sum(observed.starts.new_tensor([observed.shape[0], len(observed)])).tolist()
    return height, entries
