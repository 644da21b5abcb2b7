"""Tables of features as users have them: types of cells, dates, and lines found by label or in their order."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from corefold.completion import DeepMatrixCompletion
from corefold.completion.feature_encoding import FeatureEncoder
from corefold.completion.feature_tables import FeatureTable, numbers_or_words

pytestmark = pytest.mark.filterwarnings("ignore:.*have no observed entry")

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 24, 6
FEATURES = RNG.normal(size=(HEIGHT, 2))
WHOLE = FEATURES @ RNG.normal(size=(2, WIDTH)) + 0.1 * RNG.normal(size=(HEIGHT, WIDTH))
ROWS, COLUMNS = (RNG.random(WHOLE.shape) < 0.7).nonzero()
VALUES = WHOLE[ROWS, COLUMNS]
HOLES = np.full(WHOLE.shape, np.nan)
HOLES[ROWS, COLUMNS] = VALUES
DAYS = pd.date_range("2024-01-30", periods=HEIGHT)


def encoded(model):
    """The features of the rows, whose directions have signs of their own."""
    return np.abs(model.model_.main.cold.effects.row_features.numpy())


def fitted(X, **options):
    return DeepMatrixCompletion(1, solver="als", candidates="low_rank", random_state=0).fit(X, **options)


@pytest.fixture(scope="module")
def right():
    return encoded(fitted(HOLES, row_features=FEATURES))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1, pd.NA, 3], dtype=object),
        pd.Series([Decimal("1"), None, Decimal("3")], dtype=object),
        pd.Series([True, None, 3], dtype=object),
        pd.Series([dt.date(1970, 1, 2), None, dt.date(1970, 1, 4)], dtype=object),
        pd.Series([dt.datetime(1970, 1, 2), pd.NaT, pd.Timestamp("1970-01-04")], dtype=object),
        pd.Series(pd.to_datetime(["1970-01-02", None, "1970-01-04"])).dt.tz_localize("UTC"),
        pd.Series(pd.to_timedelta([1, None, 3], unit="D")),
        pd.Series([dt.timedelta(days=1), None, dt.timedelta(days=3)], dtype=object),
        *(
            np.array(["1970-01-02", "NaT", "1970-01-04"], dtype=f"M8[{unit}]")
            for unit in ("D", "s", "ms", "us", "ns")
        ),
        *(np.array([1, "NaT", 3], dtype="m8[D]").astype(f"m8[{unit}]") for unit in ("h", "ns")),
        np.array([np.datetime64("1970-01-02"), np.datetime64("NaT"), np.datetime64("1970-01-04")], object),
        np.array([np.timedelta64(1, "D"), np.timedelta64("NaT"), dt.timedelta(days=3)], object),
        pd.Series([Fraction(1), None, Fraction(3)], dtype=object),
    ],
    ids=lambda column: str(column.dtype),
)
def test_cells_that_are_numbers(column):
    np.testing.assert_array_equal(numbers_or_words(column), [1, np.nan, 3])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series([1, 2, None], dtype="category"), ["1", "2", ""]),
        (pd.Series(DAYS[:2]).astype("category"), ["2024-01-30", "2024-01-31"]),
        (pd.Series(["3", pd.NA, "x"], dtype="string"), ["3", "", "x"]),
        (pd.Series([1, "x", np.nan], dtype=object), ["1", "x", ""]),
        (np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_cells_that_are_words(column, words):
    assert numbers_or_words(column).tolist() == words


def test_lists_and_masked_arrays_keep_their_cells():
    listed = FeatureTable.of("row", [[1, "a"], [2.5, "b"]])
    assert (listed.columns[0].tolist(), listed.columns[1].tolist()) == ([1.0, 2.5], ["a", "b"])
    masked = FeatureTable.of("row", np.ma.masked_array([[1, 2], [3, 4]], [[0, 1], [0, 0]]))
    np.testing.assert_array_equal(masked.columns[1], [np.nan, 4])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pd.DataFrame([[1, 2]] * HEIGHT, columns=["a", "a"]), "several columns with the name 'a'"),
        (pd.DataFrame([[1, 2]] * HEIGHT, columns=["1", 1]), "several columns with the name '1'"),
        (
            pd.DataFrame({"a": FEATURES[:, 0]}, index=[*"abcdefghijklmnopqrstuvw", None]),
            "no label in line 24",
        ),
        (pd.DataFrame({"a": FEATURES[:2, 0]}, index=["", "b"]), "no label in line 1"),
        (
            pd.DataFrame({"a": FEATURES[:2, 0]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", None)])),
            "no label in line 2",
        ),
        (pd.DataFrame({"tags": [["x"], ["y"]]}), "column 'tags' has a cell of type list"),
        (pd.DataFrame({"tags": [np.zeros(2), np.zeros(2)]}), "column 'tags' has a cell of type ndarray"),
        (pd.DataFrame({"z": [1j, 2]}), "column 'z' has a cell of type complex"),
        (pd.DataFrame({"size": [10**400, 1]}), "column 'size' contains an infinity"),
        (pd.Series(FEATURES[:, 0]), "must be a frame or a matrix"),
        ({"a": [1]}, "must be a frame or a matrix"),
        ([[1], [2, 3]], "must be a frame or a matrix"),
    ],
)
def test_tables_that_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        fitted(HOLES, row_features=given)


def test_dates_mean_the_same_in_every_unit():
    fit = FeatureTable.of("row", pd.DataFrame({"day": DAYS.to_numpy("M8[s]"), "n": FEATURES[:, 0]}))
    encoder = FeatureEncoder.of(fit, WIDTH)
    later = FeatureTable.of("row", pd.DataFrame({"day": [each.date() for each in DAYS], "n": FEATURES[:, 0]}))
    lines = np.arange(HEIGHT)
    np.testing.assert_allclose(encoder.encode(later, lines), encoder.encode(fit, lines))


def test_columns_that_are_missing_throughout_are_average():
    words = pd.DataFrame({"word": ["a", "b"] * (HEIGHT // 2), "n": FEATURES[:, 0]})
    encoder = FeatureEncoder.of(FeatureTable.of("row", words), WIDTH)
    for gone in (np.nan, None, pd.NA):
        none = FeatureTable.of("row", words.assign(word=gone, n=gone))
        assert not encoder.encode(none, np.arange(HEIGHT)).any()


def test_columns_of_which_nothing_is_left_are_average_in_every_type():
    numbers = pd.DataFrame({"day": DAYS, "n": FEATURES[:, 0]})
    encoder = FeatureEncoder.of(FeatureTable.of("row", numbers), WIDTH)
    for gone in (pd.Categorical([None] * HEIGHT), [""] * HEIGHT, pd.Series([None] * HEIGHT, dtype="string")):
        none = FeatureTable.of("row", numbers.assign(day=gone, n=np.nan))
        assert not encoder.encode(none, np.arange(HEIGHT)).any()


def test_whole_numbers_that_are_labels_do_not_lengthen_the_matrix(right):
    frame = pd.DataFrame({"user": 1000 * (ROWS + 1), "item": COLUMNS, "value": VALUES})
    features = pd.DataFrame(FEATURES, index=1000 * np.arange(1, HEIGHT + 1)).iloc[::-1]
    model = fitted(frame, columns=("user", "item", "value"), row_features=features)
    np.testing.assert_allclose(encoded(model), right)
    assert len(model.row_labels_) == HEIGHT


def test_places_that_are_not_in_the_features_are_refused_and_those_beyond_a_shape_said():
    features = pd.DataFrame(FEATURES)
    triples = (ROWS, COLUMNS, VALUES)
    with pytest.raises(ValueError, match="no row of the data is in the index of row_features: 0 is not"):
        fitted(triples, row_features=features.set_axis(np.arange(HEIGHT) + 1000))
    more = pd.concat([features, features.iloc[:2].set_axis([30.0, 31.0])])
    with pytest.warns(UserWarning, match="2 of 26 lines of row_features belong to no row .* a larger shape"):
        fitted(triples, shape=WHOLE.shape, row_features=more)


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_durations_are_labels_in_every_unit(right, unit):
    hours = np.arange(HEIGHT).astype("m8[h]")
    features = pd.DataFrame(FEATURES, index=hours.astype(f"m8[{unit}]")).iloc[::-1]
    for part in (hours[ROWS], pd.Series(hours.astype("m8[ns]")[ROWS])):
        model = fitted((part, COLUMNS, VALUES), row_features=features)
        np.testing.assert_allclose(encoded(model), right)
        assert model.row_labels_[10] == dt.timedelta(hours=10)
        np.testing.assert_array_equal(
            model.entries(pd.to_timedelta([2, 3], unit="h"), [0, 1]), model.entries(hours[2:4], [0, 1])
        )


def test_pairs_are_labels(right):
    index = pd.MultiIndex.from_arrays([["a"] * HEIGHT, DAYS])
    features = pd.DataFrame(FEATURES, index=pd.MultiIndex.from_arrays([["a"] * HEIGHT, DAYS.date]))
    np.testing.assert_allclose(
        encoded(fitted(pd.DataFrame(HOLES, index=index), row_features=features.iloc[::-1])), right
    )


def test_triples_find_lines_by_the_integers_of_an_index(right):
    features = pd.DataFrame(FEATURES)
    shuffled = features.sample(frac=1, random_state=0)
    np.testing.assert_allclose(encoded(fitted((ROWS, COLUMNS, VALUES), row_features=shuffled)), right)
    with pytest.warns(UserWarning, match="1 of 24 rows are not in row_features, the first is 3"):
        without = encoded(fitted((ROWS, COLUMNS, VALUES), row_features=features.drop(3)))
    assert not without[3].any()
    more = pd.concat([features, features.iloc[:2].set_axis([30, 31])])
    with pytest.warns(UserWarning, match="6 of 32 rows are not in row_features, the first is 24"):
        longer = fitted((ROWS, COLUMNS, VALUES), row_features=more)
    assert longer.entries([31], [0]).shape == (1,)


def test_arrays_take_lines_in_their_order_and_say_so(right):
    features = pd.DataFrame(FEATURES).set_axis(RNG.permutation(HEIGHT))
    with pytest.warns(UserWarning, match="taken in their order"):
        np.testing.assert_allclose(encoded(fitted(HOLES, row_features=features)), right)


def test_dates_are_labels_in_every_type(right):
    frame = pd.DataFrame({"day": DAYS[ROWS], "sensor": COLUMNS, "value": VALUES})
    long = {"columns": ("day", "sensor", "value")}
    for days in (
        DAYS,
        DAYS.to_numpy("M8[s]"),
        [each.date() for each in DAYS],
        [str(each.date()) for each in DAYS],
    ):
        features = pd.DataFrame(FEATURES, index=days).iloc[::-1]
        model = fitted(frame, **long, row_features=features)
        np.testing.assert_allclose(encoded(model), right)
        assert model.row_labels_[0] == "2024-01-30"
        np.testing.assert_array_equal(
            model.entries(days[:2], [0, 1]), model.entries(["2024-01-30", "2024-01-31"], [0, 1])
        )
    wide = pd.DataFrame(HOLES, index=DAYS)
    np.testing.assert_allclose(encoded(fitted(wide, row_features=features)), right)


def test_labels_of_which_none_is_in_the_features_are_refused():
    frame = pd.DataFrame({"user": [f"u{row}" for row in ROWS], "item": COLUMNS, "value": VALUES})
    features = pd.DataFrame(FEATURES)
    with pytest.raises(
        ValueError, match="no row of the data is in the index of row_features: 'u0' is not among 0"
    ):
        fitted(frame, columns=("user", "item", "value"), row_features=features)
    triples = (frame["user"].tolist(), COLUMNS, VALUES)
    with pytest.raises(ValueError, match="no row of the data is in the index"):
        fitted(triples, row_features=features)


def test_a_side_of_places_is_as_long_as_its_features():
    users = [f"u{row}" for row in ROWS]
    model = fitted((users, COLUMNS, VALUES), column_features=RNG.normal(size=(WIDTH + 2, 2)))
    assert model.entries(["u1"], [WIDTH + 1]).shape == (1,)


def test_lines_beyond_a_frame_are_said():
    wide = pd.DataFrame(HOLES, index=[f"u{row}" for row in range(HEIGHT)])
    features = pd.DataFrame(FEATURES, index=wide.index)
    more = pd.concat([features, features.iloc[:1].set_axis(["new"])])
    with pytest.warns(
        UserWarning, match="1 of 25 lines of row_features belong to no row of the data, .* 'new'"
    ):
        model = fitted(wide, row_features=more)
    wide.loc["new"] = np.nan
    assert len(fitted(wide, row_features=more).model_.factors.u) == len(model.model_.factors.u) + 1


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT])
def test_labels_that_are_missing_are_refused(gap):
    users = pd.Series([f"u{row}" for row in ROWS], dtype=object)
    users[2] = gap
    with pytest.raises(ValueError, match="no label at place 2"):
        fitted((users, COLUMNS, VALUES))
