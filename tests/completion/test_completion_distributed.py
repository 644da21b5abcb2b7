"""Two gloo processes, each with a run of the rows, against one with all of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.distributed as dist
from observations import fitted, low_rank, with_holes

from corefold.completion import DeepMatrixCompletion
from corefold.completion.distributed import DistributedRows, RowPartition
from corefold.completion.entries import triples
from corefold.completion.solvers import ALS, Descent, Schatten
from laws import orthonormal_columns, same_matrix
from two_processes import in_two_processes

NOISY = 2 + low_rank(60, 24, 3) + 0.1 * np.random.default_rng(1).standard_normal((60, 24))
HOLES = with_holes(NOISY, 0.6)
STARS = with_holes(np.clip(np.round(NOISY + 1), 1, 5), 0.6)

FITS = {
    "default": (HOLES, {}),
    "a scale": (STARS, {}),
    "biases": (HOLES, {"fit_bias": True}),
    # The first steps are at the strongest penalty, which leaves one direction: so take more of them.
    "nothing held out": (HOLES, {"validation_fraction": 0.0, "max_iter": 25}),
    "als": (HOLES, {"solver": ALS(0.3), "max_rank": 3}),
    "descent": (HOLES, {"solver": Descent(every=8, init_scale=0.3)}),
    "wide descent": (HOLES, {"solver": Descent(compressed=False, every=8, init_scale=0.3)}),
}


def estimator(**settings):
    few = Schatten(products=6)  # each product with the matrix is a few words between the processes
    return DeepMatrixCompletion(
        **{
            "max_rank": 5,
            "random_state": 0,
            "solver": few,
            "max_iter": 8,
            "candidates": "low_rank",
            **settings,
        }
    )


FEW = {"max_iter": 3}
"""Where the kind of input matters and not the search: each step of it is hundreds of words between the processes."""


def own(X, cut):
    """This process's rows: up to `cut` in the first, the rest in the second."""
    return X[:cut] if dist.get_rank() == 0 else X[cut:]


def fits(cuts):
    """For every kind and cut: the entries of these rows, and the results that must be alike in both."""
    found = {}
    for name, (X, settings) in FITS.items():
        for cut in cuts if name in ("default", "als") else cuts[1:]:
            here = own(X, cut)
            model = estimator(distributed=True, **settings).fit(here)
            rank, path = model.rank_, [{**step, "seconds": 0} for step in model.path_]
            margins = model.model_.calibration.margins(0.8) if len(model.model_.calibration) else None
            alike = (
                rank,
                str(path),
                model.singular_values_,
                margins,
                model.validation_error_,
                str(model.bounds_),
            )
            found[name, cut] = fitted(model, here.shape), alike
    return found


CUTS = (30, 58)  # even; and fewer rows in the second than the rank bound


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return in_two_processes(fits, tmp_path_factory.mktemp("fits"), CUTS)


@pytest.mark.parametrize(
    ("name", "cut"), [*((name, CUTS[1]) for name in FITS), ("default", CUTS[0]), ("als", CUTS[0])]
)
def test_two_processes_fit_as_one_does(both, name, cut):
    (first, first_alike), (second, second_alike) = (found[name, cut] for found in both)
    assert str(first_alike) == str(second_alike)
    X, settings = FITS[name]
    alone = estimator(**settings).fit(X)
    assert first_alike[0] == alone.rank_ > 1
    assert first_alike[5] == str(alone.bounds_)
    np.testing.assert_allclose(np.concatenate([first, second]), fitted(alone, X.shape), atol=1e-8, rtol=0)
    np.testing.assert_allclose(first_alike[4], alone.validation_error_, atol=1e-8)
    if len(alone.model_.calibration):
        np.testing.assert_allclose(first_alike[3], alone.model_.calibration.margins(0.8), atol=1e-8)


