"""A fit and its errors at entries that took no part in it, beside those of two baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from corefold.completion.biases import Biases
from corefold.completion.clipping import clipped
from corefold.completion.distributed import RowPartition
from corefold.completion.estimator import DeepMatrixCompletion
from corefold.completion.notes import warnings_as_notes
from corefold.completion.observed import Observed
from corefold.completion.split import split
from corefold.completion.units import ColumnSpread
from corefold.completion.walks import StepRecord
from corefold.errors import InputError

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # nominal coverage of the intervals that are measured


@dataclass(frozen=True)
class HoldoutErrors:
    """Errors at entries held out of everything.

    Attributes:
        residuals: observed less predicted, by method: "completed", "biases alone" and "column means".
        coverage: nominal coverage, measured coverage and half the width, of each interval that there were enough
            entries for.
        deviations: of each entry's column, where columns have several units; None where they have one.
    """

    residuals: dict[str, Float[np.ndarray, " held"]]
    coverage: list[tuple[float, float, float]] = field(default_factory=list)
    deviations: Float[np.ndarray, " held"] | None = None

    def __len__(self) -> int:
        """The number of entries."""
        return len(next(iter(self.residuals.values())))

    def scores(self) -> dict[str, tuple[float, float]]:
        """Root mean square error and mean absolute error of each method, over deviations where there are some."""
        unit = 1.0 if self.deviations is None else self.deviations
        return {
            name: (float(np.sqrt(np.square(each / unit).mean())), float(np.abs(each / unit).mean()))
            for name, each in self.residuals.items()
        }


@dataclass(frozen=True)
class MeasuredFit:
    """A fitted estimator and how its fit went.

    Attributes:
        estimator: fitted.
        seconds: duration of the fit.
        errors: at the entries held out; None without any.
        notes: warnings of the fit.
        interrupted: whether Ctrl-C ended the fit; then it is as good as its best step.
    """

    estimator: DeepMatrixCompletion
    seconds: float
    errors: HoldoutErrors | None = None
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def summary(self) -> str:
        """One line."""
        return f"rank {self.estimator.rank_}, {self.estimator.n_iter_} steps, {self.seconds:.1f} s"


def fit_and_measure(
    observed: Observed,
    settings: dict[str, Any],
    share: float = 0.0,
    seed: int = 0,
    callbacks: Sequence[Callable[[StepRecord], object]] = (),
    features: Mapping[str, Any] | None = None,
) -> MeasuredFit:
    """Fit to all entries but a share, and measure the errors at those.

    Args:
        observed: the entries.
        settings: of the estimator.
        share: of the entries to hold out of everything; 0 measures nothing.
        seed: of the fit and of the draw of these entries.
        callbacks: called with each step of the fit.
        features: `row_features` and `column_features` of the fit.

    Raises:
        InputError: a setting out of its range, too little memory, or nothing left to fit or to measure at.
    """
    fitted, held = split(observed, share, seed) if share else (observed, None)
    if held is not None and not (len(held) and len(fitted)):
        raise InputError(
            f"--holdout {share} of {len(observed):,} observed entries leaves none to fit or to measure at"
        )
    interrupted, begin = False, time.perf_counter()
    with warnings_as_notes() as notes:
        estimator = DeepMatrixCompletion(**settings, random_state=seed, callbacks=callbacks)
        try:
            estimator.fit(fitted, **(features or {}))
        except KeyboardInterrupt:
            if not hasattr(estimator, "model_"):
                raise
            interrupted = True
        except (ValueError, TypeError, MemoryError) as error:
            raise InputError(str(error) or type(error).__name__) from error
    seconds = time.perf_counter() - begin
    errors = None if held is None else _measured(estimator, fitted, held)
    return MeasuredFit(estimator, seconds, errors, notes, interrupted)


def _measured(estimator: DeepMatrixCompletion, fitted: Observed, held: Observed) -> HoldoutErrors:
    rows, columns, values = held.row_of().numpy(), held.columns.numpy(), held.values.numpy()
    biases = Biases.fit(fitted, RowPartition()).at(held)
    predicted = {
        "completed": estimator.entries(rows, columns),
        "biases alone": clipped(biases, estimator.bounds_, held.columns).numpy(),
        "column means": estimator.means_.column.numpy()[columns],
    }
    coverage = []
    for level in LEVELS:
        try:
            lower, upper = estimator.intervals(rows, columns, level)
        except ValueError:  # too few entries were held out for so wide an interval
            break
        inside = (lower <= values) & (values <= upper)
        coverage.append((level, float(inside.mean()), float((upper - lower).mean() / 2)))
    spread = ColumnSpread.of(fitted, RowPartition())
    deviations = None if spread.absolute(estimator.error) else spread.deviation.numpy()[columns]
    return HoldoutErrors({name: values - each for name, each in predicted.items()}, coverage, deviations)
