"""`corefold complete --samples`: filled tables whose gaps are draws, and nothing replaced in silence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from completing import LABELS, SEEN, WIDE, done, long_table

from command import corefold


@pytest.fixture
def wide(tmp_path):
    noisy = WIDE + 0.3 * np.random.default_rng(5).standard_normal(WIDE.shape)
    noisy.round(4).to_csv(tmp_path / "in.csv", index=False)
    return tmp_path / "in.csv"


def refused(*arguments, says):
    outcome = corefold("complete", *arguments)
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert says in outcome.err


def test_samples_are_files_with_a_number(wide, tmp_path):
    outcome = done(wide, "--samples", 3, "-o", tmp_path / "out.csv.gz", "--seed", 4)
    assert "3 samples of the filled table" in outcome.out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.csv",
        *(f"out-{i}.csv.gz" for i in (1, 2, 3)),
    ]
    given, tables = pd.read_csv(wide), [pd.read_csv(tmp_path / f"out-{i}.csv.gz") for i in (1, 2, 3)]
    for table in tables:
        assert list(table.columns) == list(given.columns)
        np.testing.assert_array_equal(table.to_numpy()[SEEN], given.to_numpy()[SEEN])
        assert not table.isna().to_numpy().any()
    assert (tables[0].to_numpy() != tables[1].to_numpy())[~SEEN].all()
    done(wide, "--samples", 3, "-o", tmp_path / "again.csv", "--seed", 4)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again-2.csv"), tables[1])


def test_labels_come_first(tmp_path):
    users, items = [f"u{place:02}" for place in range(20)], [f"i{place}" for place in range(8)]
    long_table(users, items).to_csv(tmp_path / "long.csv", index=False)
    done(tmp_path / "long.csv", *LABELS, "--samples", 1, "-o", tmp_path / "s.parquet")
    table = pd.read_parquet(tmp_path / "s-1.parquet")
    assert list(table["user"]) == users
    assert list(table.columns[1:]) == items


def test_what_is_refused(wide, tmp_path):
    refused(wide, "--samples", 2, says="-o must name the file for the result")
    refused(wide, "--samples", 0, "-o", tmp_path / "out.csv", says="samples")
    refused(
        wide, "--samples", 2, "--top", 3, "-o", tmp_path / "o.csv", says="--top and --samples are two results"
    )
    refused("--samples", 2, says="--samples goes with a file of ratings, which is missing")
    refused(wide, "--samples", 1001, "-o", tmp_path / "o.csv", says="samples")
    (tmp_path / "out-2.csv").write_text("mine")
    refused(
        wide,
        "--samples",
        2,
        "-o",
        tmp_path / "out.csv",
        says="out-2.csv exists; choose another name or add --force",
    )
    assert (tmp_path / "out-2.csv").read_text() == "mine"
    assert not (tmp_path / "out-1.csv").exists()
    done(wide, "--samples", 2, "-o", tmp_path / "out.csv", "--force")
    assert (tmp_path / "out-2.csv").read_text() != "mine"
    few = WIDE.iloc[:3, :3]
    few.to_csv(tmp_path / "few.csv", index=False)
    refused(tmp_path / "few.csv", "--samples", 2, "-o", tmp_path / "f.csv", says="more held-out entries than")
