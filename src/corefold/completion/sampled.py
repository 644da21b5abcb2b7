"""Samples of a fitted estimator's matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from corefold.completion.fitted import FittedMatrix
from corefold.completion.labelled_input import Labels
from corefold.completion.memory import require_memory
from corefold.completion.observed import Observed
from corefold.completion.predictive_errors import ErrorModel, Rows
from corefold.completion.reading import index, read_labelled
from corefold.completion.sampling import FrameForm, Sampler


class SampledMatrix(FittedMatrix):
    """The part of `DeepMatrixCompletion` that draws."""

    def sample(
        self,
        n: int,
        X: Any = None,
        *,
        mask: Any = None,
        row_features: Any = None,
        at: Any = None,
        random_state: Any = None,
    ) -> Any:
        """Complete rows n times, with draws in the place of predictions: imputations to analyse and pool.

        Observed entries keep their values. A missing one is what `transform` predicts plus an error, as large as the
        errors at held-out entries that set the widths of `intervals`. A draw has one error of the coordinates of a row
        and one of the loadings of a column, as the main member of the blend knows these, so the entries of a row, and
        those of a column, err together; where its solver has no distribution of them, as "als" and "descent", errors
        are independent. Columns that were fitted in roots or normal scores are drawn in these, so all but those with
        too few entries for scores stay in their range, and predictions are draws' medians rather than means. `clip`
        holds; nothing is rounded. Not carried are dependence between rows beside this, and doubt of the rank, the
        units, the covariance, what features add or the weights of the blend. Entries without a row or a column in the
        data err by themselves. How sure coordinates are is learnt from the rows of the last fit, in an estimator from a
        file from those of X.

        Args:
            n: number of draws.
            X: rows to complete, in any form of `transform`; the data of the last fit by default.
            mask: true where an entry of a dense X is observed.
            row_features: of the rows of X, as in `transform`; those of the last fit go with its data.
            at: (rows, columns) of single entries instead of all, by label or by place as in `entries`, for matrices
                that are too large to be dense.
            random_state: seed of the draws; None: other draws in each call.

        Returns:
            An array (n, n_samples, n_features), or (n, len(rows)) with `at`; of a pandas frame with a row for each of
            the matrix a list of n frames, whose columns of whole numbers become float where they have gaps.

        Raises:
            ValueError: too little was held out, or an entry outside of the matrix.
            MemoryError: dense results would not fit.
        """
        check_is_fitted(self)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be an integer of 1 or more; got {n!r}")
        if self.distributed:
            raise ValueError(
                "sample works in one process: load the saved estimator there, and set_params(distributed=False)"
            )
        rows, labels, form = self._rows_to_sample(X, mask, row_features)
        observed = rows.observed
        places = None if at is None else self._places_at(at, observed, labels)
        shape, size = observed.shape, observed.values.element_size()
        if places is None:
            what, numbers = f"{n} matrices of shape {shape}", math.prod(shape)
            hint = "sample(n, at=(rows, columns)) draws single entries"
            size += 8 if form else 0
        else:
            what, numbers = f"{n} draws of {len(places[0])} entries", len(places[0])
            hint = "draw fewer, or fewer entries at a time"
        require_memory(what, int(n) * numbers * size, hint)
        errors = ErrorModel.of(self.model_, self._fitted_rows() or rows)
        generator = torch.Generator().manual_seed(int(check_random_state(random_state).randint(2**31)))
        sampler = Sampler(self.model_, self.bounds_, rows, errors)
        if places is not None:
            return sampler.entries(*places, int(n), generator)
        arrays = sampler.completed(int(n), generator)
        if form is None:
            return arrays
        gaps = observed.column_starts.diff().cpu().numpy() < observed.shape[0]
        return [form.frame(array, gaps) for array in arrays]

    def _rows_to_sample(
        self, X: Any, mask: Any, row_features: Any
    ) -> tuple[Rows, Labels | None, FrameForm | None]:
        """The rows to complete, their labels, and the form of a frame."""
        if X is not None:
            observed, labels = read_labelled(self, X, mask)
            features = self._row_features(row_features, X, observed, labels)
            return Rows(observed, features), labels, FrameForm.of(X, self.labels_)
        for name, value in (("mask", mask), ("row_features", row_features)):
            if value is not None:
                raise ValueError(f"{name} goes with X; without one, the data of the last fit are completed")
        fitted = self._fitted_rows()
        if fitted is None:
            raise ValueError(
                "a file holds no observed values; give sample the rows to complete: sample(n, X)"
            )
        return fitted, self.labels_.rows, self._frame_form

    def _fitted_rows(self) -> Rows | None:
        """The rows of the last fit; None in an estimator that was loaded from a file."""
        places, values = self.observed_, self._values
        if places is None or values is None:
            return None
        rows = np.repeat(np.arange(len(places.starts) - 1), np.diff(places.starts))
        shape = (len(places.starts) - 1, len(self.model_.factors.v))
        entries = (torch.from_numpy(rows), torch.from_numpy(places.columns), values)
        effects = self.model_.main.cold.effects
        observed = Observed.of(*entries, shape).to(self.model_.factors.s.device)
        return Rows(observed, None if effects is None else effects.row_features)

    def _places_at(
        self, at: Any, observed: Observed, labels: Labels | None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        if not isinstance(at, tuple | list) or len(at) != 2:
            raise ValueError(f"at must be (rows, columns) of single entries; got {type(at).__name__}")
        row = index("rows", at[0], observed.shape[0], labels)
        column = index("columns", at[1], observed.shape[1], self.labels_.columns)
        if len(row) != len(column):
            raise ValueError(f"at takes as many rows as columns; got {len(row)} and {len(column)}")
        for name, wanted, place in (("row", at[0], row), ("column", at[1], column)):
            if bool((place < 0).any()):
                first = np.atleast_1d(np.asarray(wanted, dtype=object))[int((place < 0).int().argmax())]
                raise ValueError(f"the {name} {first!r} is not in the data; entries predicts it by means")
        return row, column
