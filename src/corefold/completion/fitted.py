"""What a fitted estimator says of its matrix: rank, spectrum, labels, single entries and the best of each row."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from corefold.completion.blend import Blend
from corefold.completion.clipping import Bounds, clipped
from corefold.completion.cold import ObservedMeans
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import is_triples
from corefold.completion.feature_encoding import FeatureEncoder
from corefold.completion.feature_tables import FeatureTable
from corefold.completion.labelled_input import FittedLabels, Labels
from corefold.completion.memory import require_memory
from corefold.completion.observed import Observed
from corefold.completion.ranking import ObservedPlaces, recommended
from corefold.completion.reading import IMPLICIT, index, places, read_labelled
from corefold.completion.sampling import FrameForm
from corefold.completion.side_information import label_values, labels_of
from corefold.completion.split import split
from corefold.completion.standardization import rms

SCORED_SHARE = 0.1  # share of the observed entries that `score` hides and predicts


class FittedMatrix:
    """The part of `DeepMatrixCompletion` that answers, by label where the data fitted have labels.

    Attributes:
        labels_: the labels of rows and columns, and the columns of a long frame that they were in.
        observed_: the places of the entries fitted; None in an estimator that was loaded from a file without them.
        means_: the means of these entries.
        row_encoder_: of features of rows; None in a fit without them.
    """

    distributed: bool
    model_: Blend
    bounds_: Bounds | None
    labels_: FittedLabels
    observed_: ObservedPlaces | None
    means_: ObservedMeans
    row_encoder_: FeatureEncoder | None
    path_: list[dict[str, Any]]
    _values: Float[Tensor, " entries"] | None
    _frame_form: FrameForm | None

    def _keep(
        self,
        X: Any,
        observed: Observed,
        partition: RowPartition,
        labels: FittedLabels,
        row_encoder: FeatureEncoder | None = None,
    ) -> None:
        """Keep what predictions and samples need of the data fitted."""
        self.labels_, self.row_encoder_ = labels, row_encoder
        self._values, self._frame_form = observed.values.cpu(), FrameForm.of(X, labels)
        self.observed_, self.means_ = ObservedPlaces.of(observed), ObservedMeans.of(observed, partition)

    def _kept(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `_keep` kept, as metadata and tensors of a file."""
        plain = self.labels_.to_plain()
        if self.row_encoder_ is not None:
            plain["row_features"] = self.row_encoder_.to_plain()
        if self.observed_ is None:
            return plain, {}
        tensors = {f"means_{name}": tensor for name, tensor in vars(self.means_).items()}
        tensors |= {"observed_starts": torch.from_numpy(self.observed_.starts)}
        tensors |= {"observed_columns": torch.from_numpy(self.observed_.columns)}
        tensors |= {"observed_constant": torch.tensor(self.observed_.constant, dtype=torch.float64)}
        return plain, tensors

    def _restore(self, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """The inverse of `_kept`, in a loaded estimator; files of older versions hold no means and no places."""
        self.labels_, self.observed_ = FittedLabels.from_plain(metadata), None
        self._values, self._frame_form = None, None
        features = metadata.get("row_features")
        self.row_encoder_ = None if features is None else FeatureEncoder.from_plain(features)
        if "means_row" in tensors:
            self.means_ = ObservedMeans(*(tensors[f"means_{name}"] for name in ("grand", "row", "column")))
        else:
            self.means_ = ObservedMeans.of_biases(self.model_.biases)
        if "observed_starts" in tensors:
            starts, columns = (tensors[f"observed_{name}"].numpy() for name in ("starts", "columns"))
            self.observed_ = ObservedPlaces(starts, columns, float(tensors["observed_constant"]))

    @property
    def rank_(self) -> int:
        return self.model_.factors.rank

    @property
    def singular_values_(self) -> np.ndarray:
        return self.model_.factors.s.cpu().numpy()

    @property
    def components_(self) -> np.ndarray:
        return self.model_.factors.v.mT.cpu().numpy()

    @property
    def n_iter_(self) -> int:
        return len(self.path_)

    @property
    def validation_error_(self) -> float:
        errors = self.model_.calibration.errors
        return rms(errors, RowPartition()) if len(errors) else math.nan

    @property
    def row_labels_(self) -> np.ndarray:
        """The labels of the rows, where the data fitted have some."""
        return _array(self.labels_.rows, "row_labels_")

    @property
    def column_labels_(self) -> np.ndarray:
        """The labels of the columns, likewise."""
        return _array(self.labels_.columns, "column_labels_")

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The labels of the columns as text, else the names of the features."""
        labels = getattr(self, "labels_", FittedLabels()).columns
        if labels is not None and input_features is None:
            return np.array([str(label) for label in labels.values], dtype=object)
        return super().get_feature_names_out(input_features)  # pyright: ignore[reportAttributeAccessIssue]

    def _filled(self, observed: Observed, features: Tensor | None) -> np.ndarray:
        """The observed entries of rows, and predictions of the others."""
        values = observed.values
        for device in dict.fromkeys(("cpu", str(values.device))):  # computed on one, returned on the other
            require_memory(
                f"a dense matrix of shape {observed.shape}",
                math.prod(observed.shape) * values.element_size(),
                "single entries cost nothing: entries(rows, columns)",
                device,
            )
        filled = clipped(self.model_.fold_in(observed, features).dense(), self.bounds_)
        filled[observed.row_of().long(), observed.columns.long()] = values
        return filled.cpu().numpy()

    def entries(self, rows: Any, columns: Any) -> np.ndarray:
        """Predictions of single entries of the fitted matrix, by their rows and columns in the data fitted.

        Rows and columns are labels where the data have some, else places from 0. Means predict where a label is new:
        the column's, the row's or that of all entries.

        Raises:
            ValueError: indices out of range, or not as many of both.
        """
        return self._predicted(rows, columns)[0].cpu().numpy()

    def intervals(self, rows: Any, columns: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of intervals that hold new entries with this probability, on average over entries.

        Split-conformal: their width comes from the errors at held-out entries. So they need no model of the noise, but
        the new entries must be missing at random as the held-out ones were. Where a row or a column has no observed
        entry, or its label is new, widths come from errors of predictions without it.

        Raises:
            ValueError: nothing was held out, or too little for this coverage.
        """
        return self.ends_around(*self._predicted(rows, columns), coverage)

    def score(self, X: Any, y: Any = None, *, mask: Any = None, row_features: Any = None) -> float:
        """R^2 at a tenth of the observed entries, each predicted from the rest of its row; 1 is best.

        Args:
            X: rows, in any form of `transform`.
            y: ignored.
            mask: true where an entry of a dense X is observed.
            row_features: of these rows, as in `transform`.

        Raises:
            ValueError: other columns, or features of other rows.
        """
        check_is_fitted(self)
        observed, labels = read_labelled(self, X, mask)
        features = self._row_features(row_features, X, observed, labels)
        known, hidden = split(observed, SCORED_SHARE, seed=0)
        if not len(hidden):
            known, hidden = observed, observed
        rows = self.model_.fold_in(known, features)
        predicted = clipped(rows.entries(hidden.row_of(), hidden.columns), self.bounds_, hidden.columns)
        return float(r2_score(hidden.values.cpu(), predicted.cpu()))

    def _row_features(
        self, given: Any, X: Any, observed: Observed, labels: Labels | None
    ) -> Float[Tensor, "height row_features"] | None:
        """Encoded features of rows, None for average ones, which is said.

        Raises:
            ValueError: features that the fit did not have, or those of other rows.
        """
        encoder = self.row_encoder_
        if encoder is None:
            if given is not None:
                raise ValueError("row_features given to an estimator that was fitted without any")
            return None
        if given is None:
            warnings.warn("rows without row_features are taken for average ones", stacklevel=3)
            return None
        table = FeatureTable.of("row", given)
        of_rows = label_values(labels if labels is not None else labels_of(X)[0])
        places = table.places(observed.shape[0], of_rows, labels is not None, numbered=is_triples(X))
        return torch.from_numpy(encoder.encode(table, places)).to(observed.values)

    def recommend(
        self, rows: Any, n: int = 10, exclude_observed: bool = True
    ) -> tuple[np.ndarray, Float[np.ndarray, "rows n"]]:
        """The columns with the highest predictions in some rows, best first, and these predictions.

        Args:
            rows: rows of the data fitted, by label or by place. For a label that these do not have, columns are in the
                order of their means.
            n: columns of a row.
            exclude_observed: leave out the entries that were observed.

        Returns:
            Columns, by label or by place, and predictions, each (rows, n). A row with fewer columns left is filled up
            with None, or -1 for places, and NaN.

        Raises:
            ValueError: a place out of range, or data whose values are all equal, which put nothing in order.
        """
        check_is_fitted(self)
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be an integer of 1 or more; got {n!r}")
        observed = self.observed_
        if observed is not None and not math.isnan(observed.constant):
            raise ValueError(
                f"all {len(observed.columns)} observed values are {observed.constant:g}; {IMPLICIT}"
            )
        if observed is None and exclude_observed:
            raise ValueError(
                "the file of this estimator does not say what was observed; fit again, or set exclude_observed=False"
            )
        place = index("rows", rows, len(self.model_.factors.u), self.labels_.rows)
        _say_cold("rows", rows, place, "column means put their columns in order")
        excluded = observed if exclude_observed else None
        best, predicted = recommended(self.model_, self.means_, self.bounds_, place.numpy(), int(n), excluded)
        if self.labels_.columns is None:
            return best, predicted
        named = np.empty(len(self.labels_.columns.values) + 1, dtype=object)  # The last is None.
        named[:-1] = self.labels_.columns.values
        return named[best], predicted

    def ends_around(
        self,
        predicted: Float[Tensor, " n"],
        rows: Int[Tensor, " n"],
        columns: Int[Tensor, " n"],
        coverage: float,
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Lower and upper ends of intervals around predictions at places, -1 for a row or column that the fit lacks.

        Raises:
            ValueError: nothing was held out, or too little for this coverage.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must lie between 0 and 1; got {coverage!r}")
        margins = self.model_.margins(rows, columns, coverage)
        if not bool(margins.isfinite().all()):
            raise ValueError(
                f"intervals of coverage {coverage} need more held-out entries than "
                f"{len(self.model_.calibration)}; fit with a larger validation_fraction"
            )
        ends = (clipped(predicted + side * margins, self.bounds_, columns.clamp(min=0)) for side in (-1, 1))
        lower, upper = (end.cpu().numpy() for end in ends)
        return lower, upper

    def _predicted(
        self, rows: Any, columns: Any
    ) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Predictions of single entries, and their rows and columns, -1 where the fit has none."""
        check_is_fitted(self)
        row, column = places(rows, columns, self.model_.factors, self.labels_)
        cold = (row < 0) | (column < 0)
        known = column.clamp(min=0)
        predicted = clipped(self.model_.entries(row.clamp(min=0), known), self.bounds_, known)
        if bool(cold.any()):
            _say_cold("rows", rows, row, "column means predict them")
            _say_cold("columns", columns, column, "row means predict them")
            predicted = torch.where(cold, self.means_.entries(row, column), predicted)
        return predicted, row, column


def _array(labels: Labels | None, name: str) -> np.ndarray:
    if labels is None:
        raise AttributeError(f"no {name}: the data fitted have places, not labels")
    return labels.array()


def _say_cold(name: str, wanted: Any, places: Tensor, answer: str) -> None:
    missing = np.flatnonzero(places.cpu().numpy() < 0)
    if len(missing):
        first = np.atleast_1d(np.asarray(wanted, dtype=object))[missing[0]]
        warnings.warn(
            f"{len(missing)} {name} are not in the data fitted, the first is {first!r}; {answer}",
            stacklevel=4,
        )
