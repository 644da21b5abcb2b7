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
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from two_processes import in_two_processes

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


def test_intervals_are_judged_by_entries_as_noisy_as_those_seen(run, monkeypatch):
    data: Any = importlib.import_module("completion_data")
    larger = partial(data.low_rank, side=150, rank=2, share=0.4, noise=0.3)
    monkeypatch.setitem(data.CASES, "tiny", larger)
    (cell,) = run("--only", "intervals", "--covered", "tiny", "--seeds", "1")
    assert [level["nominal"] for level in cell["levels"]] == [0.8, 0.9, 0.95]
    for level in cell["levels"]:
        # The fit is closer to the truth than the noise: without noise nearly all would be inside.
        assert abs(level["coverage"] - level["nominal"]) < 0.05
    narrow, _, wide = (level["mean_width"] for level in cell["levels"])
    assert 2 * 0.3 < narrow < wide < 2 * 3 * 0.3
    assert 400 < cell["levels"][0]["calibrated_on"] < 500


def shared_fit(folder):
    """What a process under torchrun runs once it has its group."""
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("completion_memory").fit(Path(folder))


def test_memory_is_measured_in_processes_of_their_own(run, monkeypatch, tmp_path):
    memory: Any = importlib.import_module("completion_memory")
    commands, apart = [], memory.reported

    def here(command):
        commands.append(command)
        if command[2] == "read":
            return apart(command) if command[4] == "int64" else memory.read(int(command[3]), command[4])
        first, second = in_two_processes(shared_fit, tmp_path / "group", command[-1])
        assert first == second
        return first

    monkeypatch.setattr(memory, "reported", here)
    line = ("--only", "memory", "--read", "1000000", "--shared", "6000", "--processes", "2")
    narrow, wide, shared = cells = run(*line)
    assert [command[:2] for command in commands[:2]] == [[sys.executable, memory.__file__]] * 2
    assert commands[2][1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert wide["given_bytes"] - narrow["given_bytes"] == 2 * 4 * 10**6
    assert 20 * 10**6 < narrow["held_bytes"] == wide["held_bytes"] < 21 * 10**6
    assert narrow["observed"] == wide["observed"] == 10**6
    assert (
        wide["held_bytes"] < wide["above_bytes"] < 100 * 10**6
    )  # the other had memory of this process to reuse
    processes = shared["processes"]
    assert sum(one["rows"] for one in processes) == 200
    assert 0 < min(one["observed"] for one in processes) <= max(one["observed"] for one in processes) < 4000
    assert min(one["before_bytes"] for one in processes) > 2**20
    assert run(*line) == cells
    assert len(commands) == 3


def test_targets_say_what_was_measured_and_whether_it_is_met():
    targets: Any = importlib.import_module("completion_targets")

    def quality(name, **errors):
        methods = {method: {"rmse": error} for method, error in errors.items()}
        return {"part": "quality", "set": name, "seed": 0, "methods": methods}

    def levels(name, *coverage):
        found = [{"nominal": 0.8 + 0.1 * i, "coverage": share} for i, share in enumerate(coverage)]
        return {"part": "intervals", "set": name, "seed": 0, "levels": found}

    def shared(*above):
        return {"part": "memory", "set": "some", "processes": [{"above_bytes": 1e6 * each} for each in above]}

    cells = [
        quality("genes", deep=1.0, knn=1.1, cmfrec=1.2, myfm=0.5),
        quality("china", deep=1.0, knn=1.1, cmfrec=0.9),
        quality("easy", deep=1e-6, knn=1.0),
        levels("ml-100k", 0.81, 0.885),
        levels("genes", 0.75),
        {"part": "memory", "set": "read 7 int32", "above_bytes": 370e6, "held_bytes": 200e6},
        {"part": "memory", "set": "read 7 int64", "above_bytes": 410e6, "held_bytes": 200e6},
        shared(90, 100),
        shared(300),
        {
            "part": "exact",
            "condition": 100.0,
            "true_rank": 2,
            "ranks": [2, 2],
            "methods": {"deep": {"relative_error": [1e-8, 2e-7]}},
        },
        {"part": "exact", "side": 300, "wide_over": {"slow": 2.0, "fast": 7.5, "failed": None}},
    ]
    names = ("quality", "intervals", "reading", "processes", "condition", "descent", "size", "exact")
    table = targets.completion_target_table({"targets": {name: name for name in names}, "cells": cells})
    assert table.splitlines()[2:] == [
        "| quality | 1 of 2 sets; not photograph: temple | no |",
        "| intervals | 1.5 points off at most in 1 folds, 5.0 on other sets | yes |",
        "| reading | 370 MB from int32, 200 of them kept; 410 MB from int64, 200 of them kept | no |",
        "| processes | 300 MB each in 1, 100 MB each in 2 | yes |",
        "| condition | relative error 2e-07 at most, the rank in 2 of 2 | yes |",
        "| descent | 7.5× at 300 × 300, fast | yes |",
        "| size | not yet |  |",
        "| exact | not yet |  |",
    ]
    completion: Any = importlib.import_module("completion")
    assert set(completion.TARGETS) == set(targets.JUDGES)


def test_slow_peers_have_more_time(run, monkeypatch):
    completion: Any = importlib.import_module("completion")
    limits = {}

    def told(method, task, limit):
        limits[method] = limit
        return {"absent": "not tried"}

    monkeypatch.setattr(completion, "run", told)
    line = ("--only", "quality", "--sets", "tiny", "--seeds", "1", "--methods", "deep,knn")
    run(*line, "--limit", "10")
    assert limits["deep"] == 10 < limits["knn"]
    run(*line, "--limit", "0", "--again")
    assert limits == {"deep": 0, "knn": 0}


def test_a_copula_is_told_the_kind_of_its_columns_and_spared_constant_ones(monkeypatch):
    packages: Any = importlib.import_module("completion_packages")
    task: Any = importlib.import_module("completion_task").Task
    case: Any = importlib.import_module("completion_data").Case
    told = []

    class Copula:
        def __init__(self, rank, random_state):
            told.append(rank)

        def fit_transform(self, X, **kinds):
            ((kind, columns),) = kinds.items()
            assert (np.nanmin(X, 0) < np.nanmax(X, 0)).all()
            assert columns == list(range(X.shape[1])) == list(range(6))
            told.append(kind)
            np.round_(1.0)
            return np.where(np.isnan(X), 3.0, X)

    module = types.ModuleType("gcimpute.low_rank_gaussian_copula")
    vars(module)["LowRankGaussianCopula"] = Copula
    monkeypatch.setitem(sys.modules, "gcimpute", types.ModuleType("gcimpute"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    rows, columns = (part.ravel() for part in np.mgrid[:30, :7])
    seen = columns < 7 - (rows < 5)  # the last column is seen from row 5 on, and the same everywhere
    values = np.where(columns == 6, 2.0, 1.0 + (rows + columns) % 5)
    rows, columns, values = rows[seen], columns[seen], values[seen]
    judged = np.array([0, 1]), np.array([6, 6]), np.array([2.0, 2.0])
    answer = packages.gcimpute(task(case("ratings", (30, 8), (rows, columns, values), judged), 0))
    np.testing.assert_array_equal(answer.predicted, [2.0, 2.0])
    assert told == [2, "ordinal", 5, "ordinal", answer.found["chosen"]["rank"], "ordinal"]


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
