"""A fitted estimator in one file: loaded it answers the same bit for bit, and other files are refused."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from observations import every, low_rank, with_holes
from safetensors.torch import save_file

from corefold.completion import DeepMatrixCompletion
from corefold.completion.solvers import ALS, Schatten

X = with_holes(low_rank(60, 40, 2), 0.5)
NOISY = low_rank(60, 40, 2) + 0.1 * np.random.default_rng(1).standard_normal((60, 40))


def estimator(**settings):
    return DeepMatrixCompletion(**{"max_rank": 6, "random_state": 0, **settings})


SETTINGS = {
    "default": {},
    "bounds by column": {"clip": (np.zeros(40), np.ones(40)), "max_rank": np.int64(3)},
    "a scale": {"fit_bias": True},
    "a solver with settings": {"solver": Schatten(depth=4, products=20)},
    "als": {"solver": ALS(0.5)},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_save_and_load_bit_for_bit(tmp_path, monkeypatch, name, dtype):
    stars = with_holes(np.clip(np.round(NOISY * 2 + 3), 1, 5), 0.5).astype(dtype)
    frame = pd.DataFrame(stars, columns=[f"c{i}" for i in range(40)])
    model = estimator(**SETTINGS[name]).fit(frame)
    with monkeypatch.context() as forbidden:  # here only: numba reads its compiled loops by pickle
        for name in ("load", "loads", "dump", "dumps"):
            forbidden.setattr(pickle, name, None)
        model.save(tmp_path / "model.safetensors")
        loaded = DeepMatrixCompletion.load(tmp_path / "model.safetensors")
    rows, columns = every(stars.shape)
    np.testing.assert_array_equal(loaded.entries(rows, columns), model.entries(rows, columns))
    np.testing.assert_array_equal(loaded.transform(frame), model.transform(frame))
    np.testing.assert_array_equal(loaded.intervals(rows, columns, 0.8), model.intervals(rows, columns, 0.8))
    assert str(loaded.path_) == str(model.path_)
    assert loaded.solver == model.solver
    np.testing.assert_array_equal(loaded.get_feature_names_out(), model.get_feature_names_out())
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_other_files_are_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("neither")
    (tmp_path / "pickled").write_bytes(pickle.dumps({"a": 1}))
    for name in ("weights.safetensors", "text", "pickled"):
        with pytest.raises(ValueError, match=f"{name} is not a saved DeepMatrixCompletion"):
            DeepMatrixCompletion.load(tmp_path / name)


class Mine(ALS):
    pass


def test_a_solver_of_the_user_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match="got Mine, whose code it cannot keep"):
        estimator(solver=Mine()).fit(X).save(tmp_path / "model.safetensors")
