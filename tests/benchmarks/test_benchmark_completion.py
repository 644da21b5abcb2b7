"""The completion benchmark runs, on matrices too small to mean anything, and continues where it was."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
import time
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.completion import matrices, memory, quality, size
from benchmarks.completion import run as completion
from benchmarks.completion.other_packages import gcimpute
from benchmarks.completion.packaged_data import TableUnpickler
from benchmarks.completion.task import CompletionTask
from benchmarks.shared.results import read
from two_processes import in_two_processes


@pytest.fixture
def measured(run_main, monkeypatch, tmp_path):
    """Runs the benchmark and returns the cells of its file."""
    monkeypatch.setattr(completion, "measured_code", lambda: {"versions": {}, "machine": {}})

    def measured(*line):
        run_main(completion, tmp_path / "results.json", *line)
        return [*read(tmp_path / "results.json")["cells"].values()]

    return measured


def test_quality_judges_by_entries_that_nobody_saw_and_is_not_measured_twice(measured, capsys):
    line = ("--only", "quality", "--sets", "tiny", "--limit", "0")
    (cell,) = measured(*line, "--seeds", "1", "--methods", "deep,als,soft_impute,knn,biases,implicit")
    found = cell["methods"]
    assert found["deep"]["rmse"] < 0.2 < 0.7 < found["biases"]["rmse"]
    assert len(found["soft_impute"]["tries"]) == 10
    assert "values" in found["implicit"]["absent"]
    again, other = measured(*line, "--seeds", "2", "--methods", "deep,biases")
    assert again == cell
    assert other["seed"] == 1
    assert set(other["methods"]) == {"deep", "biases"}
    assert "tiny [2]: deep" in capsys.readouterr().out


def test_exact_and_descent_meet_their_error(measured):
    exact, descent = measured("--only", "exact", "--exact", "tiny,descent-tiny", "--rounds", "2")
    assert exact["ranks"] == [2, 2]
    assert max(exact["methods"]["deep"]["relative_error"]) < 1e-5
    assert exact["deep_over_als"]["median"] > 0
    assert descent["methods"]["wide"]["met"]
    assert descent["methods"]["compressed, gamma 0.01"]["met"]
    assert set(descent["wide_over"]) == set(descent["methods"]) - {"wide"}


def test_size_is_measured_in_a_process_of_its_own(measured, monkeypatch):
    commands = []

    def in_this_process(command):
        commands.append(command)
        monkeypatch.setattr(sys, "argv", command[2:])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            size.child()
        return json.loads(printed.getvalue())

    monkeypatch.setattr(size, "report", in_this_process)
    (cell,) = measured("--only", "size", "--sizes", "20000", "--dtypes", "float64", "--seeds", "1")
    assert commands[0][:3] == [sys.executable, "-m", size.__name__]
    assert cell["peak_bytes"] >= cell["before_bytes"] > 2**20
    assert cell["seconds"] > 0
    assert cell["relative_error"] < 1


def test_intervals_are_judged_by_entries_as_noisy_as_those_seen(measured, monkeypatch):
    larger = partial(matrices.low_rank, side=150, rank=2, share=0.4, noise=0.3)
    monkeypatch.setitem(matrices.CASES, "tiny", larger)
    (cell,) = measured("--only", "intervals", "--covered", "tiny", "--seeds", "1")
    assert [level["nominal"] for level in cell["levels"]] == [0.8, 0.9, 0.95]
    for level in cell["levels"]:
        # The fit is closer to the truth than the noise: without noise nearly all would be inside.
        assert abs(level["coverage"] - level["nominal"]) < 0.05
    narrow, _, wide = (level["mean_width"] for level in cell["levels"])
    assert 2 * 0.3 < narrow < wide < 2 * 3 * 0.3
    assert 1200 < cell["levels"][0]["calibrated_on"] < 1500  # three folds of a fifth


def shared_fit(folder):
    """The work of a process under torchrun once it has its group."""
    return memory.fit(Path(folder))


def test_memory_is_measured_in_processes_of_their_own(measured, monkeypatch, tmp_path):
    commands, in_own_process = [], memory.report

    def report(command, environment):
        commands.append(command)
        if command[3] == "read":
            *_, entries, index = command
            return (
                in_own_process(command, environment) if index == "int64" else memory.read(int(entries), index)
            )
        first, second = in_two_processes(shared_fit, tmp_path / "group", command[-1])
        assert first == second
        return first

    monkeypatch.setattr(memory, "report", report)
    line = ("--only", "memory", "--read", "1000000", "--shared", "6000", "--processes", "2")
    narrow, wide, shared = cells = measured(*line)
    assert [command[:3] for command in commands[:2]] == [[sys.executable, "-m", memory.__name__]] * 2
    assert commands[2][1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert wide["given_bytes"] - narrow["given_bytes"] == 2 * 4 * 10**6
    assert 20 * 10**6 < narrow["held_bytes"] == wide["held_bytes"] < 21 * 10**6
    assert narrow["observed"] == wide["observed"] == 10**6
    # The narrow one ran in this process, which had memory to reuse.
    assert wide["held_bytes"] < wide["above_bytes"] < 100 * 10**6
    processes = shared["processes"]
    assert sum(one["rows"] for one in processes) == 200
    assert 0 < min(one["observed"] for one in processes) <= max(one["observed"] for one in processes) < 4000
    assert min(one["before_bytes"] for one in processes) > 2**20
    assert measured(*line) == cells
    assert len(commands) == 3


def test_slow_peers_have_more_time(measured, monkeypatch):
    limits = {}

    def attempt(method, task, limit):
        limits[method] = limit
        return {"absent": "not tried"}

    monkeypatch.setattr(quality, "attempt", attempt)
    line = ("--only", "quality", "--sets", "tiny", "--seeds", "1", "--methods", "deep,knn")
    measured(*line, "--limit", "10")
    assert limits["deep"] == 10 < limits["knn"]
    measured(*line, "--limit", "0", "--again")
    assert limits == {"deep": 0, "knn": 0}


def test_a_copula_is_told_the_kind_of_its_columns_and_spared_constant_ones(monkeypatch):
    calls = []

    class Copula:
        def __init__(self, rank, random_state):
            calls.append(rank)

        def fit_transform(self, X, **kinds):
            ((kind, columns),) = kinds.items()
            assert (np.nanmin(X, 0) < np.nanmax(X, 0)).all()
            assert columns == list(range(X.shape[1])) == list(range(6))
            calls.append(kind)
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
    case = matrices.CompletionCase("ratings", (30, 8), (rows, columns, values), judged)
    answer = gcimpute(CompletionTask(case, 0))
    np.testing.assert_array_equal(answer.predicted, [2.0, 2.0])
    assert calls == [2, "ordinal", 5, "ordinal", answer.facts["chosen"]["rank"], "ordinal"]


def test_folds_share_no_rating_and_leave_none_out():
    stream = np.random.default_rng(0)
    users, films = stream.integers(0, 20, 500), stream.integers(0, 30, 500)
    folds = [matrices._fold(users, films, np.arange(500.0), seed) for seed in range(5)]
    assert sorted(np.concatenate([fold.judged[2] for fold in folds])) == list(range(500))
    assert all(not set(fold.judged[2]) & set(fold.seen[2]) for fold in folds)


def test_a_pickle_that_is_no_table_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="no part of a table"):
        TableUnpickler(io.BytesIO(pickle.dumps(time.sleep))).load()


def test_a_method_that_takes_too_long_is_recorded_as_absent(monkeypatch):

    monkeypatch.setitem(quality.METHODS, "slow", ("slow", lambda task: time.sleep(60)))
    found = quality.attempt("slow", None, 0.05)
    assert found == {"absent": "longer than 0.05 s with its tuning", "late": True}
