"""The observed entries of a matrix, by rows and by columns, and the products with them that solvers need."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from corefold.completion import numba_kernels, torch_kernels
from corefold.completion.distributed import Rows

ROOM = 2**18  # numbers in the normal equations that processes add up at a time


@dataclass(frozen=True)
class Observed:
    """Observed entries in compressed rows, with the order that reads them by columns.

    An entry is observed because it is listed; its value may be zero. Products run in numba on a CPU and in PyTorch
    elsewhere, and take factors of the values' dtype and device.

    Attributes:
        values: of the entries, row by row.
        starts: where each row starts in `values`, and the end.
        columns: of each entry, ascending within a row.
        column_starts: where each column starts in `order`, and the end.
        order: the entries column by column: places in `values`.
        rows: of the entries as `order` lists them, ascending within a column.
    """

    values: Float[Tensor, " entries"]
    starts: Int[Tensor, " row_ends"]
    columns: Int[Tensor, " entries"]
    column_starts: Int[Tensor, " column_ends"]
    order: Int[Tensor, " entries"]
    rows: Int[Tensor, " entries"]

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, " entries"],
        columns: Int[Tensor, " entries"],
        values: Float[Tensor, " entries"],
        shape: tuple[int, int],
    ) -> Observed:
        """The entries in any order, no place twice."""
        # One large tensor at a time: of many entries these are most of what reading takes.
        by_column, _ = _sorted(columns, shape[1])
        by_row, starts = _sorted(rows.index_select(0, by_column), shape[0])
        by_row = by_column.index_select(0, by_row)
        del by_column
        columns = columns.index_select(0, by_row).to(torch.int32)
        order, column_starts = _sorted(columns, shape[1])
        rows = rows.index_select(0, by_row.index_select(0, order)).to(torch.int32)
        return cls(values.index_select(0, by_row), starts, columns, column_starts, order, rows)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.starts) - 1, len(self.column_starts) - 1

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: str | torch.device) -> Observed:
        """The same entries on another device."""
        return Observed(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def with_values(self, values: Float[Tensor, " entries"]) -> Observed:
        """Other values at the same places."""
        return replace(self, values=values)

    def row_of(self) -> Int[Tensor, " entries"]:
        """The row of each entry, as `values` lists them."""
        counts = self.starts.diff()
        return torch.arange(len(counts), dtype=torch.int32, device=counts.device).repeat_interleave(counts)

    def part(self, chosen: Bool[Tensor, " entries"]) -> Observed:
        """The entries where `chosen` is true, of a matrix of the same shape."""
        return Observed.of(self.row_of()[chosen], self.columns[chosen], self.values[chosen], self.shape)

    def products(
        self, left: Float[Tensor, "height k"], right: Float[Tensor, "width k"]
    ) -> Float[Tensor, " entries"]:
        """The entries of `left @ right.T` at the observed places."""
        return _run("products", self.starts, self.columns, left, right, out=torch.empty_like(self.values))

    def times(self, right: Float[Tensor, "width k"]) -> Float[Tensor, "height k"]:
        """The sparse matrix of the observed values times `right`."""
        out = right.new_empty(self.shape[0], right.shape[1])
        return _run("times", self.starts, self.columns, self.values, right, out=out)

    def transposed_times(self, left: Float[Tensor, "height k"]) -> Float[Tensor, "width k"]:
        """The transposed sparse matrix of the observed values times `left`."""
        out = left.new_empty(self.shape[1], left.shape[1])
        return _run(
            "times", self.column_starts, self.rows, self.values.index_select(0, self.order), left, out=out
        )

    def counts(self, right: Float[Tensor, "width k"]) -> Float[Tensor, "height k"]:
        """For each row the sum over its entries' columns of rows of `right`."""
        return self.with_values(torch.ones_like(self.values)).times(right)

    def transposed_counts(self, left: Float[Tensor, "height k"]) -> Float[Tensor, "width k"]:
        """For each column the sum over its entries' rows of rows of `left`."""
        return self.with_values(torch.ones_like(self.values)).transposed_times(left)

    def fit_rows(
        self, right: Float[Tensor, "width k"], ridge: Float[Tensor, "#height k"]
    ) -> Float[Tensor, "height k"]:
        """For each row the `a` that minimises `sum (values - right a)^2 + sum ridge a^2`; 0 without entries."""
        ridge = ridge.expand(self.shape[0], -1)
        out = right.new_empty(self.shape[0], right.shape[1])
        return _run("ridge", self.starts, self.columns, self.values, right, ridge, out=out)

    def fit_columns(
        self, left: Float[Tensor, "height k"], ridge: Float[Tensor, "#width k"], rows: Rows
    ) -> Float[Tensor, "width k"]:
        """The same for each column, whose entries may be in several processes."""
        ridge = ridge.expand(self.shape[1], -1)
        starts, values = self.column_starts, self.values.index_select(0, self.order)
        width, rank = self.shape[1], left.shape[1]
        out = left.new_empty(width, rank)
        if rows.count == 1:
            return _run("ridge", starts, self.rows, values, left, ridge, out=out)
        size = max(1, ROOM // rank**2)
        for begin in range(0, width, size):
            own = starts[begin : begin + size + 1]
            part, right = slice(int(own[0]), int(own[-1])), out[begin : begin + size]
            gram = left.new_empty(len(right), rank, rank)
            _run("normal", own - own[0], self.rows[part], values[part], left, gram, out=right)
            rows.sum(gram)
            rows.sum(right)
            _run("solve", gram, ridge[begin : begin + size], out=right)
        return out


def _run(name: str, *tensors: Tensor, out: Tensor) -> Tensor:
    if out.device.type == "cpu":
        getattr(numba_kernels, name)(*(tensor.detach().contiguous().numpy() for tensor in tensors), out.numpy())
        return out
    return getattr(torch_kernels, name)(*tensors, out)


def _sorted(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A stable order by key, and where each of the keys 0 to size - 1 starts in it, and the end."""
    dtype = torch.int32 if len(keys) < 2**31 else torch.int64
    if keys.device.type == "cpu":
        order = torch.empty(len(keys), dtype=dtype)
        starts = numba_kernels.order_by(keys.contiguous().numpy(), size, order.numpy())
        return order, torch.from_numpy(starts)
    order, starts = torch_kernels.order_by(keys, size)
    return order.to(dtype), starts
