"""`partial_fit`: the factors after each batch are the SVD of the matrix that `entries` sees, and rows fold in as before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from observations import fitted, low_rank, relative, with_holes

from corefold.completion import DeepMatrixCompletion
from laws import orthonormal_columns

WHOLE = low_rank(150, 24, 4, condition=3.0)
NOISY = WHOLE + 0.1 * np.random.default_rng(1).standard_normal(WHOLE.shape)
HOLES = with_holes(NOISY, 0.6)
NOISY_RANK_2 = low_rank(60, 40, 2) + 0.1 * np.random.default_rng(1).standard_normal((60, 40))
# Batches in general position, after the 60 rows of the fit: many rows, fewer than columns, fewer than the rank, one.
BATCHES = [HOLES[60:120], HOLES[120:135], HOLES[135:138], HOLES[138:139]]


def unfitted(**settings):
    return DeepMatrixCompletion(
        **{"max_rank": 6, "random_state": 0, "clip": None, "candidates": "low_rank", **settings}
    )


def estimator(**settings):
    return unfitted(**settings).fit(HOLES[:60])


@pytest.fixture(scope="module", params=[{}, {"fit_bias": True}, {"solver": "als"}], ids=str)
def fit(request):
    return estimator(**request.param)


@pytest.fixture
def model(fit):
    return copy.deepcopy(fit)


def low_rank_part(model, shape):
    """The fitted matrix less its biases, by single entries."""
    biases = model.model_.biases
    return fitted(model, shape) - (biases.mean + biases.row[:, None] + biases.column).numpy()


def test_factors_are_the_svd_of_the_last_batch(model):
    rank = model.rank_
    for batch in BATCHES:
        model.partial_fit(batch)
        u, s, vh = np.linalg.svd(low_rank_part(model, batch.shape), full_matrices=False)
        assert model.rank_ == len(model.singular_values_) == min(rank, len(batch))
        np.testing.assert_allclose(model.singular_values_, s[: model.rank_], rtol=1e-10, atol=1e-12 * s[0])
        orthonormal_columns(model.model_.factors.u, 1e-10)
        orthonormal_columns(model.model_.factors.v, 1e-10)
        np.testing.assert_allclose(
            model.components_.T @ model.components_,
            vh[: model.rank_].T @ vh[: model.rank_],
            atol=1e-7,  # to within the gaps between singular values
        )
        np.testing.assert_allclose(
            model.model_.factors.u @ model.model_.factors.u.mT,
            u[:, : model.rank_] @ u[:, : model.rank_].T,
            atol=1e-7,
        )


def test_entries_are_what_the_batch_folds_in_to(model):
    for batch in BATCHES:
        model.partial_fit(batch)
        gaps = np.isnan(batch)
        np.testing.assert_allclose(
            fitted(model, batch.shape)[gaps], model.transform(batch)[gaps], rtol=1e-9, atol=1e-11
        )


def test_a_batch_of_few_rows_forgets_no_direction(model):
    before = model.transform(HOLES[100:])
    after = model.partial_fit(HOLES[138:139]).transform(HOLES[100:])
    assert model.rank_ == 1
    assert relative(after, before) < 0.05


def dense_partial_fit(loadings, scales, ridge, grams, batch, sweeps=3):
    """Row by row and column by column, for a model without biases and variances."""
    there, values, before = ~np.isnan(batch), np.nan_to_num(batch), loadings

    def coordinates(loadings):
        return np.stack(
            [
                np.linalg.solve(loadings[own].T @ loadings[own] + np.diag(ridge), loadings[own].T @ row[own])
                for own, row in zip(there, values, strict=True)
            ]
        )

    for _ in range(sweeps):
        rows = coordinates(loadings)
        moved = []
        for column, own in enumerate(there.T):
            gram = grams[column] + rows[own].T @ rows[own] + np.diag(ridge * scales**2)
            right = rows[own].T @ values[own, column]
            right = right + (grams[column] + np.diag(ridge * scales**2)) @ before[column]
            moved.append(np.linalg.solve(gram, right))
        loadings = np.stack(moved)
    rows = coordinates(loadings)
    grams = np.stack([gram + rows[own].T @ rows[own] for gram, own in zip(grams, there.T, strict=True)])
    return rows @ loadings.T, loadings, grams


def test_each_batch_is_the_dense_recursive_least_squares():
    from corefold.completion.solvers import ALS

    model = estimator(fit_bias=False, solver=ALS(0.5))
    regression = model.model_.main.regression
    loadings, scales, ridge = (getattr(regression, name).numpy() for name in ("loadings", "scales", "ridge"))
    grams = model.model_.main.column_shares.numpy()[:, None, None] * np.diag(scales**2)
    for batch in BATCHES:
        expected, loadings, grams = dense_partial_fit(loadings, scales, ridge, grams, batch)
        assert relative(fitted(model.partial_fit(batch), batch.shape), expected) < 1e-8


def test_saved_after_a_batch_it_goes_on_as_it_was(model, tmp_path):
    model.partial_fit(BATCHES[0]).partial_fit(BATCHES[2])
    model.save(tmp_path / "model.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "model.safetensors")
    assert torch.equal(torch.from_numpy(loaded.singular_values_), torch.from_numpy(model.singular_values_))
    np.testing.assert_array_equal(loaded.transform(HOLES), model.transform(HOLES))
    np.testing.assert_array_equal(fitted(loaded, (3, 24)), fitted(model, (3, 24)))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    loaded.partial_fit(BATCHES[1])
    assert relative(loaded.transform(HOLES), model.partial_fit(BATCHES[1]).transform(HOLES)) < 0.05


def test_learning_that_would_not_fit_is_refused(model, monkeypatch):
    from corefold.completion import estimator as module

    monkeypatch.setattr(module, "WORKING_GRAMS", 10**12)
    with pytest.raises(
        MemoryError, match=r"learning 24 columns at rank \d would take .* fit with a lower max_rank"
    ):
        model.partial_fit(BATCHES[0])


def test_partial_fit_of_two_halves_is_close_to_a_fit_of_all():
    whole = low_rank(240, 30, 3)
    noisy = whole + 0.2 * np.random.default_rng(1).standard_normal(whole.shape)
    holes = with_holes(noisy, 0.5)
    first = unfitted().fit(holes[:120])
    streamed = unfitted().partial_fit(holes[:120]).partial_fit(holes[120:])
    together = unfitted().fit(holes)

    def error(model):
        return relative(model.transform(holes)[np.isnan(holes)], whole[np.isnan(holes)])

    assert error(streamed) < error(first)
    assert error(streamed) < 1.1 * error(together)
    assert fitted(streamed, (120, 30)).shape == (120, 30)  # the last batch


def test_partial_fit_remembers_what_was_held_out():
    holes = with_holes(NOISY_RANK_2, 0.5)
    model = unfitted(validation_fraction=0.5, fit_bias=False, max_iter=1).fit(holes)
    np.testing.assert_allclose(model.model_.main.column_shares, (~np.isnan(holes)).mean(0), rtol=1e-12)


def test_partial_fit_knows_no_units():
    holes, found = with_holes(NOISY_RANK_2, 0.5), []
    for unit in (1.0, 1e-9, 1e9):
        model = unfitted(max_rank=2, fit_bias=False, max_iter=5).fit(unit * holes[:40])
        before = model.components_
        found.append(model.partial_fit(unit * holes[40:]).components_)
        assert relative(found[-1], before) > 1e-2
        assert relative(found[-1], found[0]) < 1e-8
