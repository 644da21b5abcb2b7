"""`corefold complete` on what users bring: labels, keys, unknown labels, duplicates, and what is no matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from completing import LABELS, SEEN, STREAM, WIDE, X, done, filled, hasty, long_table, notes  # noqa: F401

from command import corefold, refused

pytestmark = pytest.mark.usefixtures("hasty")

USERS = [
    "007",
    "07",
    "7",
    "1e3",
    "1000",
    "1.1",
    "1.10",
    "9007199254740993",
    "9007199254740992",
    "TRUE",
    "2024-01-05",
]
ITEMS = ["978-0306406157", "0306406152", "NA", "None", "0x1F", "1_000"]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_labels_stay_as_they_are_written(tmp_path, name):
    table = long_table(USERS, ITEMS)
    path = tmp_path / name
    if name == "t.parquet":
        table.to_parquet(path)
    elif name == "t.jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if name == "t.tsv" else ",")
    out = filled(tmp_path, path, *LABELS)
    assert sorted(out["user"]) == sorted(USERS)
    assert sorted(out.columns[1:]) == sorted(ITEMS)
    done(path, *LABELS, "--top", 2, "-o", tmp_path / "top.jsonl")
    top = pd.read_json(tmp_path / "top.jsonl", lines=True, dtype=False)
    assert set(top["user"]) <= set(USERS)
    assert set(top["item"]) <= set(ITEMS)


def test_labels_of_a_wide_table_stay_as_they_are_written_and_numbers_keep_their_order(tmp_path):
    WIDE.assign(code=[f"{place:03}" for place in range(40)]).to_csv(tmp_path / "w.csv", index=False)
    out = filled(tmp_path, tmp_path / "w.csv", "--row", "code")
    assert list(out["code"]) == [f"{place:03}" for place in range(40)]
    table = long_table(["10", "9", "100", "ann"], [f"{2 * place}" for place in range(8)])
    table.to_csv(tmp_path / "t.csv", index=False)
    out = filled(tmp_path, tmp_path / "t.csv", *LABELS)
    assert list(out["user"]) == ["9", "10", "100", "ann"]
    assert list(out.columns[1:]) == ["0", "2", "4", "6", "8", "10", "12", "14"]


KEYS = {
    "id": np.arange(40),
    "a count from one": np.arange(1, 41),
    "unix time": 1_700_000_000 + 3600 * np.arange(40),
    "shuffled": np.random.default_rng(3).permutation(40) * 7 + 5,
    "timestamp": np.arange(40) / 4,
}


@pytest.mark.parametrize("name", KEYS)
def test_a_first_column_of_keys_labels_the_rows_and_a_note_says_so(tmp_path, name):
    table = WIDE.copy()
    table.insert(0, name, KEYS[name])
    table.to_csv(tmp_path / "w.csv", index=False)
    out = done(tmp_path / "w.csv", "-o", tmp_path / "filled.csv")
    assert f"column {name!r} is read as the labels of the rows" in notes(out)
    assert "--row none takes all columns as data" in notes(out)
    written = pd.read_csv(tmp_path / "filled.csv")
    np.testing.assert_array_equal(written[name], KEYS[name])
    assert written.shape == (40, 13)
    assert "40 x 12 entries" in out.out
    assert "40 x 13 entries" in done(tmp_path / "w.csv", "--row", "none", "--holdout", 0.1).out


@pytest.mark.parametrize(
    ("place", "name"), [(5, "user_id"), (3, "SampleID"), (12, "key")], ids=["id", "ID", "key"]
)
def test_a_named_key_labels_the_rows_wherever_it_stands(tmp_path, place, name):
    table = WIDE.copy()
    table.insert(place, name, np.arange(40) + 500)
    table.to_csv(tmp_path / "w.csv", index=False)
    out = done(tmp_path / "w.csv", "--holdout", 0.1)
    assert f"column {name!r} is read as the labels" in notes(out)
    assert "40 x 12 entries" in out.out


@pytest.mark.parametrize("name", ["score", "paid", "humid"])
def test_a_first_column_of_measurements_is_data(tmp_path, name):
    table = WIDE.rename(columns={"c0": name})
    table.to_csv(tmp_path / "w.csv", index=False)
    out = done(tmp_path / "w.csv", "--holdout", 0.1)
    assert "labels of the rows" not in out.out
    assert "40 x 12 entries" in out.out


def test_columns_of_words_are_named_with_the_options_for_them(tmp_path):
    table = WIDE.assign(name=[f"n{place}" for place in range(40)], town=["x", "y"] * 20)
    table.to_csv(tmp_path / "w.csv", index=False)
    refused(corefold("complete", tmp_path / "w.csv", "--holdout", 0.1), "'town'", "--drop town", "--row")
    out = done(tmp_path / "w.csv", "--drop", "town", "--holdout", 0.1)
    assert "column 'name' is read as the labels of the rows" in notes(out)
    out = done(tmp_path / "w.csv", "--drop", "town,name", "--drop", "c3", "--holdout", 0.1)
    assert "40 x 11 entries" in out.out
    refused(corefold("complete", tmp_path / "w.csv", "--drop", "city", "--holdout", 0.1), "no column 'city'")
    flags = ["--row", "name", "--drop", "name", "--holdout", 0.1]
    refused(corefold("complete", tmp_path / "w.csv", *flags), "--drop name")


def test_unknown_labels_are_predicted_by_means_and_said(tmp_path):
    table = long_table([f"u{place}" for place in range(12)], [f"i{place}" for place in range(8)])
    table.to_csv(tmp_path / "t.csv", index=False)
    wanted = pd.DataFrame({"user": ["u1", "eve", "u1", "eve"], "item": ["i2", "i2", "new", "new"]})
    wanted.to_csv(tmp_path / "wanted.csv", index=False)
    out = done(tmp_path / "t.csv", *LABELS, "--entries", tmp_path / "wanted.csv", "-o", tmp_path / "e.csv")
    assert "2 of 4 in column 'user' are not in" in notes(out)
    assert "'eve' in row 2; column means predict them" in notes(out)
    assert "'new' in row 3; row means predict them" in notes(out)
    found = pd.read_csv(tmp_path / "e.csv")
    of_item, of_user = (table.groupby(side)["rating"].mean() for side in ("item", "user"))
    expected = [of_item["i2"], of_user["u1"], table["rating"].mean()]
    np.testing.assert_allclose(found["rating"][1:], expected, rtol=1e-12)
    widths = found["upper"] - found["lower"]
    assert widths[1:].min() > widths[0] > 0  # What is known of neither row nor column is known less well.


@pytest.mark.parametrize("options", [["--top", 3], [], ["--holdout", 0.1]], ids=str)
def test_values_that_are_all_equal_are_refused_with_what_to_do(tmp_path, options):
    table = long_table([f"u{place}" for place in range(12)], [f"i{place}" for place in range(8)])
    table.assign(rating=1).to_csv(tmp_path / "t.csv", index=False)
    outcome = corefold("complete", tmp_path / "t.csv", *LABELS, *options, "-o", tmp_path / "f.csv")
    refused(outcome, "values are 1", "implicit feedback", "as 0")
    assert not (tmp_path / "f.csv").exists()


@pytest.mark.parametrize(("rule", "value"), [(None, 20.0), ("mean", 20.0), ("last", 10.0), ("first", 30.0)])
def test_duplicates_count_as_asked(tmp_path, rule, value):
    table = long_table([f"u{place}" for place in range(12)], [f"i{place}" for place in range(8)])
    again = pd.DataFrame({"user": ["u3", "u3"], "item": ["i0", "i0"], "rating": [30.0, 10.0]})
    table = table[(table["user"] != "u3") | (table["item"] != "i0")]
    pd.concat([again[:1], table, again[1:]]).to_csv(tmp_path / "t.csv", index=False)
    flags = [] if rule is None else ["--duplicates", rule]
    out = filled(tmp_path, tmp_path / "t.csv", *LABELS, *flags)
    assert float(out.set_index("user").loc["u3", "i0"]) == value
    outcome = corefold("complete", tmp_path / "t.csv", *LABELS, "--duplicates", "error", "--holdout", 0.1)
    refused(
        outcome, f"rows 1 and {len(table) + 2}", "user 'u3' and item 'i0'", "--duplicates mean, last or first"
    )
    outcome = corefold("complete", tmp_path / "t.csv", *LABELS, "--duplicates", "sum", "--holdout", 0.1)
    refused(outcome, "--duplicates must be one of mean, last, first, error")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8"])
def test_unsigned_places_in_npz_work(tmp_path, dtype):
    rows, columns = (part.astype(dtype) for part in SEEN.nonzero())
    np.savez(tmp_path / "t.npz", rows=rows, columns=columns, values=X[SEEN])
    out = done(tmp_path / "t.npz", "-o", tmp_path / "f.npz")
    assert f"{int(SEEN.sum())} of 40 x 12" in out.out


def test_small_files_of_entries_without_their_options_are_not_taken_for_a_matrix(tmp_path):
    table = long_table([str(place) for place in range(12)], [str(place) for place in range(8)])
    table.loc[3, "rating"] = np.nan
    table.to_csv(tmp_path / "t.csv", index=False)
    refused(
        corefold("complete", tmp_path / "t.csv", "--holdout", 0.1), "--row user --col item --value rating"
    )
