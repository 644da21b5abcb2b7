"""Entries with labels in Python, and what looks like a matrix and is none."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from observations import low_rank, with_holes

from corefold.completion import DeepMatrixCompletion

WHOLE = low_rank(20, 12, 1) + 3
HOLES = with_holes(WHOLE, 0.7)
SEEN = ~np.isnan(HOLES)
ROWS, COLUMNS = SEEN.nonzero()
USERS = np.array([f"u{place:02}" for place in range(20)], dtype=object)
ITEMS = np.array([f"i{place:02}" for place in range(12)], dtype=object)
LONG = pd.DataFrame({"user": USERS[ROWS], "item": ITEMS[COLUMNS], "rating": HOLES[SEEN]})
TRIPLES = (list(USERS[ROWS]), list(ITEMS[COLUMNS]), list(HOLES[SEEN]))


def estimator(**settings):
    return DeepMatrixCompletion(**{"max_rank": 2, "random_state": 0, **settings})


@pytest.fixture(scope="module")
def by_place():
    return estimator().fit(HOLES)


FORMS = {
    "lists": (TRIPLES, {}),
    "arrays": (tuple(np.array(part) for part in TRIPLES), {}),
    "series": (tuple(LONG[name] for name in LONG), {}),
    "categories": ((LONG["user"].astype("category"), LONG["item"].astype("category"), LONG["rating"]), {}),
    "a shuffled frame": (LONG.sample(frac=1, random_state=1), {"columns": ("user", "item", "rating")}),
    "a wider frame": (
        LONG.assign(when=1)[["when", "rating", "item", "user"]],
        {"columns": ["user", "item", "rating"]},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_give_what_places_give(form, by_place, tmp_path):
    X, options = FORMS[form]
    model = estimator().fit(X, **options)
    assert list(model.row_labels_) == list(USERS)
    assert list(model.column_labels_) == list(ITEMS)
    assert list(model.get_feature_names_out()) == list(ITEMS)
    expected = by_place.entries([3, 7], [1, 2])
    np.testing.assert_array_equal(model.entries(["u03", "u07"], ["i01", "i02"]), expected)
    np.testing.assert_allclose(model.transform(X), by_place.transform(HOLES), rtol=1e-12)
    model.save(tmp_path / "m.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(loaded.entries(["u03", "u07"], ["i01", "i02"]), expected)
    for one, other in zip(loaded.recommend(["u03"], 4), model.recommend(["u03"], 4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whole_numbers_in_a_frame_are_labels_and_in_triples_places():
    frame = LONG.assign(user=1000 * (ROWS + 1), item=np.uint32(5) + COLUMNS)
    model = estimator().fit(frame, columns=("user", "item", "rating"))
    assert list(model.row_labels_) == [1000 * (place + 1) for place in range(20)]
    assert model.entries(3000, 6).shape == (1,)
    assert not hasattr(estimator().fit((ROWS, COLUMNS, HOLES[SEEN])), "row_labels_")


def test_a_batch_has_its_own_rows_and_the_columns_of_the_fit():
    model = estimator().fit(TRIPLES)
    model.partial_fit((["new"] * 3, ["i00", "i01", "i02"], WHOLE[0, :3]))
    assert list(model.row_labels_) == ["new"]
    assert model.entries("new", "i11").shape == (1,)
    with pytest.raises(ValueError, match="column label 'other' is not among the 12"):
        model.transform((["a"], ["other"], [1.0]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_unsigned_places_are_places(dtype, by_place):
    model = estimator().fit((ROWS.astype(dtype), COLUMNS.astype(dtype), HOLES[SEEN]))
    np.testing.assert_array_equal(model.entries([3], [1]), by_place.entries([3], [1]))
    coo = sp.coo_array((HOLES[SEEN], (ROWS.astype(dtype), COLUMNS.astype(dtype))), shape=HOLES.shape)
    np.testing.assert_array_equal(estimator().fit(coo).entries([3], [1]), by_place.entries([3], [1]))


def test_a_label_that_the_fit_does_not_have_gets_a_mean_and_a_warning():
    model = estimator().fit(TRIPLES)
    with (
        pytest.warns(
            UserWarning, match=r"2 rows are not in the data fitted, the first is 'eve'; column means"
        ),
        pytest.warns(
            UserWarning, match=r"2 columns are not in the data fitted, the first is 'new'; row means"
        ),
    ):
        got = model.entries(["eve", "u01", "eve"], ["i03", "new", "new"])
    expected = [np.nanmean(HOLES[:, 3]), np.nanmean(HOLES[1]), np.nanmean(HOLES)]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    with pytest.warns(UserWarning, match="column means put their columns in order"):
        columns, _ = model.recommend("eve", 3)
    assert list(columns[0]) == list(ITEMS[np.argsort(-np.nanmean(HOLES, 0))[:3]])


def test_recommend_ranks_what_is_not_observed(by_place):
    everything = by_place.entries(np.repeat(np.arange(20), 12), np.tile(np.arange(12), 20)).reshape(20, 12)
    columns, values = by_place.recommend(np.arange(20), 12)
    for row in range(20):
        missing = np.flatnonzero(~SEEN[row])
        best = missing[np.argsort(-everything[row, missing], kind="stable")]
        assert list(columns[row, : len(best)]) == list(best)
        assert (columns[row, len(best) :] == -1).all()
        assert np.isnan(values[row, len(best) :]).all()
    columns, values = by_place.recommend([5], 3, exclude_observed=False)
    assert list(columns[0]) == list(np.argsort(-everything[5], kind="stable")[:3])
    np.testing.assert_allclose(values[0], np.sort(everything[5])[::-1][:3], rtol=1e-12)
    with pytest.raises(ValueError, match="rows must lie between 0 and 19"):
        by_place.recommend([20])
    with pytest.raises(ValueError, match="n must be an integer of 1 or more"):
        by_place.recommend([0], 0)


def test_values_that_are_all_equal_put_nothing_in_order():
    with pytest.warns(UserWarning, match=r"all \d+ values are 1; .*implicit feedback"):
        model = estimator().fit((ROWS, COLUMNS, np.ones(len(ROWS))))
    with pytest.raises(ValueError, match=r"observed values are 1; .*as 0"):
        model.recommend([0])


@pytest.mark.parametrize(("rule", "value"), [("mean", 2.0), ("last", 3.0), ("first", 1.0)])
def test_duplicates_count_as_asked(rule, value):
    X = ([0, *ROWS, 0], [0, *COLUMNS, 0], [1.0, *HOLES[SEEN], 3.0])
    keep = np.array([True, *((ROWS != 0) | (COLUMNS != 0)), True])
    X = tuple(np.array(part)[keep] for part in X)
    with pytest.warns(UserWarning, match="1 entries are given more than once"):
        model = estimator().fit(X, duplicates=rule)
    np.testing.assert_allclose(model.means_.row[0], np.mean([value, *HOLES[0, 1:][SEEN[0, 1:]]]))
    with pytest.raises(ValueError, match="the first in row 0 and column 0"):
        estimator().fit(X, duplicates="error")
    with pytest.raises(ValueError, match="duplicates must be one of"):
        estimator().fit(X, duplicates="sum")


def read_only():
    parts = tuple(part.copy() for part in (ROWS, COLUMNS, HOLES[SEEN]))
    for part in parts:
        part.flags.writeable = False
    return parts


SAME = {
    "a masked array": (np.ma.masked_array(np.nan_to_num(HOLES), ~SEEN), {}),
    "a masked array with a mask of NaN": (np.ma.masked_invalid(HOLES), {}),
    "a mask of 0 and 1": (np.nan_to_num(HOLES), {"mask": SEEN.astype(int)}),
    "a sparse mask": (np.nan_to_num(HOLES), {"mask": sp.csr_array(SEEN)}),
    "frames": (pd.DataFrame(np.nan_to_num(HOLES)), {"mask": pd.DataFrame(SEEN)}),
    "sparse columns": (pd.DataFrame(HOLES).astype(pd.SparseDtype(float, np.nan)), {}),
    "nullable columns": (pd.DataFrame(HOLES).convert_dtypes(), {}),
    "read-only columns": (read_only(), {}),
    "columns of pandas": (
        tuple(pd.DataFrame({"r": ROWS, "c": COLUMNS, "v": HOLES[SEEN]})[n] for n in "rcv"),
        {},
    ),
    "masked triples": (
        (
            np.append(ROWS, 0),
            np.append(COLUMNS, 0),
            np.ma.masked_array([*HOLES[SEEN], 9], [*(ROWS < 0), True]),
        ),
        {},
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_what_says_what_is_observed_is_honoured(case, by_place):
    X, options = SAME[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "X has sparse columns")
        model = estimator().fit(X, **options)
    np.testing.assert_array_equal(model.entries([3, 4], [1, 2]), by_place.entries([3, 4], [1, 2]))


@pytest.mark.parametrize("gap", [None, pd.NA, np.nan, np.ma.masked])
def test_values_that_are_missing_are_gaps_beside_labels(gap, by_place):
    rows, columns, values = (*TRIPLES[0], "u00"), (*TRIPLES[1], "i00"), np.ma.array([*TRIPLES[2], 9.0])
    if gap is np.ma.masked:
        values[-1] = gap
    else:
        values = np.array([*TRIPLES[2], gap], dtype=object)
    model = estimator().fit((rows, columns, values))
    np.testing.assert_array_equal(model.entries(["u03"], ["i01"]), by_place.entries([3], [1]))


REFUSED = {
    "a mask of NaN": (WHOLE, {"mask": np.where(SEEN, 1.0, np.nan)}, "mask must hold truth values"),
    "a mask of -1": (WHOLE, {"mask": np.where(SEEN, 1, -1)}, "mask must hold truth values"),
    "a mask of text": (WHOLE, {"mask": np.where(SEEN, "True", "False")}, "mask must hold truth values"),
    "a masked mask": (WHOLE, {"mask": np.ma.masked_array(SEEN, ~SEEN)}, "mask is a masked array"),
    "two masks": (np.ma.masked_invalid(HOLES), {"mask": SEEN}, "no mask beside it"),
    "a mask in another order": (
        pd.DataFrame(WHOLE), {"mask": pd.DataFrame(SEEN)[[*range(11, -1, -1)]]}, "in the same order"),
    "a long frame of text": (LONG, {}, r"pass columns=\('user', 'item', 'rating'\)"),
    "a long frame of numbers": (LONG.assign(user=ROWS, item=COLUMNS), {}, r"pass columns=\('user', 'item', 'rating'\)"),
    "a list of three": ([list(ROWS), list(COLUMNS), list(HOLES[SEEN])], {}, "a list of three"),
    "a list of three arrays": ([ROWS, COLUMNS, HOLES[SEEN]], {}, "a list of three"),
    "a list of tuples": (list(zip(ROWS, COLUMNS, HOLES[SEEN], strict=True)), {}, "a list of tuples"),
    "a pair": ((ROWS, COLUMNS), {}, "got a tuple of 2"),
    "a label that is missing": ((["a", None], ["x", "y"], [1.0, 2.0]), {}, "rows of triples have no label at place 1"),
    "a name that is no column": (LONG, {"columns": ("user", "item", "stars")}, "no column 'stars'"),
    "two names": (LONG, {"columns": ("user", "item")}, "columns must name three"),
    "columns of an array": (HOLES, {"columns": ("a", "b", "c")}, "columns goes with a frame"),
    "labels and a shape": (TRIPLES, {"shape": (20, 12)}, "shape takes rows and columns by place"),
    "lengths": ((["a", "b"], ["x"], [1.0, 2.0]), {}, "lengths 2, 1 and 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_matrix_is_refused(case):
    X, options, says = REFUSED[case]
    with pytest.raises(ValueError, match=says):
        estimator().fit(X, **options)


def test_a_marker_of_gaps_is_said():
    X = np.where(SEEN, WHOLE, -999)
    X[0, 0] = np.nan
    with pytest.warns(UserWarning, match=r"entries are -999, far from the next value"):
        estimator().fit(X)
