"""The observed entries of a matrix, by rows and by columns, and the products with them that solvers need."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from corefold.completion import numba_kernels, torch_kernels
from corefold.completion.distributed import RowPartition

MAX_SHARED_NUMBERS = 2**18  # in the normal equations that processes add up at a time


@dataclass(frozen=True)
class Observed:
    """Observed entries in compressed rows, with the order that reads them by columns.

    An entry is observed because it is listed; its value may be zero. `Observed.of(rows, columns, values, shape)` makes
    one, and `DeepMatrixCompletion` takes it. Products run in numba on a CPU and in PyTorch elsewhere, and take factors
    of the values' dtype and device.

    Attributes:
        values: the observed values, row by row.
        starts: where each row starts in `values`, and the end.
        columns: the column of each entry, ascending within a row.
        column_starts: where each column starts in `order`, and the end.
        order: the entries column by column, as places in `values`.
        rows: the row of each entry in the order of `order`, ascending within a column.
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
        """From the entries in any order, no place twice."""
        # Each large tensor is freed before the next is made, because they are most of the memory that reading takes.
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

    def transposed(self) -> Observed:
        """The transpose of the matrix."""
        place = torch.empty_like(self.order)
        place[self.order.long()] = torch.arange(len(place), dtype=place.dtype, device=place.device)
        return Observed(
            self._column_values(), self.column_starts, self.rows, self.starts, place, self.columns
        )

    def part(self, chosen: Bool[Tensor, " entries"]) -> Observed:
        """The entries where `chosen` is true, of a matrix of the same shape."""
        if bool(chosen.all()):
            return self
        by_column = chosen.index_select(0, self.order)
        place = chosen.cumsum(0) - 1  # among the chosen entries
        return Observed(
            self.values[chosen],
            _starts_among(chosen, self.starts),
            self.columns[chosen],
            _starts_among(by_column, self.column_starts),
            place.index_select(0, self.order[by_column]).to(self.order.dtype),
            self.rows[by_column],
        )

    def products(
        self, left: Float[Tensor, "height k"], right: Float[Tensor, "width k"]
    ) -> Float[Tensor, " entries"]:
        """The entries of `left @ right.T` at the observed places."""
        if not left.shape[1]:  # The kernel's sum begins with the first of the products.
            return torch.zeros_like(self.values)
        return _run("products", self.starts, self.columns, left, right, out=torch.empty_like(self.values))

    def times(self, right: Float[Tensor, "width k"]) -> Float[Tensor, "height k"]:
        """The sparse matrix of the observed values times `right`."""
        out = right.new_empty(self.shape[0], right.shape[1])
        return _run("times", self.starts, self.columns, self.values, right, out=out)

    def transposed_times(self, left: Float[Tensor, "height k"]) -> Float[Tensor, "width k"]:
        """The transposed sparse matrix of the observed values times `left`."""
        out = left.new_empty(self.shape[1], left.shape[1])
        return _run("times", self.column_starts, self.rows, self._column_values(), left, out=out)

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
        return _run("ridge_regression", self.starts, self.columns, self.values, right, ridge, out=out)

    def fit_columns(
        self, left: Float[Tensor, "height k"], ridge: Float[Tensor, "#width k"], partition: RowPartition
    ) -> Float[Tensor, "width k"]:
        """The same for each column, whose entries may be in several processes."""
        ridge = ridge.expand(self.shape[1], -1)
        starts, values = self.column_starts, self._column_values()
        rank = left.shape[1]
        out = left.new_empty(self.shape[1], rank)
        if partition.process_count == 1:
            return _run("ridge_regression", starts, self.rows, values, left, ridge, out=out)
        for columns, part in torch_kernels.row_blocks(starts, max(1, MAX_SHARED_NUMBERS // rank**2)):
            right = out[columns]
            gram = left.new_empty(len(right), rank, rank)
            block_starts = starts[columns.start : columns.stop + 1] - part.start
            _run("normal_equations", block_starts, self.rows[part], values[part], left, gram, out=right)
            partition.sum(gram)
            partition.sum(right)
            _run("solve_normal_equations", gram, ridge[columns], out=right)
        return out

    def column_equations(
        self, left: Float[Tensor, "height k"]
    ) -> tuple[Float[Tensor, "width k k"], Float[Tensor, "width k"]]:
        """Matrices and right sides of each column's normal equations, from this process's entries."""
        width, rank = self.shape[1], left.shape[1]
        gram, right = left.new_empty(width, rank, rank), left.new_empty(width, rank)
        _run("normal_equations", self.column_starts, self.rows, self._column_values(), left, gram, out=right)
        return gram, right

    def row_equations(
        self, right: Float[Tensor, "width k"]
    ) -> tuple[Float[Tensor, "height k k"], Float[Tensor, "height k"]]:
        """The same of each row."""
        height, rank = self.shape[0], right.shape[1]
        gram, left = right.new_empty(height, rank, rank), right.new_empty(height, rank)
        _run("normal_equations", self.starts, self.columns, self.values, right, gram, out=left)
        return gram, left

    def of_rows(self, rows: Int[Tensor, " n"]) -> Observed:
        """The entries of these rows, as a matrix of these rows."""
        starts, counts = self.starts[rows], self.starts.diff()[rows]
        places = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        entries = starts[places] + torch.arange(len(places), device=rows.device) - first[places]
        shape = (len(rows), self.shape[1])
        return Observed.of(places, self.columns[entries], self.values[entries], shape)

    def _column_values(self) -> Float[Tensor, " entries"]:
        """The values column by column."""
        return self.values.index_select(0, self.order)


def _run(name: str, *tensors: Tensor, out: Tensor) -> Tensor:
    """Call the kernel of this name: numba's on the CPU, in parallel where that pays, PyTorch's elsewhere."""
    if out.device.type == "cpu":
        arrays, result = [tensor.detach().contiguous().numpy() for tensor in tensors], out.numpy()
        with numba_kernels.threads_for(numba_kernels.work_of(name, arrays, result)):
            getattr(numba_kernels, name)(*arrays, result)
        return out
    return getattr(torch_kernels, name)(*tensors, out)


def _starts_among(chosen: Tensor, starts: Tensor) -> Tensor:
    """Where each run of entries starts among the chosen ones, and the end."""
    ends = chosen.cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])[starts]


def _sorted(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A stable order by key, and where each of the keys 0 to size - 1 starts in it, and the end."""
    dtype = torch.int32 if len(keys) < 2**31 else torch.int64
    if keys.device.type == "cpu":
        order = torch.empty(len(keys), dtype=dtype)
        starts = numba_kernels.order_by(keys.contiguous().numpy(), size, order.numpy())
        return order, torch.from_numpy(starts)
    order, starts = torch_kernels.order_by(keys, size)
    return order.to(dtype), starts
