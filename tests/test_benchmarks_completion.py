"""The completion benchmark runs, on matrices too small to mean anything, and goes on where it was."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pickle
import subprocess
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
    line = ("--only", "quality", "--sets", "tiny", "--limit", "0")
    (cell,) = run(*line, "--seeds", "1", "--methods", "deep,als,soft_impute,knn,biases,implicit")
    found = cell["methods"]
    assert found["deep"]["rmse"] < 0.2 < 0.7 < found["biases"]["rmse"]
    assert len(found["soft_impute"]["tries"]) == 10
    assert "values" in found["implicit"]["absent"]
    again, other = run(*line, "--seeds", "2", "--methods", "deep,biases")
    assert again == cell
    assert other["seed"] == 1
    assert set(other["methods"]) == {"deep", "biases"}
    assert "tiny [2]: deep" in capsys.readouterr().out


def test_exact_and_descent_meet_their_error(run):
    exact, descent = run("--only", "exact", "--exact", "tiny,descent-tiny", "--rounds", "2")
    assert exact["ranks"] == [2, 2]
    assert max(exact["methods"]["deep"]["relative_error"]) < 1e-5
    assert exact["deep_over_als"]["median"] > 0
    assert descent["methods"]["wide"]["met"]
    assert descent["methods"]["compressed, gamma 0.01"]["met"]
    assert set(descent["wide_over"]) == set(descent["methods"]) - {"wide"}


def test_figures_are_made_of_the_results_alone(monkeypatch, tmp_path):
    figures = importlib.import_module("figures")
    runs = [{"deep": 1.0, "knn": 3.0, "biases": 5.0}, {"deep": 3.0, "knn": 1.0}, {"deep": 2.5, "knn": 2.25}]
    cells = [
        {
            "part": "quality",
            "set": "genes",
            "seed": seed,
            "methods": {
                **{name: {"label": name, "rmse": error} for name, error in found.items()},
                "myfm": {"label": "myFM", "absent": "longer than 40 s with its tuning"},
            },
        }
        for seed, found in enumerate(runs)
    ]
    cells.append({**cells[0], "set": "ml-100k", "methods": {"deep": {"label": "deep", "rmse": 4e-4}}})
    (tmp_path / "completion.json").write_text(json.dumps({"cells": cells}))
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- table: completion -->\nold\n<!-- end -->\n<!-- table: step -->\nkept\n<!-- end -->\n"
    )
    drawn = []
    for _ in range(2):
        line = ("--results", tmp_path, "--images", tmp_path, "--readme", readme)
        monkeypatch.setattr(sys, "argv", ["figures.py", *map(str, line)])
        figures.main()
        drawn.append((tmp_path / "completion.svg").read_text())
    assert drawn[0] == drawn[1]
    assert "gene expression" in drawn[0]
    assert readme.read_text().splitlines()[1:6] == [
        "| entries held out of | seeds | Deep | KNN imputer | biases |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| gene expression | 3 | 2.500 | **2.250** | 5.000 (1) |",
        "| MovieLens 100K | 1 | **4.0e-04** | n/a | n/a |",
        "<!-- end -->",
    ]
    assert "kept" in readme.read_text()


def test_size_is_measured_in_a_process_of_its_own(run, monkeypatch):
    size: Any = importlib.import_module("completion_size")
    commands = []

    def here(command, **_):
        """What the process would run, without its imports."""
        commands.append(command)
        monkeypatch.setattr(sys, "argv", command[1:])
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            size.child()
        return subprocess.CompletedProcess(command, 0, said.getvalue())

    monkeypatch.setattr(size.subprocess, "run", here)
    (cell,) = run("--only", "size", "--sizes", "20000", "--dtypes", "float64", "--seeds", "1")
    assert commands[0][:2] == [sys.executable, size.__file__]
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
