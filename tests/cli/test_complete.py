"""`corefold complete` on files of every kind, and on bad ones."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from command import Outcome, corefold

LABELS = ["--row", "user", "--col", "item", "--value", "rating"]
X = np.random.default_rng(0).normal(size=(60, 2)) @ np.random.default_rng(1).normal(size=(2, 40)) + 3
SEEN = np.random.default_rng(2).random(X.shape) < 0.5
GAPPED = np.where(SEEN, X, np.nan)


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    row, column = SEEN.nonzero()
    table = pd.DataFrame({"user": [f"u{i:02}" for i in row], "item": column + 100, "rating": X[SEEN]})
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "entries.csv", index=False)
    return tmp_path / "entries.csv"


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err + outcome.out
    assert outcome.err.count("\n") == 1, outcome.err
    for word in words:
        assert word in outcome.err, outcome.err


def done(*arguments: object) -> Outcome:
    outcome = corefold("complete", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def test_help_has_an_example():
    assert "corefold complete ratings.csv" in corefold("complete", "--help").out


def test_entries_become_a_filled_table(entries, tmp_path):
    done(entries, *LABELS, "-o", tmp_path / "f.parquet")
    table = pd.read_parquet(tmp_path / "f.parquet")
    assert list(table.columns) == ["user", *(str(item + 100) for item in range(40))]
    assert list(table["user"]) == [f"u{i:02}" for i in range(60)]
    np.testing.assert_allclose(table.iloc[:, 1:], X, atol=1e-3)
    assert (table.iloc[:, 1:].to_numpy()[SEEN] == X[SEEN]).all()


@pytest.mark.parametrize("kind", ["csv", "parquet", "index", "unlabelled", "sparse", "triples", "dense"])
def test_every_input_gives_the_same_matrix(kind, tmp_path):
    table = pd.DataFrame(GAPPED, columns=[f"c{j}" for j in range(40)])
    named = table.assign(name=[f"r{i}" for i in range(60)])
    path = tmp_path / ("in.npz" if kind in ("sparse", "triples", "dense") else "in.parquet")
    if kind in ("csv", "unlabelled"):
        path = tmp_path / "in.csv"
        (named if kind == "csv" else table).to_csv(path, index=False, na_rep="NA")
    elif kind == "parquet":
        named.to_parquet(path)
    elif kind == "index":
        named.set_index("name").to_parquet(path)
    elif kind == "sparse":
        sp.save_npz(path, sp.csr_array((X[SEEN], SEEN.nonzero()), shape=X.shape))
    elif kind == "triples":
        np.savez(path, rows=SEEN.nonzero()[0], columns=SEEN.nonzero()[1], values=X[SEEN])
    else:
        np.savez(path, GAPPED)
    done(path, "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["matrix"], X, atol=1e-3)
        assert ("row_labels" in out) == (kind in ("csv", "parquet", "index"))


def test_top_ranks_what_is_missing(entries, tmp_path):
    done(entries, *LABELS, "--top", 3, "-o", tmp_path / "top.csv")
    top = pd.read_csv(tmp_path / "top.csv")
    assert list(top.columns) == ["user", "item", "rating", "rank"]
    for row, part in enumerate(np.array_split(np.arange(len(top)), 60)):
        found = top.iloc[part]
        best = np.argsort(np.where(SEEN[row], -np.inf, X[row]))[::-1][:3]
        np.testing.assert_allclose(found["rating"], X[row, best], atol=1e-3)
        assert list(found["item"]) == list(best + 100)
        assert list(found["rank"]) == [1, 2, 3]


def test_top_is_the_same_in_blocks(entries, tmp_path, monkeypatch):
    from corefold.completion.files import results

    done(entries, *LABELS, "--top", 3, "-o", tmp_path / "top.csv")
    whole = results.row_blocks
    monkeypatch.setattr(results, "row_blocks", lambda estimator: whole(estimator, entries=7 * 40))
    done(entries, *LABELS, "--top", 3, "-o", tmp_path / "blocks.csv")
    one, other = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("top", "blocks"))
    pd.testing.assert_frame_equal(one, other)


def test_single_entries_have_intervals(entries, tmp_path):
    wanted = pd.DataFrame({"item": [139, 100], "user": ["u59", "u00"]})
    wanted.to_csv(tmp_path / "wanted.csv", index=False)
    done(entries, *LABELS, "--entries", tmp_path / "wanted.csv", "-o", tmp_path / "e.parquet")
    found = pd.read_parquet(tmp_path / "e.parquet")
    assert list(found.columns) == ["user", "item", "rating", "lower", "upper"]
    np.testing.assert_allclose(found["rating"], [X[59, 39], X[0, 0]], atol=1e-3)
    assert (found["lower"] <= found["rating"]).all()
    assert (found["rating"] <= found["upper"]).all()


def test_holdout_measures_beside_baselines_and_draws_a_page(entries, tmp_path):
    out = done(entries, *LABELS, "--holdout", 0.1, "--report", tmp_path / "page.html").out
    scores = {
        line[:15].strip(): float(line.split()[-2])
        for line in out.splitlines()
        if line[:4] in ("comp", "bias", "colu")
    }
    assert scores["completed"] < 0.1 * min(scores["biases alone"], scores["column means"])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert corefold("complete", entries, *LABELS, "--report", tmp_path / "page.html").code == 2
    done(entries, *LABELS, "--report", tmp_path / "page.html", "--force")
    assert "Not measured" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_entries_given_twice_are_told_and_meant(tmp_path):
    table = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 0, 0, 1], "rating": [1.0, 3.0, 4.0, 4.0]})
    table.to_csv(tmp_path / "t.csv", index=False)
    out = done(tmp_path / "t.csv", *LABELS, "-o", tmp_path / "f.csv").out
    assert "1 entries are given more than once" in out
    assert pd.read_csv(tmp_path / "f.csv")["0"][0] == 2


def test_ctrl_c_leaves_the_best_step_so_far(entries, tmp_path, monkeypatch):
    from corefold.cli import complete

    @contextmanager
    def impatient():
        steps = iter(range(5))

        def advance(record):
            if next(steps, None) is None:
                raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(complete, "step_progress", impatient)
    outcome = corefold("complete", entries, *LABELS, "-o", tmp_path / "f.csv")
    assert outcome.code == 130
    assert "interrupted" in outcome.err
    assert pd.read_csv(tmp_path / "f.csv").shape == (60, 41)


def test_the_device_is_the_estimators(entries, tmp_path, monkeypatch):
    from corefold.completion import holdout

    devices, estimator = [], holdout.DeepMatrixCompletion

    def listening(**settings):
        devices.append(settings["device"])
        return estimator(**settings)

    monkeypatch.setattr(holdout, "DeepMatrixCompletion", listening)
    done(entries, *LABELS, "-o", tmp_path / "f.csv")
    done(entries, *LABELS, "--device", "cpu:0", "-o", tmp_path / "g.csv")
    assert devices == ["cpu", "cpu:0"]
    assert (tmp_path / "f.csv").read_text() == (tmp_path / "g.csv").read_text()


@pytest.mark.parametrize("device", ["magic", "meta", "cuda:99", "privateuseone", ""])
def test_a_device_that_cannot_be_used_is_refused_before_anything_is_read(device, tmp_path):
    wanted = ["-o", tmp_path / "f.csv", "--device", device]
    for given in (["nowhere.csv", *wanted], wanted):
        refused(corefold("complete", *given), f"--device {device!r} cannot be used here; there is cpu")


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("user,item,rating\na,x,1\nb,y,good\n", LABELS, ["row 2", "'good'", "'rating'"]),
        ("user,item,rating\na,x,1\nb,y,inf\n", LABELS, ["row 2", "infinite"]),
        ("user,item,rating\na,x,1\n,y,2\n", LABELS, ["row 2", "'user' is empty"]),
        ("user,item,rating\na,x,\nb,y,NA\n", LABELS, ["nothing is observed"]),
        ("user,item\na,x\n", LABELS, ["no column 'rating'", "user, item"]),
        ("user,item,rating\na,x,1\n", LABELS[:4], ["--row, --col and --value go together"]),
        ("a,b\n1,2\n3,4\n,oops\n", [], ["row 3", "'oops'", "--row"]),
        ("a,b\n1,2\n3,4\n", [], ["no gap to fill", "--row"]),
        ("name\nx\ny\n", [], ["no column of numbers"]),
        ("", [], ["is empty"]),
        ("a,b,c\n1,,3\n2,4,1\n", ["--max-rank", 9], ["max_rank", "got 9"]),
        ("a,b,c\n1,,3\n2,4,1\n", ["--solver", "magic"], ["magic"]),
        ("a,b,c\n1,,3\n2,4,1\n", ["--clip", "3,1"], ["--clip"]),
        ("a,b,c\n1,,3\n2,4,1\n", ["--holdout", 1], ["--holdout"]),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(tmp_path, text, flags, words):
    (tmp_path / "in.csv").write_text(text)
    refused(corefold("complete", tmp_path / "in.csv", *flags, "-o", tmp_path / "out.csv"), *words)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"rows": [0, -1], "columns": [0, 1], "values": [1.0, 2]}, ["-1"]),
        ({"rows": [0.0, 1], "columns": [0, 1], "values": [1.0, 2]}, ["integers"]),
        ({"rows": [0, 9], "columns": [0, 1], "values": [1.0, 2], "shape": [3, 3]}, ["0 to 9"]),
        ({"rows": [0], "columns": [0, 1], "values": [1.0, 2]}, ["one length"]),
        ({"a": np.eye(2), "b": np.eye(3)}, ["a, b"]),
        ({"a": [["x", "y"]]}, ["must be numbers"]),
        ({"rows": [0, 10**7], "columns": [0, 10**7], "values": [1.0, 2]}, ["GiB", "--top"]),
    ],
)
def test_bad_arrays_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "in.npz", **arrays)
    refused(corefold("complete", tmp_path / "in.npz", "-o", tmp_path / "out.csv"), *words)


def test_bad_files_are_refused(entries, tmp_path):
    (tmp_path / "junk.npz").write_text("junk")
    out = ["-o", tmp_path / "out.csv"]
    refused(corefold("complete", tmp_path / "junk.npz", *out), "no npz file")
    refused(corefold("complete", "nowhere.csv", *out), "no such file")
    refused(corefold("complete", tmp_path / "in.txt", *out), ".parquet")
    refused(corefold("complete", entries, *LABELS), "nothing asked for")
    refused(corefold("complete", entries, *LABELS, "-o", tmp_path / "out.txt"), ".npz")
    refused(corefold("complete", entries, *LABELS, "-o", entries), "exists", "--force")
    refused(corefold("complete", "--top", 3), "--top")
    (tmp_path / "wanted.csv").write_text("user,item\nu00,100\nnobody,100\n")
    flags = ["--entries", tmp_path / "wanted.csv", *out]
    refused(corefold("complete", entries, *LABELS, *flags, "--top", 3), "one at a time")


def test_the_embedded_example_beats_column_means(tmp_path):
    out = done("-o", tmp_path / "demo").out
    for line in out.splitlines():
        if line.startswith(("photograph  ", "genes  ", "digits  ")):
            ours, _, means = map(float, line.split()[-3:])
            assert ours < means
    assert (tmp_path / "demo" / "photograph.png").stat().st_size > 10_000
    assert (tmp_path / "demo" / "report.html").read_text(encoding="utf-8").count("<svg") == 14
    refused(corefold("complete", "-o", tmp_path / "demo"), "not empty")
