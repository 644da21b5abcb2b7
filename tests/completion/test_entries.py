"""The observed entries in every form that a matrix may come in, and every input that is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from observations import every, fitted, low_rank, relative, with_holes

from corefold.completion import DeepMatrixCompletion, memory
from corefold.completion.entries import observed_entries, triples
from corefold.completion.solvers import Schatten

HOLES = with_holes(low_rank(9, 6, 2), 0.6)
HOLES[2, 1] = 0.0  # observed, though nothing
THERE = ~np.isnan(HOLES)
TRIPLES = (*THERE.nonzero(), HOLES[THERE])


def dense(observed):
    """NaN where nothing is observed."""
    filled = np.full(observed.shape, np.nan)
    filled[observed.row_of(), observed.columns] = observed.values
    return filled


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays(dtype):
    observed = observed_entries(HOLES.astype(dtype))
    assert observed.values.numpy().dtype == dtype
    np.testing.assert_array_equal(dense(observed), HOLES.astype(dtype))


def test_masks():
    mask = THERE.copy()
    mask[TRIPLES[0][0], TRIPLES[1][0]] = False
    np.testing.assert_array_equal(dense(observed_entries(HOLES, mask)), np.where(mask, HOLES, np.nan))


@pytest.mark.parametrize(
    "container", [sp.coo_array, sp.csr_array, sp.csc_array, sp.csr_matrix, sp.coo_matrix]
)
def test_sparse_with_explicit_zeros(container):
    stored = container(triples(TRIPLES, HOLES.shape))
    assert stored.nnz == THERE.sum()
    np.testing.assert_array_equal(dense(observed_entries(stored)), HOLES)


@pytest.mark.parametrize("form", ["coo", "csr", "csc", "lil", "dok", "dia", "bsr"])
def test_sparse_of_every_format(form):
    whole = low_rank(8, 6, 1)
    shown = np.where(whole > 0, whole, 0)  # some formats cannot hold a zero
    stored = sp.coo_array(shown).asformat(form)
    if form == "bsr":
        stored = sp.coo_array(shown).tobsr(blocksize=(1, 1))
    np.testing.assert_array_equal(dense(observed_entries(stored)), np.where(shown > 0, shown, np.nan))


def test_sparse_nan_is_missing():
    stored = sp.csr_array(np.array([[1.0, np.nan, 0.0], [0.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(dense(observed_entries(stored)), [[1, np.nan, np.nan], [np.nan, 2, 3]])


def test_every_form_gives_the_same_fit():
    def completed(X, **options):
        return fitted(
            DeepMatrixCompletion(1, solver="als", candidates="low_rank", random_state=0).fit(X, **options),
            HOLES.shape,
        )

    expected = completed(HOLES)
    frame = pd.DataFrame(HOLES, columns=list("abcdef"))
    shuffled = np.random.default_rng(0).permutation(len(TRIPLES[0]))
    for X, options in (
        (frame, {}),
        (frame.astype("Float64"), {}),  # pandas' own missing values
        (HOLES.tolist(), {}),
        (triples(TRIPLES), {}),
        (triples(TRIPLES).tocsr(), {}),
        (tuple(part[shuffled] for part in TRIPLES), {}),
        (tuple(part.tolist() for part in TRIPLES), {"shape": HOLES.shape}),
        (np.where(THERE, HOLES, 7.0), {"mask": THERE}),
        (observed_entries(HOLES), {}),
    ):
        np.testing.assert_array_equal(completed(X, **options), expected)


def test_a_place_given_more_than_once_counts_once_with_its_mean():
    rows, columns, values = TRIPLES
    again = np.array([3, 3, 5])
    twice = tuple(np.concatenate([part, part[again]]) for part in (rows, columns, values))
    twice[2][-3:] += [1.0, 2.0, 3.0]
    expected = HOLES.copy()
    expected[rows[3], columns[3]] += 1.0
    expected[rows[5], columns[5]] += 1.5
    order = np.argsort(twice[0], kind="stable")
    starts = np.searchsorted(twice[0][order], np.arange(10))
    # SciPy keeps these as they are.
    raw = sp.csr_array((twice[2][order], twice[1][order], starts), HOLES.shape)
    for form in (triples(twice, HOLES.shape), raw):
        with pytest.warns(UserWarning, match="^3 entries are given more than once; their mean counts"):
            observed = observed_entries(form)
        np.testing.assert_allclose(dense(observed), expected, rtol=1e-15)


def infinite():
    X = HOLES.copy()
    X[0, 0] = np.inf
    return X


REFUSED = {
    "no observation": (np.full((4, 3), np.nan), {}, ValueError, "nothing is observed"),
    "no triples": (([], [], []), {"shape": (4, 3)}, ValueError, "nothing is observed"),
    "nothing stored": (sp.csr_array((4, 3)), {}, ValueError, "nothing is observed"),
    "infinity": (infinite(), {}, ValueError, "infinity"),
    "infinity stored": (sp.csr_array([[np.inf, 0], [0, 1]]), {}, ValueError, "infinity"),
    "strings": (np.array([["good", "bad"], ["bad", "good"]]), {}, ValueError, "could not convert string"),
    "string values": (([0, 1], [0, 1], ["a", "b"]), {}, TypeError, "values of triples must be numbers"),
    "fractional": (([0.0, 1.0], [0, 1], [1.0, 2.0]), {}, TypeError, "rows of triples must be integers"),
    "negative": (
        ([0, 1], [-1, 1], [1.0, 2.0]),
        {},
        ValueError,
        "columns of triples must lie between 0 and 1",
    ),
    "out of range": (
        ([0, 9], [0, 1], [1.0, 2.0]),
        {"shape": (4, 3)},
        ValueError,
        r"rows .*0 and 3 .*got 0 to 9",
    ),
    "lengths": (([0, 1], [0, 1], [1.0]), {}, ValueError, "lengths 2, 2 and 1"),
    "a mask's shape": (HOLES, {"mask": THERE[1:]}, ValueError, r"mask must have the shape of X, \(9, 6\)"),
    "a mask of NaN": (
        HOLES,
        {"mask": np.ones_like(THERE)},
        ValueError,
        "mask shows entries of X that are NaN",
    ),
    "a mask of sparse": (triples(TRIPLES), {"mask": THERE}, ValueError, "a mask goes with a dense X"),
    "a shape of an array": (HOLES, {"shape": (9, 6)}, ValueError, "shape goes with triples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case):
    X, options, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        DeepMatrixCompletion(1).fit(X, **options)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_rank": 7}, r'max_rank must be "auto" or an integer from 1 to 6.*got 7'),
        ({"max_rank": 0}, "got 0"),
        ({"max_rank": 2.5}, "got 2.5"),
        ({"depth": 1}, "depth must be an integer of 2 or more"),
        ({"solver": "svd"}, "solver must be one of schatten, descent, als"),
        ({"solver": Schatten}, r"or an object such as Schatten\(depth=4\); got <class"),
        ({"tol": -1e-3}, "tol must be a number, 0 or more; got -0.001"),
        ({"tol": float("nan")}, "tol must be a number, 0 or more; got nan"),
        ({"tol": "tight"}, "tol must be a number, 0 or more; got 'tight'"),
        ({"validation_fraction": 1.0}, r"validation_fraction must lie in \[0, 1\)"),
        ({"fit_bias": "yes"}, "fit_bias must be True, False"),
        ({"max_iter": 0}, "max_iter must be an integer of 1 or more"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"clip": (1, 0)}, "low <= high"),
        ({"clip": 5}, "clip must be"),
        ({"clip": (np.zeros(4), np.ones(4))}, "or 6 numbers, one a column"),
        ({"distributed": True}, "distributed=True takes a group of processes: start them with torchrun"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        DeepMatrixCompletion(**settings).fit(HOLES)


def test_rows_and_columns_without_an_entry_are_predicted_by_biases():
    whole = low_rank(20, 12, 1) + 3
    X = with_holes(whole, 0.7)
    X[4], X[:, 5] = np.nan, np.nan
    with pytest.warns(UserWarning, match="no observed entry") as warned:
        model = DeepMatrixCompletion(1, fit_bias=True, clip=None, candidates="low_rank", random_state=0).fit(
            X
        )
    assert [str(each.message) for each in warned] == [
        "1 rows have no observed entry; biases alone predict them",
        "1 columns have no observed entry; biases alone predict them",
    ]
    got, biases = fitted(model, X.shape), model.model_.biases
    np.testing.assert_allclose(got[4], biases.mean + biases.column, atol=1e-12)
    np.testing.assert_allclose(got[:, 5], biases.mean + biases.row, atol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 3.5])
@pytest.mark.parametrize(
    "settings",
    [{}, {"fit_bias": True}, {"solver": "als", "max_rank": 1}, {"solver": "descent", "max_iter": 30}],
)
def test_a_constant_matrix(constant, settings):
    X = with_holes(np.full((12, 8), constant), 0.6)
    got = fitted(DeepMatrixCompletion(**{"max_rank": 2, "random_state": 0, **settings}).fit(X), X.shape)
    np.testing.assert_allclose(got, constant, atol=1e-2)


def test_fewer_observations_than_degrees_of_freedom_are_counted():
    X = with_holes(low_rank(20, 12, 3), 0.2)
    count, freedom = int((~np.isnan(X)).sum()), 5 * (20 + 12 - 5)
    with pytest.warns(
        UserWarning, match=f"^{count} observed entries are fewer than the {freedom} degrees of freedom"
    ):
        DeepMatrixCompletion(5, random_state=0).fit(X)


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))


def test_a_fit_that_would_not_fit_is_refused_with_the_estimate(little_memory, monkeypatch):
    monkeypatch.setattr(torch, "empty", None)
    one = np.arange(3)
    with pytest.raises(
        MemoryError, match=r"of shape \(3, 100000000\) would take 1\.5 GiB and 0\.0 GiB are free"
    ):
        DeepMatrixCompletion(1).fit((one, one, np.ones(3)), shape=(3, 10**8))
    monkeypatch.undo()
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(MemoryError, match=r"a fit of rank 60 would take .* set a lower max_rank"):
        DeepMatrixCompletion(60).fit(with_holes(low_rank(100, 80, 2), 0.5))


def test_a_dense_result_that_would_not_fit_is_refused(monkeypatch):
    model = DeepMatrixCompletion(1, random_state=0).fit(HOLES)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    one = np.arange(6)
    with pytest.raises(MemoryError, match=r"a dense matrix of shape \(60001, 6\).*entries\(rows, columns\)"):
        model.transform((np.append(one, 60000), np.append(one, 0), np.ones(7)))


def test_indices_of_entries_are_checked():
    model = DeepMatrixCompletion(1, random_state=0).fit(HOLES)
    for rows, columns, says in (
        ([9], [0], "rows must lie between 0 and 8; got 9 to 9"),
        ([0], [-1], "columns must lie between 0 and 5"),
        ([0, 1], [0], "as many rows as columns"),
        ([0.5], [0], "rows must be integers in one dimension"),
    ):
        with pytest.raises(ValueError, match=says):
            model.entries(rows, columns)
    assert relative(model.entries(*every((9, 6))), fitted(model, (9, 6)).ravel()) == 0
