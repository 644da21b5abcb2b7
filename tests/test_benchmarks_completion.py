"""The completion benchmark runs, on matrices too small to mean anything, and goes on where it was."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def run(monkeypatch, tmp_path):
    completion: Any = importlib.import_module("completion")  # beside tests/completion, which has no code

    monkeypatch.setattr(completion, "versions", lambda: {"versions": {}, "machine": {}})
    out = tmp_path / "completion.json"

    def run(*line):
        monkeypatch.setattr(sys, "argv", ["completion.py", str(out), *line])
        completion.main()
        return json.loads(out.read_text())["cells"]

    return run


def test_quality_judges_by_entries_that_nobody_saw_and_is_not_measured_twice(run, capsys):
    line = ("--only", "quality", "--sets", "tiny", "--seeds", "2", "--limit", "0")
    cells = run(*line, "--methods", "deep,als,soft_impute,knn,biases,implicit")
    assert [cell["seed"] for cell in cells] == [0, 1]
    for cell in cells:
        found = cell["methods"]
        assert found["deep"]["rmse"] < 0.2 < 0.7 < found["biases"]["rmse"]
        assert len(found["soft_impute"]["tries"]) == 10
        assert "values" in found["implicit"]["absent"]
    again = run(*line, "--methods", "deep,biases")
    assert again == cells
    assert "tiny [2]: deep" in capsys.readouterr().out


def test_exact_and_descent_meet_their_error(run):
    exact, descent = run("--only", "exact", "--exact", "tiny,descent-tiny", "--rounds", "2")
    assert exact["ranks"] == [2, 2]
    assert max(exact["methods"]["deep"]["relative_error"]) < 1e-5
    assert exact["deep_over_als"]["median"] > 0
    assert {name: found["error"] <= descent["target"] for name, found in descent["methods"].items()} == {
        "compressed": True,
        "wide": True,
    }


def test_size_is_measured_in_a_process_of_its_own(run):
    (cell,) = run("--only", "size", "--sizes", "40000", "--seeds", "1")
    assert cell["peak_bytes"] >= cell["before_bytes"] > 2**20
    assert cell["seconds"] > 0
    assert cell["relative_error"] < 1


def test_folds_share_no_rating_and_leave_none_out():
    _fold = importlib.import_module("completion_data")._fold

    stream = np.random.default_rng(0)
    users, films = stream.integers(0, 20, 500), stream.integers(0, 30, 500)
    folds = [_fold(users, films, np.arange(500.0), seed) for seed in range(5)]
    assert sorted(np.concatenate([fold.judged[2] for fold in folds])) == list(range(500))
    assert all(not set(fold.judged[2]) & set(fold.seen[2]) for fold in folds)


def test_a_pickle_that_is_no_table_is_refused():
    _Tables = importlib.import_module("completion_data")._Tables

    with pytest.raises(pickle.UnpicklingError, match="no part of a table"):
        _Tables(io.BytesIO(pickle.dumps(time.sleep))).load()


def test_a_method_that_takes_too_long_is_recorded_as_absent(monkeypatch):
    completion: Any = importlib.import_module("completion")  # beside tests/completion, which has no code

    monkeypatch.setitem(completion.METHODS, "slow", ("slow", lambda task: time.sleep(60)))
    found = completion.run("slow", None, 0.05)
    assert found == {"absent": "longer than 0.05 s with its tuning", "late": True}
