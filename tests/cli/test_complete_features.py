"""`corefold complete` with tables of features of rows and columns."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command import corefold, refused

LABELS = ["--row", "user", "--col", "item", "--value", "rating"]
STREAM = np.random.default_rng(0)
HEIGHT, WIDTH = 80, 30
AGE, FARMER = STREAM.normal(40, 10, HEIGHT), STREAM.random(HEIGHT) < 0.5
LENGTH = STREAM.normal(100, 20, WIDTH)
WHOLE = (
    3
    + np.outer((AGE - 40) / 10, STREAM.normal(size=WIDTH))
    + np.outer(FARMER - 0.5, 2 * STREAM.normal(size=WIDTH))
    + np.outer(STREAM.normal(size=HEIGHT), (LENGTH - 100) / 20)
    + 0.2 * STREAM.normal(size=(HEIGHT, WIDTH))
)
SEEN = STREAM.random(WHOLE.shape) < 0.5
SEEN[:5] = False


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rows, columns = SEEN.nonzero()
    ratings = pd.DataFrame({"user": [f"u{i:02}" for i in rows], "item": columns, "rating": WHOLE[SEEN]})
    ratings.to_csv(tmp_path / "ratings.csv", index=False)
    job = np.where(FARMER, "farmer", "fisher")
    users = pd.DataFrame({"user": [f"u{i:02}" for i in range(HEIGHT)], "age": AGE, "job": job})
    users.sample(frac=1, random_state=0).to_csv(tmp_path / "users.csv", index=False)
    pd.DataFrame({"code": range(WIDTH), "length": LENGTH}).to_csv(tmp_path / "items.csv", index=False)
    wanted = pd.DataFrame({"user": ["u00"] * WIDTH, "item": range(WIDTH)})
    wanted.to_csv(tmp_path / "wanted.csv", index=False)
    return tmp_path


def run(folder: Path, *more: object):
    return corefold("complete", folder / "ratings.csv", *LABELS, *more, "-o", folder / "out.csv", "--force")


def test_rows_that_only_the_features_have_are_predicted_from_them(files):
    entries = ["--entries", files / "wanted.csv"]
    run(files, *entries)
    means = pd.read_csv(files / "out.csv")["rating"]
    outcome = run(
        files, *entries, "--row-features", files / "users.csv", "--column-features", files / "items.csv"
    )
    assert "users.csv: 5 rows are not in" in outcome.out
    assert "their features alone predict them" in " ".join(outcome.out.split())
    assert (
        "items.csv: column 'code' is read as the labels of the columns, because it is the first"
        in " ".join(outcome.out.split())
    )
    table = pd.read_csv(files / "out.csv")
    ours, theirs = (np.sqrt(np.mean((each - WHOLE[0]) ** 2)) for each in (table["rating"], means))
    assert ours < 0.8 * theirs
    assert ((table["lower"] < table["rating"]) & (table["rating"] < table["upper"])).all()


def test_a_filled_table_has_the_rows_of_the_features(files):
    run(files, "--row-features", files / "users.csv")
    filled = pd.read_csv(files / "out.csv")
    assert len(filled) == HEIGHT
    assert set(filled["user"][-5:]) == {f"u0{i}" for i in range(5)}  # behind those with entries
    assert not filled.isna().any().any()


def test_rows_without_labels_are_in_the_order_of_the_features(files):
    wide = files / "wide.csv"
    pd.DataFrame(np.where(SEEN, WHOLE, np.nan)[5:]).add_prefix("c").to_csv(wide, index=False)
    numbers = files / "numbers.csv"
    pd.DataFrame({"age": AGE[5:]}).to_csv(numbers, index=False)
    done = corefold("complete", wide, "--row-features", numbers, "-o", files / "wide_out.csv")
    assert done.code == 0
    pd.DataFrame({"age": AGE}).to_csv(numbers, index=False)
    outcome = corefold("complete", wide, "--row-features", numbers, "-o", files / "none.csv")
    assert outcome.code == 2
    assert "80 lines for 75 rows" in outcome.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda users: users.assign(user="x" + users["user"]), "has none of the 75 labels of"),
        (lambda users: pd.concat([users, users[:1]]), "is twice in column 'user'"),
        (lambda users: users[["user"]], "has no column of features"),
        (lambda users: users.assign(user=users["user"].where(users["age"] < 50)), "is empty"),
        (lambda users: users.assign(age=users["age"].astype(str).mask(users.index == 7, "old")), "'old'"),
        (lambda users: users.assign(age=np.inf), "infinite"),
    ],
)
def test_bad_features_are_refused_in_one_line(files, change, words):
    change(pd.read_csv(files / "users.csv")).to_csv(files / "users.csv", index=False)
    outcome = run(files, "--row-features", files / "users.csv")
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (files / "out.csv").exists()


def test_features_go_with_a_file(tmp_path):
    outcome = corefold("complete", "--row-features", tmp_path / "users.csv", "-o", tmp_path / "folder")
    assert outcome.code == 2
    assert "--row-features goes with a file of ratings" in outcome.err


def test_no_file_that_is_read_is_overwritten(files):
    for option, name in (("--row-features", "users.csv"), ("--entries", "wanted.csv"), (None, "ratings.csv")):
        before = (files / name).read_bytes()
        read = [] if option is None else [option, files / name]
        command = ["complete", files / "ratings.csv", *LABELS, *read, "-o", files / name, "--force"]
        refused(corefold(*command), name, "is a file that is read; choose another name")
        assert (files / name).read_bytes() == before


def test_features_from_standard_input_are_named_so(files, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((files / "users.csv").read_bytes())))
    assert "standard input: 5 rows are not in" in run(files, "--row-features", "-").out


def test_standard_input_is_one_table(files):
    command = ["complete", "-", *LABELS, "--row-features", "-", "-o", files / "out.csv"]
    refused(corefold(*command), "RATINGS and --row-features are both -")
