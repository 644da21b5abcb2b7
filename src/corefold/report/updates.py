"""The spectrum, the ranks and the size of one layer's update."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from corefold.core import effective_rank, numerical_rank, stable_rank

RANK_RTOL = 0.01
"""A singular value counts towards `LayerUpdate.numerical_rank` above this fraction of the layer's largest."""


@dataclass(frozen=True, eq=False)
class LayerUpdate:
    """The update that an adapter adds to one layer's weight.

    Attributes:
        name: the layer's module path, such as "encoder.layer.0.attention.self.query".
        singular_values: of the update, (width,), largest first; all zero where the layer has not moved.
        out_features: rows of the weight.
        in_features: columns of the weight.
        bytes: the size of this layer's adapter tensors on disk.

    Raises:
        ValueError: singular values that are not finite, not sorted, negative or more than the weight's smaller
            side; a size below 1 or a negative number of bytes.
    """

    name: str
    singular_values: Float[Tensor, " width"]
    out_features: int
    in_features: int
    bytes: int

    def __post_init__(self) -> None:
        values = self.singular_values
        if min(self.out_features, self.in_features) < 1 or self.bytes < 0:
            raise ValueError(
                f"{self.name}: the weight's sides must be at least 1 and bytes at least 0; got "
                f"{self.out_features} x {self.in_features} and {self.bytes} bytes"
            )
        if values.ndim != 1 or not 1 <= values.numel() <= min(self.out_features, self.in_features):
            raise ValueError(
                f"{self.name}: singular_values must have shape (width,), width at most the smaller side of the "
                f"{self.out_features} x {self.in_features} weight; got {tuple(values.shape)}"
            )
        if not values.isfinite().all():
            raise ValueError(f"{self.name}: the update has singular values that are NaN or infinite")
        if (values < 0).any() or (values.diff() > 0).any():
            raise ValueError(f"{self.name}: singular_values must be non-negative, largest first")

    @property
    def numerical_rank(self) -> int:
        """How many singular values exceed 1 % of the largest; 0 for a zero update."""
        return numerical_rank(self.singular_values.double(), rtol=RANK_RTOL)

    @property
    def stable_rank(self) -> float:
        """`sum(s^2) / max(s)^2`; 0 for a zero update."""
        return stable_rank(self.singular_values.double())

    @property
    def effective_rank(self) -> float:
        """`exp(entropy(s / sum(s)))`; 0 for a zero update."""
        return effective_rank(self.singular_values.double())

    @property
    def energy(self) -> float:
        """Frobenius norm of the update, in the units of the weight."""
        return self.singular_values.double().norm().item()
