"""The report of `initialize_bases`."""

from __future__ import annotations

from torch import Tensor


class BasesReport(dict[str, Tensor]):
    """The gradient's largest singular values of each layer, by module name; `print` shows ranks and energies.

    Attributes:
        ranks: each layer's `r`.
        energies: each layer's share of the squared singular values of all layers.
    """

    def __init__(self, values: dict[str, Tensor], ranks: dict[str, int]) -> None:
        super().__init__(values)
        self.ranks = ranks
        squares = {name: float(value.square().sum()) for name, value in values.items()}
        total = sum(squares.values()) or 1.0
        self.energies = {name: square / total for name, square in squares.items()}

    def __str__(self) -> str:
        rows = sorted(self.ranks, key=lambda name: -self.energies[name])
        lines = [f"{self.ranks[name]:>4}  {self.energies[name]:>6.1%}  {name}" for name in rows]
        return "\n".join(["rank  energy  layer", *lines])