def algebra(heights):
    """QR of tall matrices of which each process has some rows, fewer than columns or none among them."""
    found = []
    for first, second in heights:
        whole = torch.randn(
            first + second, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        whole[:, 3] = whole[:, 0] - whole[:, 1]  # rank-deficient
        here = own(whole, first)
        rows = DistributedRows(len(here), torch.device("cpu"))
        q, r = rows.qr(here)
        found.append((whole, rows.gather(q), r, rows.offset))
    return found


def test_qr_of_shared_rows(tmp_path):
    heights = [(7, 5), (9, 2), (1, 8), (6, 0), (0, 6), (2, 1)]
    for rank, found in enumerate(in_two_processes(algebra, tmp_path, heights)):
        for (whole, q, r, offset), (first, _) in zip(found, heights, strict=True):
            assert offset == rank * first
            same_matrix(q @ r, whole, 1e-13)
            orthonormal_columns(q, 1e-12)
            assert q.shape == RowPartition().qr(whole)[0].shape


def decisions():
    """Differences between processes that none of them may decide on by itself."""
    found = {}
    here = own(HOLES, 40)
    unseeded = estimator(distributed=True, random_state=None).fit(here)
    found["unseeded"] = unseeded.components_

    # One process asks for the end, or sees its own clock; both end.
    stops = [lambda record: dist.get_rank() == 1 and record.rank >= 0 and len(seen) == 4]
    seen = []
    stopped = estimator(distributed=True, callbacks=[lambda record: seen.append(record), *stops]).fit(here)
    found["stopped"] = stopped.n_iter_

    holes = own(HOLES, 40).copy()
    if dist.get_rank() == 1:
        holes[3] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator(distributed=True, **FEW).fit(holes)
    found["warned"] = [str(each.message) for each in caught]

    stored = sp.csr_array(triples((*(~np.isnan(here)).nonzero(), here[~np.isnan(here)]), here.shape))
    found["sparse"] = estimator(distributed=True, **FEW).fit(stored).components_
    # Triples say how wide their matrix is only together.
    there = ~np.isnan(here)
    there[:, 20:] &= dist.get_rank() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = estimator(distributed=True, **FEW).fit((*there.nonzero(), here[there]))
        found["triples"] = model.components_.shape
    model = estimator(distributed=True, warm_start=True).fit(here)
    found["again"] = model.fit(here).components_
    found["streamed"] = model.partial_fit(own(HOLES, 10)).components_
    return found


def test_decisions_are_taken_together(tmp_path):
    first, second = in_two_processes(decisions, tmp_path)
    for name in ("unseeded", "sparse", "again", "streamed"):
        np.testing.assert_array_equal(first[name], second[name])
    assert first["stopped"] == second["stopped"] == 4
    assert first["warned"] == second["warned"] == ["1 rows have no observed entry; biases alone predict them"]
    assert first["triples"][1] == second["triples"][1] == 24


def nothing_here():
    """A process whose rows have no entry at all, which is no error; then all of them."""
    here = own(HOLES, 40)
    empty = np.full_like(here, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = estimator(distributed=True, **FEW).fit(empty if dist.get_rank() == 1 else here)
    told = []
    for X in (
        empty,
        np.where(dist.get_rank() == 1, np.inf, here),
        here[:, : 24 - dist.get_rank()],
        here.astype(np.float32) if dist.get_rank() == 1 else here,
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            estimator(distributed=True).fit(X)
        told.append(str(caught.value))
    return fitted(model, here.shape), told


def test_errors_are_raised_in_every_process(tmp_path):
    for rank, (entries, told) in enumerate(in_two_processes(nothing_here, tmp_path)):
        assert np.isfinite(entries).all()
        empty, infinite, narrow, single = told
        assert "nothing is observed" in empty
        assert "infinity" in infinite
        assert infinite.startswith("process 1 failed: ") == (rank == 0)
        assert "columns and dtypes alike; got [(24, 'torch.float64'), (23, 'torch.float64')]" in narrow
        assert "torch.float32" in single


def in_units_of_columns():
    X = with_holes(low_rank(60, 12, 2) * np.geomspace(1, 1000, 12) + np.arange(12) * 50, 0.7)
    model = estimator(distributed=True, candidates="all", solver="schatten", max_iter=20).fit(own(X, 30))
    kinds = {step["units"] for step in model.path_}
    return kinds, str([{**step, "seconds": 0} for step in model.path_]), fitted(model, own(X, 30).shape)


def test_other_units_are_alike_in_two_processes(tmp_path):
    (kinds, path, _), (_, other, filled) = in_two_processes(in_units_of_columns, tmp_path)
    assert kinds >= {"table", "columns"}
    assert path == other
    assert np.isfinite(filled).all()


def held():
    """Bytes that the tensors of a fitted model, and of its observed entries, take here."""
    X = with_holes(low_rank(600, 20, 2), 0.5)
    model = estimator(distributed=True, **FEW).fit(own(X, 300))
    return sum(tensor.numel() * tensor.element_size() for tensor in model.model_.tensors().values())


def test_a_process_holds_its_rows_only(tmp_path):
    alone = estimator(**FEW).fit(with_holes(low_rank(600, 20, 2), 0.5))
    tensors = alone.model_.tensors()
    of_rows = sum(tensors[name].nbytes for name in ("u", "row_bias", "cold_row_bias"))
    everything = sum(tensor.nbytes for tensor in tensors.values())
    for here in in_two_processes(held, tmp_path):
        assert here == everything - of_rows / 2
