"""What `corefold complete` says of the errors of its fit, beside those of column means, and of its ranking."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from completing import LABELS, SEEN, STREAM, X, done, long_table, notes

from command import corefold, refused


def test_an_error_behind_that_of_column_means_is_said(tmp_path):
    noise = pd.DataFrame(np.where(SEEN, STREAM.normal(size=X.shape) * np.logspace(0, 6, 12), np.nan))
    noise.add_prefix("c").to_csv(tmp_path / "w.csv", index=False)
    for options, words in (
        (["--holdout", 0.2], "is behind that of"),
        (["-o", tmp_path / "f.csv"], "that of column means"),
    ):
        out = corefold(
            "complete", tmp_path / "w.csv", *options, "--max-rank", 6, "--solver", "als", "--clip", "none"
        )
        assert out.code == 0, out.err
        assert words in notes(out), out.out


def test_columns_of_several_units_are_said_and_measured_over_their_deviations(tmp_path):
    values = X + STREAM.normal(size=X.shape)
    mixed = pd.DataFrame(np.where(SEEN, values * np.logspace(0, 6, 12) + 5, np.nan))
    mixed.add_prefix("c").to_csv(tmp_path / "w.csv", index=False)
    out = done(tmp_path / "w.csv", "--holdout", 0.2)
    assert "errors are compared over each column's standard deviation; --error absolute" in notes(out)
    (line,) = (line for line in out.out.splitlines() if line.split()[:1] == ["completed"])
    assert float(line.split()[1]) < 1.1
    out = done(tmp_path / "w.csv", "--holdout", 0.2, "--error", "absolute")
    assert "standard deviation" not in out.out
    refused(corefold("complete", tmp_path / "w.csv", "--holdout", 0.2, "--error", "some"), "error must be")


def test_held_out_entries_measure_the_order(tmp_path):
    table = long_table([f"u{place}" for place in range(60)], [f"i{place}" for place in range(40)])
    table.to_csv(tmp_path / "t.csv", index=False)
    out = done(tmp_path / "t.csv", *LABELS, "--holdout", 0.3, "--top", 3, "-o", tmp_path / "top.csv").out
    scores = {
        line.split()[0]: list(map(float, line.split()[1:])) for line in out.splitlines() if "@3" in line
    }
    assert scores["nDCG@3"][0] == pytest.approx(1, abs=0.01)
    assert scores["precision@3"][0] >= scores["precision@3"][2]
