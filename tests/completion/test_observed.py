"""Products with observed entries, compiled and as PyTorch operations, against the dense ones."""

from __future__ import annotations

import pytest
import torch
from observations import sparse

from cases import DTYPES, ROUNDING, gaussian, generator
from corefold.completion import numba_kernels, torch_kernels
from corefold.completion import observed as module
from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed
from laws import same_matrix

SHAPES = [(17, 10), (9, 16), (13, 13)]
SHARES = [0.1, 0.6]


@pytest.fixture(params=["numba", "torch", "torch in chunks"])
def path(request, monkeypatch):
    """The compiled loops, or the operations that a GPU runs."""
    if request.param == "torch in chunks":
        monkeypatch.setattr(torch_kernels, "MAX_CHUNK_NUMBERS", 40)
    if request.param != "numba":
        monkeypatch.setattr(
            module,
            "_run",
            lambda name, *tensors, out: getattr(torch_kernels, name)(*tensors, out),
            raising=True,
        )


def cases():
    return pytest.mark.parametrize(
        ("shape", "share", "dtype"), [(a, b, c) for a in SHAPES for b in SHARES for c in DTYPES]
    )


@cases()
def test_of_keeps_every_entry_in_both_orders(shape, share, dtype):
    observed, shown, dense = sparse(*shape, share, dtype)
    assert observed.shape == shape
    assert len(observed) == int(shown.sum())
    rebuilt = torch.zeros(shape, dtype=dtype)
    rebuilt[observed.row_of().long(), observed.columns.long()] = observed.values
    assert torch.equal(rebuilt, dense)
    assert torch.equal(observed.starts.diff(), shown.sum(1))
    assert torch.equal(observed.column_starts.diff(), shown.sum(0))
    columns, rows = shown.mT.nonzero(as_tuple=True)  # column by column, rows ascending
    assert torch.equal(observed.rows.long(), rows)
    assert torch.equal(observed.columns[observed.order].long(), columns)


def test_both_ways_to_sort_are_alike():
    keys = torch.randint(0, 7, (50,), generator=generator())
    keys = keys[keys != 3]
    order = torch.empty(len(keys), dtype=torch.int64)
    starts = numba_kernels.order_by(keys.numpy(), 8, order.numpy())
    other, other_starts = torch_kernels.order_by(keys, 8)
    assert torch.equal(order, other)
    assert torch.equal(torch.from_numpy(starts), other_starts)


@cases()
def test_products(path, shape, share, dtype):
    observed, shown, _ = sparse(*shape, share, dtype)
    left, right = gaussian(shape[0], 4, seed=5, dtype=dtype), gaussian(shape[1], 4, seed=6, dtype=dtype)
    expected = (left.double() @ right.double().mT)[shown]
    same_matrix(observed.products(left, right), expected, ROUNDING[dtype])


@cases()
def test_counts(path, shape, share, dtype):
    observed, shown, _ = sparse(*shape, share, dtype)
    left, right = gaussian(shape[0], 3, seed=5, dtype=dtype), gaussian(shape[1], 3, seed=6, dtype=dtype)
    same_matrix(observed.counts(right), shown.double() @ right.double(), ROUNDING[dtype])
    same_matrix(observed.transposed_counts(left), shown.double().mT @ left.double(), ROUNDING[dtype])


@cases()
def test_times_and_transposed_times(path, shape, share, dtype):
    observed, _, dense = sparse(*shape, share, dtype)
    left, right = gaussian(shape[0], 3, seed=5, dtype=dtype), gaussian(shape[1], 3, seed=6, dtype=dtype)
    same_matrix(observed.times(right), dense.double() @ right.double(), ROUNDING[dtype])
    same_matrix(observed.transposed_times(left), dense.double().mT @ left.double(), ROUNDING[dtype])


def ridge_by_lstsq(values, shown, right, ridge):
    """Row by row, the row's ridge as so many more observations of zero."""
    rows = []
    for value, there, own in zip(values.double(), shown, ridge.double(), strict=True):
        matrix = torch.cat([right[there].double(), own.sqrt().diag()])
        rows.append(torch.linalg.lstsq(matrix, torch.cat([value[there], torch.zeros_like(own)])).solution)
    return torch.stack(rows)


def ridges(count, rank, dtype):
    """One a row, in general position."""
    return gaussian(count, rank, seed=9, dtype=dtype).square() + 0.1


