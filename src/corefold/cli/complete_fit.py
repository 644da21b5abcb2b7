"""One fit of `corefold complete`, with a progress bar, and what entries held out of everything say about it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from corefold.cli.complete_data import caught
from corefold.completion import DeepMatrixCompletion
from corefold.completion.biases import Biases
from corefold.completion.fit import Record
from corefold.completion.observed import Observed
from corefold.completion.processes import Rows
from corefold.completion.split import split
from corefold.errors import InputError

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
OURS = "completed"


@dataclass(frozen=True)
class HeldOut:
    """What the entries held out say.

    Attributes:
        residuals: observed less predicted, by method; ours is `OURS`.
        coverage: nominal, measured and half the width, of each interval that there were enough entries for.
    """

    residuals: dict[str, Float[np.ndarray, " held"]]
    coverage: list[tuple[float, float, float]]

    def scores(self) -> dict[str, tuple[float, float]]:
        """Root mean square error and mean absolute error of each method."""
        return {
            name: (float(np.sqrt(np.square(each).mean())), float(np.abs(each).mean()))
            for name, each in self.residuals.items()
        }


@dataclass(frozen=True)
class Fit:
    """A fitted estimator and how it came about.

    Attributes:
        estimator: fitted.
        seconds: the fit took.
        held: None without entries held out.
        notes: what the fit warned of.
        stopped: whether Ctrl-C ended it, at the best step so far.
    """

    estimator: DeepMatrixCompletion
    seconds: float
    held: HeldOut | None = None
    notes: list[str] = field(default_factory=list)
    stopped: bool = False

    def summary(self) -> str:
        """One line."""
        estimator = self.estimator
        return f"rank {estimator.rank_}, {estimator.n_iter_} steps, {self.seconds:.1f} s"


def fit(observed: Observed, settings: dict[str, Any], share: float = 0.0, seed: int = 0) -> Fit:
    """Fit, less a share of the entries, and measure at those.

    Raises:
        InputError: a setting out of its range, no room, or nothing left to fit or to measure at.
    """
    fitted, held = (observed, None) if not share else split(observed, share, seed)
    if held is not None and not (len(held) and len(fitted)):
        raise InputError(
            f"--holdout {share} of {len(observed):,} observed entries leaves none to fit or to measure at"
        )
    triples = (fitted.row_of().numpy(), fitted.columns.numpy(), fitted.values.numpy())
    stopped, begin = False, time.perf_counter()
    with progress() as advance, caught() as notes:
        estimator = DeepMatrixCompletion(**settings, random_state=seed, callbacks=[advance])
        try:
            estimator.fit(triples, shape=fitted.shape)
        except KeyboardInterrupt:
            if not hasattr(estimator, "model_"):
                raise
            stopped = True
        except (ValueError, TypeError, MemoryError) as error:
            raise InputError(str(error) or type(error).__name__) from error
    seconds = time.perf_counter() - begin
    measured = None if held is None else _measure(estimator, fitted, held)
    return Fit(estimator, seconds, measured, notes, stopped)


def _measure(estimator: DeepMatrixCompletion, fitted: Observed, held: Observed) -> HeldOut:
    rows, columns, values = held.row_of().numpy(), held.columns.numpy(), held.values.numpy()
    biases = Biases.fit(fitted, Rows()).at(held)
    if estimator.bounds_ is not None:
        ends = (end.cpu() for end in estimator.bounds_)
        low, high = (end if end.ndim == 0 else end[held.columns] for end in ends)
        biases = biases.clamp(low, high)
    predicted = {
        OURS: estimator.entries(rows, columns),
        "biases alone": biases.numpy(),
        "column means": _column_means(fitted)[columns],
    }
    coverage = []
    for level in LEVELS:
        try:
            lower, upper = estimator.intervals(rows, columns, level)
        except ValueError:  # too few entries were held out for so wide an interval
            break
        inside = (lower <= values) & (values <= upper)
        coverage.append((level, float(inside.mean()), estimator.model_.margin(level)))
    return HeldOut({name: values - each for name, each in predicted.items()}, coverage)


def _column_means(fitted: Observed) -> Float[np.ndarray, " width"]:
    columns, values = fitted.columns.numpy(), fitted.values.numpy()
    counts = np.bincount(columns, minlength=fitted.shape[1])
    sums = np.bincount(columns, values, minlength=fitted.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), values.mean())


@contextmanager
def progress() -> Iterator[Callable[[Record], None]]:
    """A bar on standard error if that is a terminal; how many steps there will be, no one knows."""
    columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task, steps = bar.add_task("starting", total=None), 0

        def advance(record: Record) -> None:
            nonlocal steps
            steps += 1
            held = "" if np.isnan(record.held_out) else f", held out {record.held_out:.4g}"
            said = f"{record.stage}, step {steps}: rank {record.rank}, error {record.error:.4g}{held}"
            bar.update(task, description=said)

        yield advance
