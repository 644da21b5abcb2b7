"""`DeepMatrixCompletion`, the estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from corefold.completion import saving
from corefold.completion.blend import Blend
from corefold.completion.clipping import bounds_of
from corefold.completion.distributed import errors_in_every_process
from corefold.completion.entries import Duplicates
from corefold.completion.memory import require_memory, require_memory_for_fit
from corefold.completion.progress import progress
from corefold.completion.reading import FirstInput, partition_of, read_first, read_labelled
from corefold.completion.sampled import SampledMatrix
from corefold.completion.search import fit
from corefold.completion.settings import SOLVERS, require_range, settings_of, warn_of_gaps
from corefold.completion.side_information import SideTables
from corefold.completion.solvers import Solver
from corefold.completion.streaming import WORKING_GRAMS, ColumnEquations
from corefold.completion.walks import StepRecord

Callback = Callable[[StepRecord], object]


class DeepMatrixCompletion(SampledMatrix, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Fills the gaps of a matrix by one of low rank, and finds the rank itself.

    The default minimises `1/2 sum (X - values)^2 + penalty sum_k s_k^(2/depth)` over the observed entries: weight decay
    on a factorization `depth` layers deep amounts to this penalty. Where noise keeps the minimum from meeting the
    values, posterior means take over (variational Bayes). Some entries are held out for these choices, and take part in
    the end.

    Rows are samples and columns features. Observed are, in an array or data frame, the entries that are not NaN (or
    where `mask` is true); in a SciPy sparse matrix the stored ones, explicit zeros too; in a tuple `(rows, columns,
    values)` the listed ones. Text in `rows` or `columns` is labels, integers are places from 0. A long frame, with an
    entry in each row, goes with `fit(frame, columns=("user", "item", "rating"))`, whose rows and columns are labels
    all. An entry that occurs more than once counts once, with its mean unless `duplicates` says otherwise. `Observed`
    holds entries that are sorted already, for several fits.

    Args:
        max_rank: an upper bound of the rank. "auto": as many directions as the observed entries can settle, at most 64,
            and fewer in matrices so large that the solver's copies of the factors would take over half a GiB.
        depth: layers of the deep factorization, 2 or more. 2 is the nuclear norm's bias; 3 prefers lower ranks.
        solver: "schatten", "descent" (the paper's algorithm), "als" (alternating least squares at the rank `max_rank`),
            an object of `corefold.completion.solvers` with settings of its own, or one of yours, see `Solver` there.
        validation_fraction: share of the observed entries to hold out. 0 fits to the end, for exact data.
        fit_bias: whether mean, row and column biases come first. "auto": if they help on held-out entries.
        clip: bounds of the predictions: a pair of numbers, or of arrays with one for each column; None for none.
            "auto": the smallest and largest observed value, if both occur more than once, as on a rating scale.
        candidates: "all": besides a low-rank matrix in the table's units, also matrices in each column's own units, of
            roots and of normal scores, and a covariance of the columns if they are few; the best on held-out entries
            are blended. "low_rank": one low-rank matrix and biases, in the table's units. Solvers but "schatten" have
            these alone.
        error: by which candidates are compared: "absolute" in units of the data, "relative" over each column's standard
            deviation. "auto": relative where columns differ so much in spread or mean that they have several units.
        max_iter: steps at most of each walk, be it a path or one of posterior means.
        tol: the fit ends when the relative error, on held-out entries if there are any, is as small as this.
        warm_start: start from the last fit instead of anew, if it had as many columns.
        callbacks: each is called with a `StepRecord` after each step; one that returns True ends the fit.
        random_state: seed of the start and of the choice of held-out entries.
        device: where to compute: on "cpu" with compiled loops, elsewhere with PyTorch.
        dtype: "float32" or "float64", in which to compute; None: float32 for float32 data, else float64.
        distributed: each process of torch.distributed's group has a run of the rows, and all fit one matrix. Rows are
            numbered from 0 in each; the `random_state` of the first process counts.
        verbose: show a progress bar.

    Attributes:
        rank_: rank of the low-rank part of the fitted matrix, in a blend of the member of the largest weight; in units
            of the data, or in roots or scores where these are not linear in the data.
        singular_values_: its singular values, largest first, (rank_,).
        components_: its right singular vectors, (rank_, n_features).
        path_: a dictionary for each step, see `corefold.completion.search.StepRecord`.
        n_iter_: the number of steps.
        validation_error_: root mean square error at the held-out entries; nan without any.
        model_: the blend of completed matrices, as tensors.
        row_labels_, column_labels_: labels of rows and columns, if the data fitted have some.

    Source: Yaras, Wang, Balzano, Qu, ICML 2024 (arXiv 2406.04112), for depth and the "descent" solver; Ilin, Raiko,
    JMLR 11 (2010), for posterior means.

    >>> import numpy as np
    >>> from corefold.completion import DeepMatrixCompletion
    >>> X = np.outer(np.arange(1.0, 31), np.arange(1.0, 21))
    >>> holes = np.random.default_rng(0).random(X.shape) < 0.5
    >>> filled = DeepMatrixCompletion(random_state=0).fit_transform(np.where(holes, np.nan, X))
    >>> bool(np.allclose(filled, X))
    True
    """

    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(
        self,
        max_rank: int | Literal["auto"] = "auto",
        *,
        depth: int = 3,
        solver: str | Solver = "schatten",
        validation_fraction: float = 0.05,
        fit_bias: bool | Literal["auto"] = "auto",
        clip: Any = "auto",
        candidates: Literal["all", "low_rank"] = "all",
        error: Literal["auto", "absolute", "relative"] = "auto",
        max_iter: int = 500,
        tol: float = 1e-6,
        warm_start: bool = False,
        callbacks: Iterable[Callback] | None = None,
        random_state: Any = None,
        device: str = "cpu",
        dtype: Literal["float32", "float64"] | None = None,
        distributed: bool = False,
        verbose: bool = False,
    ) -> None:
        self.max_rank = max_rank
        self.depth = depth
        self.solver = solver
        self.validation_fraction = validation_fraction
        self.fit_bias = fit_bias
        self.clip = clip
        self.candidates = candidates
        self.error = error
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.distributed = distributed
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        mask: Any = None,
        shape: tuple[int, int] | None = None,
        columns: Sequence[Any] | None = None,
        duplicates: Duplicates = "mean",
        row_features: Any = None,
        column_features: Any = None,
    ) -> DeepMatrixCompletion:
        """Find the matrix behind the observed entries.

        Args:
            X: (n_samples, n_features): dense, sparse, `Observed`, or triples.
            y: ignored.
            mask: true where an entry of a dense X is observed.
            shape: of the matrix that the triples belong to; by default just large enough.
            columns: of a frame with an entry in each row, the names of the columns of row labels, column labels and
                values.
            duplicates: what counts of an entry that occurs more than once: the "mean", "last" or "first" of its
                values, or "error" to refuse it.
            row_features: side information, a frame or a matrix with a line for each row: numbers, dates or words.
                Where X is a frame, lines are found by its index, and those that it does not have are left out with a
                warning. Of a long frame and of triples, lines of other labels become rows too, of which the features
                alone predict the entries; whole numbers in an index are labels of integers in triples. Otherwise lines
                are in the order of the rows.
            column_features: likewise, with a line for each column.

        Raises:
            ValueError: no observed entry, an infinity, a setting out of its range, or features of other rows.
            MemoryError: the fit would take more memory than is free.
            KeyboardInterrupt: the estimator is then fitted as well as it was at the interrupt.
        """
        side = SideTables.of(row_features, column_features)
        self._fit(X, read_first(self, X, mask, shape, columns, duplicates, side))
        return self

    def fit_transform(self, X: Any, y: Any = None, *, mask: Any = None, **options: Any) -> np.ndarray:
        """Fit, and fill the gaps of the same matrix; see `fit` for the options and `transform`."""
        tables = SideTables.of(options.pop("row_features", None), options.pop("column_features", None))
        given = {"shape": None, "columns": None, "duplicates": "mean"} | options
        first = read_first(self, X, mask, **given, side=tables)
        self._fit(X, first)
        features = first.side.features
        return self._filled(first.observed, None if features is None else features.rows)

    def _fit(self, X: Any, first: FirstInput) -> None:
        observed, partition = first.observed, first.partition
        settings = settings_of(self.get_params(deep=False), observed, partition)
        settings = replace(settings, features=first.side.features)
        with errors_in_every_process(self.distributed):
            require_memory_for_fit(observed, settings.start_rank)
        self.bounds_ = bounds_of(self.clip, observed, partition)
        start, last = None, vars(self).pop("model_", None)
        if self.warm_start and last is not None and len(last.factors.v) == observed.shape[1]:
            start = last.main.start_for(observed, partition)
        warn_of_gaps(observed, partition, settings)
        vars(self).pop("_column_equations", None)
        self._keep(X, observed, partition, first.labels, first.side.row_encoder)
        self.path_ = []
        try:
            with progress(self.verbose and partition.is_first) as advance:
                for record, self.model_ in fit(observed, partition, settings, start):
                    self.path_.append(asdict(record))
                    advance(record)
                    answers = [call(record) is True for call in self.callbacks or ()]  # every one is called
                    if int(partition.sum(observed.starts.new_tensor(sum(answers)))):
                        break
        except KeyboardInterrupt:
            # Processes may have been interrupted at different steps, and would wait for each other.
            if hasattr(self, "model_") and partition.process_count == 1:
                self.model_ = self.model_.calibrated(observed, partition)
            raise
        self.model_ = self.model_.calibrated(observed, partition)

    def partial_fit(self, X: Any, y: Any = None, *, mask: Any = None) -> DeepMatrixCompletion:
        """Learn from more rows of the same columns; the first call fits.

        Columns move as far as all rows so far, with the coordinates that these had, would move them. The penalty stays,
        and no rows are kept: the fitted matrix is the last batch, so `entries`, `singular_values_`, `components_` and
        `rank_`, which is at most the number of its rows, are those of the last batch. `transform` uses all directions.
        """
        if not hasattr(self, "model_"):
            return self.fit(X, mask=mask)
        if self.model_.main.cold.effects is not None:
            raise ValueError("partial_fit knows no features of new rows; fit all rows at once")
        with errors_in_every_process(self.distributed):
            observed, row_labels = read_labelled(self, X, mask)
            width, rank = self.model_.main.regression.loadings.shape
            require_memory(
                f"learning {width} columns at rank {rank}",
                WORKING_GRAMS * width * rank**2 * observed.values.element_size(),
                "fit with a lower max_rank",
                observed.values.device,
            )
        if not hasattr(self, "_column_equations"):
            self._column_equations = ColumnEquations.of(self.model_.main)
        partition = partition_of(observed, self.distributed)
        # Sums over rows are of products of two of their coordinates.
        require_range(
            observed, partition, torch.finfo(observed.values.dtype).max ** 0.5 / max(len(observed), 1)
        )
        member, self._column_equations = self._column_equations.learn(self.model_.main, observed, partition)
        self.model_ = Blend((member,), (1.0,), self.model_.calibration)
        self._keep(X, observed, partition, replace(self.labels_, rows=row_labels))
        return self

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file; nothing in it is code.

        Callbacks, `random_state` and `device` are left out: a loaded estimator is on the CPU.

        Raises:
            TypeError: with a solver that is not one of the library's.
        """
        check_is_fitted(self)
        settings = saving.settings_to_plain(self.get_params(deep=False), SOLVERS)
        kept, tensors = self._kept()
        metadata = {"settings": settings, "path": self.path_, "columns": self.n_features_in_, **kept}
        if hasattr(self, "feature_names_in_"):
            metadata["names"] = [str(name) for name in self.feature_names_in_]
        tensors |= self.model_.tensors()
        if self.bounds_ is not None:
            tensors |= dict(zip(("low", "high"), self.bounds_, strict=True))
        saving.write(path, metadata, tensors)

    @classmethod
    def load(cls, path: str | Path) -> DeepMatrixCompletion:
        """The estimator in a file that `save` wrote.

        Raises:
            ValueError: a file that `save` did not write.
        """
        metadata, tensors = saving.read(path)
        loaded = cls(**saving.settings_from_plain(metadata["settings"], SOLVERS))
        loaded.bounds_ = (tensors.pop("low"), tensors.pop("high")) if "low" in tensors else None
        loaded.model_, loaded.path_ = Blend.from_tensors(tensors), metadata["path"]
        loaded._restore(metadata, tensors)
        loaded.n_features_in_ = metadata["columns"]
        if "names" in metadata:
            loaded.feature_names_in_ = np.array(metadata["names"], dtype=object)
        return loaded

    def transform(self, X: Any, *, mask: Any = None, row_features: Any = None) -> np.ndarray:
        """Fill the gaps of rows: observed entries stay, and the others are predicted from them.

        Each row gets one small ridge regression, whether it was in the fit or not. The result is dense.

        Args:
            X: rows of the fitted columns.
            mask: true where an entry of a dense X is observed.
            row_features: of these rows, as in `fit`; without them rows are taken for average ones.

        Raises:
            ValueError: other columns, or features of other rows.
            MemoryError: a dense result would not fit.
        """
        check_is_fitted(self)
        observed, labels = read_labelled(self, X, mask)
        return self._filled(observed, self._row_features(row_features, X, observed, labels))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