@cases()
def test_fit_rows_and_columns(path, shape, share, dtype):
    observed, shown, dense = sparse(*shape, share, dtype)
    left, right = gaussian(shape[0], 3, seed=5, dtype=dtype), gaussian(shape[1], 3, seed=6, dtype=dtype)
    of_rows, of_columns = (ridges(side, 3, dtype) for side in shape)
    by_rows, by_columns = (
        observed.fit_rows(right, of_rows),
        observed.fit_columns(left, of_columns, RowPartition()),
    )
    same_matrix(by_rows, ridge_by_lstsq(dense, shown, right, of_rows), 100 * ROUNDING[dtype])
    same_matrix(by_columns, ridge_by_lstsq(dense.mT, shown.mT, left, of_columns), 100 * ROUNDING[dtype])
    alike = of_rows[:1]
    same_matrix(observed.fit_rows(right, alike), observed.fit_rows(right, alike.repeat(shape[0], 1)), 0)
    assert not by_rows[shape[0] // 2].any()  # without entries
    assert not by_columns[shape[1] // 3].any()


class Two(RowPartition):
    """As if another process had the same rows once more."""

    process_count = 2

    def sum(self, x):
        return x.mul_(2)


@cases()
@pytest.mark.parametrize("room", [1, 2**24])
def test_fit_columns_of_rows_that_are_shared(path, monkeypatch, shape, share, dtype, room):
    monkeypatch.setattr(module, "MAX_SHARED_NUMBERS", room)  # column by column, and all at a time
    observed, _, _ = sparse(*shape, share, dtype)
    left, ridge = gaussian(shape[0], 3, seed=5, dtype=dtype), ridges(shape[1], 3, dtype)
    same_matrix(
        observed.fit_columns(left, ridge, Two()),
        observed.fit_columns(left, ridge / 2, RowPartition()),
        100 * ROUNDING[dtype],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_fit_without_a_ridge_leaves_what_has_no_effect_at_zero(path, dtype):
    observed, shown, dense = sparse(12, 9, 0.9, dtype)
    right = gaussian(9, 3, seed=6, dtype=dtype)
    right[:, 1] = 0
    got = observed.fit_rows(right, torch.zeros(1, 3, dtype=dtype))
    expected = ridge_by_lstsq(dense, shown, right[:, [0, 2]], torch.zeros(12, 2, dtype=dtype))
    assert not got[:, 1].any()
    rows = shown.any(1)
    same_matrix(got[rows][:, [0, 2]], expected[rows], 2000 * ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_observed(path, dtype):
    empty = torch.zeros(0, dtype=torch.int64)
    observed = Observed.of(empty, empty, torch.zeros(0, dtype=dtype), (4, 3))
    assert observed.products(torch.ones(4, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype)).shape == (0,)
    assert not observed.times(torch.ones(3, 2, dtype=dtype)).any()
    assert not observed.fit_rows(torch.ones(3, 2, dtype=dtype), torch.ones(1, 2, dtype=dtype)).any()


def test_part_keeps_the_shape():
    observed, _, dense = sparse(17, 10, 0.6)
    chosen = observed.values > 0
    part = observed.part(chosen)
    assert part.shape == observed.shape
    got = part.times(torch.eye(10, dtype=torch.float64))
    same_matrix(got, dense.clamp(min=0), 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_entry_takes_at_most_40_bytes(dtype):
    observed, _, _ = sparse(300, 200, 0.5, dtype)
    held = sum(tensor.numel() * tensor.element_size() for tensor in vars(observed).values())
    assert held <= 40 * len(observed)


@cases()
def test_column_equations(path, shape, share, dtype):
    observed, shown, dense = sparse(*shape, share, dtype)
    left = gaussian(shape[0], 3, seed=5, dtype=dtype)
    gram, right = observed.column_equations(left)
    expected = torch.einsum("ij,ik,il->jkl", shown.double(), left.double(), left.double())
    same_matrix(gram.flatten(1), expected.flatten(1), ROUNDING[dtype])
    same_matrix(right, dense.double().mT @ left.double(), ROUNDING[dtype])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_part_is_what_its_entries_make(shape):
    observed, _, _ = sparse(*shape, 0.6)
    for chosen in (observed.values > 0, observed.values > torch.inf):
        made = Observed.of(
            observed.row_of()[chosen], observed.columns[chosen], observed.values[chosen], shape
        )
        for name, tensor in vars(observed.part(chosen)).items():
            assert torch.equal(tensor, getattr(made, name)), name
            assert tensor.dtype == getattr(made, name).dtype, name
    assert observed.part(observed.values < torch.inf) is observed


@pytest.mark.parametrize("height", [12, 3000])
def test_small_loops_run_on_one_thread(monkeypatch, height):
    if numba_kernels.get_num_threads() == 1:
        pytest.skip("one thread is all there is")
    monkeypatch.setattr(numba_kernels, "MIN_PARALLEL_WORK", 2000)
    observed, _, _ = sparse(height, 9, 0.9)
    left, right = gaussian(height, 3, seed=5), gaussian(9, 3, seed=6)
    before, threads = numba_kernels.get_num_threads(), []
    for name in ("products", "times", "ridge_regression", "normal_equations"):
        kernel = getattr(numba_kernels, name)
        monkeypatch.setattr(
            numba_kernels,
            name,
            lambda *arguments, kernel=kernel: (
                threads.append(numba_kernels.get_num_threads()),
                kernel(*arguments),
            ),
        )
    observed.products(left, right)
    observed.times(right)
    observed.fit_rows(right, torch.ones(1, 3, dtype=torch.float64))
    observed.column_equations(left)
    assert threads == [1 if height == 12 else before] * 4
    assert numba_kernels.get_num_threads() == before
