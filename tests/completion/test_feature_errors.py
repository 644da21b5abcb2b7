"""How sure predictions are in a fit with features: intervals, draws and scores of rows with and without features."""

from __future__ import annotations

import numpy as np
import pytest
from observations import low_rank

from corefold.completion import DeepMatrixCompletion

pytestmark = pytest.mark.filterwarnings("ignore:.*have no observed entry")

HEIGHT, WIDTH, COLD = 200, 20, 30
STREAM = np.random.default_rng(0)
FEATURES = STREAM.normal(size=(HEIGHT, 3))
WHOLE = 5 * FEATURES @ STREAM.normal(size=(3, WIDTH)) + low_rank(HEIGHT, WIDTH, 2)
WHOLE += 0.3 * STREAM.normal(size=WHOLE.shape)
HOLES = np.where(STREAM.random(WHOLE.shape) < 0.4, WHOLE, np.nan)
HOLES[: 2 * COLD] = np.nan
KNOWN = FEATURES.copy()
KNOWN[:COLD] = np.nan  # rows of which nothing is known, then those of which features are, then the others
ROWS = {"nothing": slice(0, COLD), "features": slice(COLD, 2 * COLD), "entries": slice(2 * COLD, HEIGHT)}


@pytest.fixture(scope="module")
def model():
    return DeepMatrixCompletion(random_state=0).fit(HOLES, row_features=KNOWN)


def covered(ends, truth):
    lower, upper = ends
    return ((lower <= truth) & (truth <= upper)).mean()


@pytest.mark.parametrize("known", ROWS)
def test_intervals_and_draws_cover_what_they_say(model, known):
    rows, columns = np.isnan(HOLES).nonzero()
    wanted = np.isin(rows, np.arange(HEIGHT)[ROWS[known]])
    rows, columns = rows[wanted], columns[wanted]
    truth = WHOLE[rows, columns]
    assert abs(covered(model.intervals(rows, columns, 0.9), truth) - 0.9) < 0.06
    drawn = model.sample(200, at=(rows, columns), random_state=0)
    assert abs(covered(np.quantile(drawn, [0.05, 0.95], axis=0), truth) - 0.9) < 0.06


def test_features_narrow_the_intervals_of_rows_without_an_entry(model):
    widths = [
        np.subtract(*model.intervals([row] * WIDTH, range(WIDTH))[::-1]) for row in (0, COLD, HEIGHT - 1)
    ]
    assert (widths[1] < widths[0] / 3).all()
    assert (widths[2] <= widths[1]).all()


def test_new_rows_without_features_vary_as_much_as_means_are_off(model):
    with pytest.warns(UserWarning, match="average ones"):
        drawn = model.sample(200, np.full((1, WIDTH), np.nan), random_state=0)[:, 0]
    assert abs(covered(np.quantile(drawn, [0.05, 0.95], axis=0), WHOLE) - 0.9) < 0.06


def test_a_file_keeps_the_widths(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "m.safetensors")
    places = [0, COLD, HEIGHT - 1], [0, 1, 2]
    np.testing.assert_array_equal(loaded.intervals(*places), model.intervals(*places))


def test_a_score_uses_the_features_of_rows(model):
    with_features = model.score(HOLES, row_features=KNOWN)
    with pytest.warns(UserWarning, match="average ones"):
        without = model.score(HOLES)
    assert with_features > max(without, 0.98)
