"""The estimator beside filling gaps: how it is steered, stopped, continued and composed."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from observations import every, fitted, low_rank, relative, with_holes
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from corefold.completion import DeepMatrixCompletion
from corefold.completion.entries import triples
from corefold.completion.solvers import ALS, Descent, Schatten

WHOLE = low_rank(60, 40, 2)
X = with_holes(WHOLE, 0.5)
NOISY = WHOLE + 0.1 * np.random.default_rng(1).standard_normal(WHOLE.shape)


def estimator(**settings):
    return DeepMatrixCompletion(**{"max_rank": 6, "random_state": 0, **settings})


@pytest.fixture(scope="module")
def done():
    return estimator().fit(X)


def test_attributes(done):
    assert done.rank_ == 2
    np.testing.assert_allclose(done.singular_values_, np.linalg.svd(WHOLE)[1][:2], rtol=1e-5)
    np.testing.assert_allclose(done.components_ @ done.components_.T, np.eye(2), atol=1e-10)
    assert done.n_iter_ == len(done.path_)
    assert 0 <= done.validation_error_ < 1e-5
    assert done.path_[-1]["stage"] == "refit"
    assert {step["rank"] for step in done.path_} >= {2, 6}
    assert relative(fitted(done, X.shape), WHOLE) < 1e-5


def test_transform_keeps_what_is_observed(done):
    filled = done.transform(X)
    there = ~np.isnan(X)
    np.testing.assert_array_equal(filled[there], X[there])
    assert relative(filled, WHOLE) < 1e-5
    np.testing.assert_array_equal(done.transform(sp.csr_array(triples((*there.nonzero(), X[there])))), filled)


def test_fold_in_of_new_rows(done):
    new = np.random.default_rng(2).standard_normal((15, 2)) @ done.components_
    assert relative(done.transform(with_holes(new, 0.4, seed=3)), new) < 1e-5
    assert done.score(with_holes(new, 0.6, seed=4)) > 1 - 1e-8


def test_a_row_of_nothing_gets_the_columns_biases():
    model = estimator(fit_bias=True, clip=None, candidates="low_rank").fit(
        with_holes(NOISY + np.arange(40), 0.5)
    )
    biases = model.model_.biases
    got = model.transform(np.full((1, 40), np.nan))
    np.testing.assert_allclose(got[0], biases.mean + biases.column, rtol=1e-10)


@pytest.mark.parametrize(
    "settings", [{}, {"solver": ALS(0.1), "max_rank": 2}, {"fit_bias": True, "candidates": "low_rank"}]
)
def test_fold_in_of_the_rows_fitted_gives_the_fitted_matrix(settings):
    holes = with_holes(NOISY, 0.5)
    model = estimator(clip=None, **settings).fit(holes)
    got, there = model.transform(holes), ~np.isnan(holes)
    assert relative(got[~there], fitted(model, X.shape)[~there]) < 2e-3


def test_the_same_seed_gives_the_same_fit(done):
    again = estimator().fit(X)
    np.testing.assert_array_equal(fitted(again, X.shape), fitted(done, X.shape))
    strip = [{**step, "seconds": 0} for step in done.path_]
    assert str([{**step, "seconds": 0} for step in again.path_]) == str(strip)
    state = torch.random.get_rng_state()
    estimator().fit(X)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("settings", [{}, {"solver": "als"}, {"solver": Descent(every=20), "max_iter": 3}])
def test_float32_stays_float32(settings):
    model = estimator(**settings).fit(X.astype(np.float32))
    assert all(t.dtype == torch.float32 for t in model.model_.tensors().values() if t.is_floating_point())
    assert model.transform(X.astype(np.float32)).dtype == np.float32
    assert model.entries([0], [0]).dtype == np.float32
    assert estimator(dtype="float64", **settings).fit(X.astype(np.float32)).components_.dtype == np.float64
    assert estimator(dtype="float32", **settings).fit(X).components_.dtype == np.float32


def test_float32_completes(done):
    model = estimator(tol=1e-4).fit(X.astype(np.float32))
    assert model.rank_ == 2
    assert relative(fitted(model, X.shape), WHOLE) < 1e-3


def test_sparse_input_is_never_made_dense(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("made dense")

    there = ~np.isnan(X)
    stored = sp.csr_array(triples((*there.nonzero(), X[there])))
    for name in ("toarray", "todense", "__array__"):
        for kind in (sp.coo_array, sp.csr_array):
            monkeypatch.setattr(kind, name, refuse, raising=False)
    assert estimator().fit(stored).rank_ == 2


@pytest.mark.parametrize(
    ("clip", "low", "high"),
    [((-0.5, 0.5), -0.5, 0.5), ((np.linspace(-1, 0, 40), np.linspace(0.1, 1, 40)), np.linspace(-1, 0, 40), np.linspace(0.1, 1, 40))],
)  # fmt: skip
def test_clip(done, clip, low, high):
    model = estimator(clip=clip).fit(X)
    expected = np.clip(fitted(done, X.shape), low, high)
    np.testing.assert_array_equal(fitted(model, X.shape), expected)
    np.testing.assert_array_equal(
        model.transform(X)[np.isnan(X)], np.clip(done.transform(X), low, high)[np.isnan(X)]
    )
    rows, columns = every(X.shape)
    lower, upper = model.intervals(rows, columns)
    assert (lower <= upper).all()
    assert (np.broadcast_to(low, X.shape)[rows, columns] <= lower).all()
    assert (np.broadcast_to(high, X.shape)[rows, columns] >= upper).all()


def test_clip_auto_is_for_scales():
    stars = np.clip(np.round(NOISY * 2 + 3), 1, 5)
    model = estimator().fit(with_holes(stars, 0.5))
    assert tuple(float(end) for end in model.bounds_) == (1, 5)
    got = fitted(model, X.shape)
    assert got.min() >= 1
    assert got.max() <= 5
    assert estimator().fit(X).bounds_ is None


def test_warm_start_takes_fewer_steps_and_other_rows():
    holes = with_holes(WHOLE, 0.5)
    model = estimator(solver="als", max_rank=2, warm_start=True).fit(holes)
    cold = model.n_iter_
    assert model.fit(holes).n_iter_ < cold
    more = with_holes(low_rank(60, 40, 2, seed=0), 0.4, seed=7)[:35]
    assert relative(fitted(model.fit(more), more.shape), WHOLE[:35]) < 1e-4
    assert model.fit(holes[:, :30]).components_.shape[1] == 30  # other columns: from the start


def test_a_warm_start_from_rank_zero_starts_anew():
    rng = np.random.default_rng(0)
    biases = 2 * rng.normal(size=(40, 1)) + 2 * rng.normal(size=(1, 20)) + rng.normal(size=(40, 20))
    holes = np.where(rng.random(biases.shape) < 0.5, biases, np.nan)
    model = DeepMatrixCompletion(warm_start=True, random_state=0).fit(holes)
    assert model.rank_ == 0
    assert model.fit(with_holes(low_rank(60, 20, 2), 0.5)).rank_ > 0


def test_a_warm_start_keeps_to_the_rank_bound():
    model = estimator(warm_start=True, max_iter=5).fit(with_holes(NOISY, 0.5))
    assert model.rank_ > 1
    model.set_params(max_rank=1).fit(with_holes(NOISY, 0.5))
    assert {step["rank"] for step in model.path_} == {0, 1}


def test_callbacks_see_and_stop():
    seen = []
    model = estimator(callbacks=[seen.append, lambda record: len(seen) == 3]).fit(X)
    assert len(seen) == model.n_iter_ == 3
    assert [record.stage for record in seen] == ["path"] * 3
    assert fitted(model, X.shape).shape == X.shape


class Interrupts:
    def __init__(self, after):
        self.left = after

    def __call__(self, record):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_interrupted_the_best_so_far_is_there():
    holes, errors = with_holes(NOISY, 0.5), []
    for after in (2, 8):
        model = estimator(callbacks=[Interrupts(after)])
        with pytest.raises(KeyboardInterrupt):
            model.fit(holes)
        assert model.n_iter_ == after
        assert len(model.transform(holes)) == len(holes)
        best = min(step["held_out"] for step in model.path_)
        assert model.validation_error_ <= best * 1.001
        errors.append(relative(fitted(model, X.shape), WHOLE))
    assert errors[1] < errors[0]


def test_a_failed_fit_is_no_fit():
    model = estimator(callbacks=[Interrupts(1)], clip=None)
    with pytest.raises(ValueError, match="infinity"):
        model.fit(np.full((3, 3), np.inf))
    with pytest.raises(ValueError, match="not fitted"):
        check_is_fitted(model)


def test_verbose_shows_a_bar(capsys):
    estimator(verbose=True).fit(X)
    said = capsys.readouterr().err
    assert "completing" in said
    assert "rank=2" in said
    estimator().fit(X)
    assert capsys.readouterr().err == ""


def test_pickle_and_clone(done):
    again = pickle.loads(pickle.dumps(done))
    np.testing.assert_array_equal(fitted(again, X.shape), fitted(done, X.shape))
    solver = Schatten(depth=4)
    assert clone(estimator(solver=solver)).solver == solver


def test_in_a_pipeline_and_a_grid_search():
    y = WHOLE @ np.random.default_rng(5).standard_normal(40)
    assert make_pipeline(estimator(), Ridge(1e-6)).fit(X, y).score(X, y) > 0.99
    search = GridSearchCV(estimator(), {"max_rank": [1, 4]}, cv=3).fit(X)
    assert search.best_params_ == {"max_rank": 4}
    assert search.best_score_ > 0.99


def test_set_output():
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(40)], index=[f"r{i}" for i in range(60)])
    filled = estimator().set_output(transform="pandas").fit(frame).transform(frame)
    assert isinstance(filled, pd.DataFrame)
    assert list(filled.columns) == list(frame.columns)
    assert list(filled.index) == list(frame.index)


@pytest.mark.parametrize("settings", [{}, {"fit_bias": True}, {"solver": "als"}])
def test_what_is_constant_leaves_no_low_rank_part(settings):
    holes = with_holes(np.full((12, 8), 3.0 if settings.get("fit_bias") else 0.0), 0.7)
    model = estimator(max_rank=2, clip=None, **settings).fit(holes)
    finite = [tensor.isfinite().all() for name, tensor in model.model_.tensors().items() if name != "shrink"]
    assert all(finite)
    whole = np.nan_to_num(holes, nan=np.nanmax(holes))
    np.testing.assert_allclose(model.transform(holes), whole, atol=1e-12)
    np.testing.assert_allclose(model.partial_fit(holes).transform(holes), whole, atol=1e-12)


def test_chance_may_hold_out_all_entries():
    model = estimator(max_rank=1, validation_fraction=0.999).fit([[3.0]])
    np.testing.assert_allclose(model.entries([0], [0]), 3.0, rtol=1e-5)
    assert np.isnan(model.validation_error_)


@pytest.mark.parametrize(
    ("height", "width", "entries", "expected"),
    [
        (100, 80, 4000, 22),
        (50, 3, 150, 2),
        (10**4, 10**4, 10**7, 64),
        (10**5, 10**5, 10**7, 16),
        (8 * 10**4, 8 * 10**4, 10**7, 20),
        (10**7, 10**5, 10**9, 16),
    ],
)
def test_auto_starts_from_what_entries_settle_and_memory_holds(height, width, entries, expected):
    from corefold.completion.settings import start_rank

    assert start_rank("auto", height, width, entries) == expected
