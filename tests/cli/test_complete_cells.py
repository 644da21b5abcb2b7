"""`corefold complete` on files as they come: marks of gaps, truth values, decimal commas, separators, standard input."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from completing import GAPPED, LABELS, SEEN, STREAM, WIDE, X, done, filled, hasty, long_table, notes  # noqa: F401

from command import corefold, refused

pytestmark = pytest.mark.usefixtures("hasty")


def test_markers_of_gaps_are_gaps(tmp_path):
    cells = WIDE.astype(object).where(WIDE.notna(), "?")
    cells.iloc[3, 1], cells.iloc[5, 2] = "-", -999
    cells.to_csv(tmp_path / "w.csv", index=False)
    refused(
        corefold("complete", tmp_path / "w.csv", "--missing", "-", "--holdout", 0.1), "'?'", "--missing '?'"
    )
    out = done(tmp_path / "w.csv", "--missing", "?,-", "--missing", "-999", "-o", tmp_path / "f.csv")
    known = int(WIDE.notna().sum().sum()) - int(WIDE.notna().iloc[3, 1]) - int(WIDE.notna().iloc[5, 2])
    assert f"{known} of 40 x 12" in out.out
    np.savez(tmp_path / "w.npz", WIDE.fillna(-1).to_numpy())
    out = done(tmp_path / "w.npz", "--missing", "-1", "--holdout", 0.1)
    assert f"{int(WIDE.notna().sum().sum())} of 40 x 12" in out.out


@pytest.mark.parametrize("marker", [-999, -1, 99999, 0])
def test_a_value_far_from_all_others_is_said(tmp_path, marker):
    table = (WIDE + 60).fillna(marker)
    table.iloc[0, 0] = np.nan
    table.to_csv(tmp_path / "w.csv", index=False)
    out = done(tmp_path / "w.csv", "--holdout", 0.1)
    assert f"add --missing {marker:g}" in notes(out)
    assert "--missing" not in notes(done(tmp_path / "w.csv", "--holdout", 0.1, "--missing", marker))


def test_a_marker_in_one_column_of_many_is_said_by_its_name(tmp_path):
    table = (WIDE + 60) * [-1000.0, *[1.0] * 11]
    table["c4"] = table["c4"].fillna(-9)
    table.to_csv(tmp_path / "w.csv", index=False)
    assert "entries of column 'c4' are -9" in notes(done(tmp_path / "w.csv", "--holdout", 0.1))


@pytest.mark.parametrize("kind", ["ratings", "counts", "bits"])
def test_usual_scales_are_not_suspected(tmp_path, kind):
    values = {
        "ratings": STREAM.choice([1, 2, 3, 4, 5], size=X.shape, p=[0.05, 0.1, 0.2, 0.35, 0.3]),
        "counts": STREAM.poisson(1.5, size=X.shape),
        "bits": STREAM.integers(0, 2, size=X.shape),
    }[kind]
    pd.DataFrame(np.where(SEEN, values, np.nan)).add_prefix("c").to_csv(tmp_path / "w.csv", index=False)
    assert "--missing" not in notes(done(tmp_path / "w.csv", "--row", "none", "--holdout", 0.1))


@pytest.mark.parametrize("words", [("True", "False"), ("TRUE", "FALSE"), ("yes", "no"), (True, False)])
def test_truth_values_with_gaps_are_numbers(tmp_path, words):
    for name in ("w.csv", "w.jsonl"):
        bits = np.where(GAPPED > 3, words[0], words[1]).astype(object)
        table = pd.DataFrame(bits, columns=WIDE.columns).where(SEEN, None)
        table.insert(0, "name", [f"r{place}" for place in range(40)])
        if name == "w.csv":
            table.to_csv(tmp_path / name, index=False)
        else:
            table.to_json(tmp_path / name, orient="records", lines=True)
        out = done(tmp_path / name, "-o", tmp_path / "f.csv", "--force")
        assert f"{int(SEEN.sum())} of 40 x 12" in out.out
        values = pd.read_csv(tmp_path / "f.csv").iloc[:, 1:].to_numpy()
        np.testing.assert_array_equal(values[SEEN], (X > 3)[SEEN])


@pytest.mark.parametrize(
    "kind", ["semicolons", "a tab", "utf-16", "gz", "zip", "xlsx", "feather", "latin-1", "blanks"]
)
def test_every_usual_file_gives_the_same_matrix(tmp_path, kind):
    table = WIDE.assign(näme=[f"r{place}" for place in range(40)])
    text, flags, path = table.to_csv(index=False), [], tmp_path / "w.csv"
    match kind:
        case "semicolons":
            path.write_text(table.to_csv(index=False, sep=";", decimal=","), encoding="utf-8")
        case "a tab":
            path = tmp_path / "w.tsv"
            path.write_text(table.to_csv(index=False, sep="\t"), encoding="utf-8")
        case "utf-16":
            path.write_text(text, encoding="utf-16")
        case "gz":
            path = tmp_path / "w.csv.gz"
            path.write_bytes(gzip.compress(text.encode()))
        case "zip":
            path = tmp_path / "w.zip"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("folder/w.csv", text)
                archive.writestr("__MACOSX/folder/._w.csv", "")
        case "xlsx":
            path = tmp_path / "w.xlsx"
            table.to_excel(path, index=False)
        case "feather":
            path = tmp_path / "w.feather"
            table.to_feather(path)
        case "latin-1":
            path.write_text(text, encoding="latin-1")
            flags = ["--encoding", "latin-1"]
        case _:
            path.write_text(text.replace(",", " , "), encoding="utf-8")
    out = done(path, *flags, "-o", tmp_path / "f.parquet")
    if kind == "semicolons":
        assert "has a decimal comma" in notes(out)
        assert "--decimal . refuses them" in notes(out)
        refused(corefold("complete", path, "--decimal", ".", "--holdout", 0.1), "--decimal ,")
    written = pd.read_parquet(tmp_path / "f.parquet")
    assert list(written.columns) == ["näme", *WIDE.columns]
    assert [name.strip() for name in written["näme"]] == list(table["näme"])
    np.testing.assert_array_equal(written.iloc[:, 1:].to_numpy()[SEEN], WIDE.to_numpy()[SEEN])


def test_commas_that_may_mean_two_things_are_refused(tmp_path):
    text = "name;a;b\nx;1,234;2\ny;2,500;\nz;3,100;5\n"
    (tmp_path / "w.csv").write_text(text)
    refused(corefold("complete", tmp_path / "w.csv", "-o", tmp_path / "f.csv"), "'1,234'", "--decimal ,")
    done(tmp_path / "w.csv", "--decimal", ",", "-o", tmp_path / "f.csv")
    assert list(pd.read_csv(tmp_path / "f.csv")["a"]) == [1.234, 2.5, 3.1]
    (tmp_path / "w.csv").write_text(text.replace("2,500", "2.5").replace("1,234", "1,2"))
    refused(corefold("complete", tmp_path / "w.csv", "--holdout", 0.1), "decimal point where others")
    refused(corefold("complete", tmp_path / "w.csv", "--decimal", "x", "--holdout", 0.1), "--decimal")


class Piped:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "gz", "tsv"])
def test_standard_input_is_read(tmp_path, monkeypatch, kind):
    table = long_table([f"{place:02}" for place in range(12)], [f"i{place}" for place in range(8)])
    match kind:
        case "csv" | "gz":
            content = table.to_csv(index=False).encode()
            content = gzip.compress(content) if kind == "gz" else content
        case "tsv":
            content = table.to_csv(index=False, sep="\t").encode()
        case "jsonl":
            content = table.to_json(orient="records", lines=True).encode()
        case _:
            content = table.to_parquet()
    monkeypatch.setattr(sys, "stdin", Piped(content))
    out = filled(tmp_path, "-", *LABELS)
    assert list(out["user"]) == [f"{place:02}" for place in range(12)]
    for content, says in (
        (b"", "standard input is empty"),
        (b"PK\x03\x04", "by its name"),
        (b"a,b\n1", "standard input"),
    ):
        monkeypatch.setattr(sys, "stdin", Piped(content))
        refused(corefold("complete", "-", *LABELS, "--holdout", 0.1), says)


def test_blanks_around_names_are_no_part_of_them(tmp_path):
    table = long_table([f"u{place}" for place in range(12)], [f"i{place}" for place in range(8)])
    table.columns = ["user", " item", " rating "]
    table.to_csv(tmp_path / "t.csv", index=False)
    assert len(filled(tmp_path, tmp_path / "t.csv", *LABELS)) == 12


def test_labels_that_blanks_alone_tell_apart_are_said(tmp_path):
    table = long_table(["ann", "ann ", "bob", "cy"], [f"i{place}" for place in range(8)])
    table.to_csv(tmp_path / "t.csv", index=False)
    assert "'ann ' in column 'user' are two labels" in notes(
        done(tmp_path / "t.csv", *LABELS, "--holdout", 0.2)
    )
