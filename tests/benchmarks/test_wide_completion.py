"""The wide benchmark hides entries of tables in their own units, and shows the tables to judge by at the end only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.completion.wide import cases, figures, run
from benchmarks.completion.wide.catalogue import SEEN_BEFORE, TABLES, TableSet, group
from benchmarks.completion.wide.methods import ScaledTask, WideTask, either
from benchmarks.completion.wide.summary import summary
from benchmarks.shared.drawing import picture
from benchmarks.shared.results import read

CHOSEN, JUDGED = "tiny", "runs"  # The names decide about the groups.


@pytest.fixture
def frame(monkeypatch):
    """Sixty rows of one factor, in units from 1 to 10^4, with a label and a gap."""
    stream = np.random.default_rng(0)
    factor = stream.standard_normal(60)
    values = np.outer(factor, [1, 100, -10_000, 3, 20]) + np.array([5, 0, 1e5, 0, 0])
    values += stream.standard_normal(values.shape) * values.std(0) / 5
    values[3, 2] = np.nan
    table = pd.DataFrame(values, columns=list("abcde")).assign(label="x", constant=1.0, rownames=range(60))
    monkeypatch.setattr(cases, "packaged_table", lambda name: table)
    for name in (CHOSEN, JUDGED):
        monkeypatch.setitem(TABLES, name, TableSet("some/table", "mixed"))
    return table


@pytest.fixture
def measured(frame, run_main, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "measured_code", lambda: {"versions": {}, "machine": {}, "source": "now"})

    def measured(*line):
        run_main(run, tmp_path / "results.json", *line)
        return read(tmp_path / "results.json")["cells"]

    return measured


def test_the_names_alone_make_two_groups_of_about_one_size():
    groups = [group(name) for name in TABLES]
    assert abs(groups.count("choose") - groups.count("judge")) < 8
    assert len(TABLES) > 40
    assert {name: group(name) for name in ("wine", "boston", "glass", "trains")} == {
        "wine": "judge",
        "boston": "judge",
        "glass": "choose",
        "trains": "choose",
    }
    assert {group(name) for name in SEEN_BEFORE} == {"choose"}


def test_hidden_entries_are_judged_in_units_of_their_columns(frame):
    case, other = (cases.wide_case(CHOSEN, seed) for seed in (0, 1))
    assert case.shape == (60, 5)
    places = [set(zip(*part[:2], strict=True)) for part in (case.seen, case.judged)]
    assert not places[0] & places[1]
    assert len(places[0] | places[1]) == 60 * 5 - 1
    assert 0.1 < len(places[1]) / 300 < 0.3
    assert places[1] != set(zip(*other.judged[:2], strict=True))
    rows, columns, truth = case.judged
    np.testing.assert_array_equal(frame[list("abcde")].to_numpy()[rows, columns], truth)
    spread = np.array([case.seen[2][case.seen[1] == column].std() for column in range(5)])
    np.testing.assert_allclose(case.spread, spread)
    found = case.figures(truth + 2 * spread[columns])
    assert found["by_column"] == pytest.approx(2)
    assert found["rmse"] == pytest.approx(2 * np.sqrt(np.mean(spread[columns] ** 2)))
    assert case.measure == "by_column"


def test_blocks_are_runs_of_rows_in_one_column():
    hidden = cases._blocks((90, 4), 0.2, np.random.default_rng(0))
    assert 0.2 <= hidden.mean() < 0.3
    for column in hidden.T:
        starts = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(int), [0]])))
        assert all(np.diff(starts)[::2] >= 90 // cases.BLOCKS_PER_COLUMN)


def test_scaled_columns_are_a_choice_of_peers_who_are_judged_in_the_table_s_units(frame):
    task = WideTask(cases.wide_case(CHOSEN, 0), 0)
    scaled = ScaledTask(task)
    assert abs(scaled.case.seen[2]).max() < 6
    np.testing.assert_array_equal(scaled.held.columns, task.held.columns)
    constant = lambda rows, columns: np.ones(len(rows))  # noqa: E731
    one_above = scaled.unscaled(constant)
    np.testing.assert_allclose(scaled.judge(constant), task.judge(one_above))
    assert (
        scaled.held_error(constant)
        == pytest.approx(task.held_error(one_above))
        != pytest.approx(task.held_error(constant))
    )

    def ones(task):
        return task.tuned(lambda entries, setting: constant, [{"number": 1}])

    assert either(ones)(task).facts["scaled"]


def test_ours_is_measured_again_beside_what_peers_have_reached(measured, capsys, tmp_path):
    line = ("--sets", CHOSEN, "--methods")
    (cell,) = measured(*line, "deep,column_means,tuned_biases,knn").values()
    found = cell["methods"]
    assert 0.1 < found["knn"]["by_column"] < 0.8 < found["column_means"]["by_column"]
    assert 0.9 < found["tuned_biases"]["by_column"] < 1.5
    assert found["deep"]["source"] == "now"
    (again,) = measured(*line, "deep", "--again").values()
    assert again["methods"]["knn"] == found["knn"]
    assert again["methods"]["deep"]["seconds"] != found["deep"]["seconds"]
    assert f"{CHOSEN} 0: deep" in capsys.readouterr().out
    assert "tiny (knn)" in (tmp_path / "figure.svg").read_text()


def test_tables_to_judge_by_are_neither_fitted_nor_shown_before_the_end(measured, capsys, tmp_path):
    for line in (("--methods", "all"), ("--sets", CHOSEN, "--methods", "peers")):
        with pytest.raises(SystemExit):
            measured("--group", "judge", *line)
    line = ("--group", "judge", "--sets", JUDGED, "--methods")
    capsys.readouterr()
    (cell,) = measured(*line, "column_means").values()
    assert capsys.readouterr().out == f"{JUDGED} 0: done\n"
    assert cell["methods"]["column_means"]["by_column"] > 0.8
    assert not (tmp_path / "figure_judge.svg").exists()
    measured(*line, "deep", "--last")
    assert "against the best null" in capsys.readouterr().out


def test_a_method_that_fails_is_absent_with_its_reason(measured, monkeypatch):
    monkeypatch.setitem(run.METHODS, "knn", lambda task: 1 / 0)
    (cell,) = measured("--sets", CHOSEN, "--methods", "knn").values()
    assert cell["methods"]["knn"] == {"absent": "ZeroDivisionError: division by zero"}


def test_the_summary_counts_by_the_best_of_each_kind_and_by_column():
    def cell(name, seed, ours, inside, **others):
        deep = {"rmse": ours, "seconds": 1.0, "judged_by_column": [60, 10], "inside_by_column": [inside, 9]}
        deep |= {"coverage": (inside + 9) / 70}
        methods = {"deep": deep, **{method: {"rmse": error} for method, error in others.items()}}
        return {"set": name, "seed": seed, "measure": "rmse", "methods": methods}

    cells = [
        cell("a", 0, 1.0, 54, knn=2.0, cmfrec=1.1, biases=2.0),
        cell("a", 1, 3.0, 36, knn=2.0, cmfrec=3.3),
        cell("b", 0, 1.1, 54, knn=1.0, biases=1.1),
    ]
    text = summary(cells)
    first, second = text.splitlines()[1:3]
    assert first.split() == ["b", "1.1", "1.000", "biases", "1.100", "knn", "0.900", "1.0"]
    # knn: 0.5 and 1.5 by seed, cmfrec: 0.91 in both.
    assert second.split() == [
        "a",
        "2",
        "0.500",
        "biases",
        "1.000",
        "knn",
        "0.771",
        "0.75",
        "to",
        "0.75",
        "1.0",
    ]
    assert "best null: 1 won, 1 level, 0 lost of 2 (100 % level or ahead), 0 more" in text
    assert "best peer: 0 won, 1 level, 1 lost of 2 (50 % level or ahead), 1 more than 5 % behind" in text
    assert "1 of 2 tables within .02, 0 of 1 columns within .05; seconds of ours: 2.0" in text
    svg = picture(lambda ax: figures.ratio_dots(cells, ax), width=6, height=2)
    assert "b (knn)" in svg
