"""The pictures and tables of completion are made of its results alone."""

from __future__ import annotations

from benchmarks import figures
from benchmarks.completion import targets
from benchmarks.completion.run import TARGETS
from benchmarks.shared.results import ResultFile

CELL = {"part": "quality", "machine": {}, "versions": {}}


def test_figures_are_made_of_the_results_alone(run_main, tmp_path):
    runs = [{"deep": 1.0, "knn": 3.0, "biases": 5.0}, {"deep": 3.0, "knn": 1.0}, {"deep": 2.5, "knn": 2.25}]
    results = ResultFile(tmp_path / "completion" / "results.json", targets={})
    late = {"label": "myFM", "absent": "longer than 40 s with its tuning"}
    for seed, errors in enumerate(runs):
        methods = {name: {"label": name, "rmse": error} for name, error in errors.items()}
        results.put(f"genes {seed}", {**CELL, "set": "genes", "methods": {**methods, "myfm": late}})
    results.put("ml-100k", {**CELL, "set": "ml-100k", "methods": {"deep": {"label": "deep", "rmse": 4e-4}}})
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- table: completion -->\nold\n<!-- end -->\n<!-- table: step -->\nkept\n<!-- end -->\n"
    )
    drawn = []
    for _ in range(2):
        run_main(figures, "--results", tmp_path, "--images", tmp_path, "--readme", readme)
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


def test_targets_say_what_was_measured_and_whether_it_is_met():
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
    results = {"targets": {name: name for name in names}, "cells": dict(enumerate(cells))}
    table = targets.completion_target_table(results)
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
    assert set(TARGETS) == set(targets.JUDGES)


def test_the_tables_of_wide_and_side_are_made_of_their_results_alone(run_main, tmp_path):
    wide = ResultFile(tmp_path / "completion" / "wide" / "results.json")
    for name, ours in (("a", 1.0), ("b", 1.1)):
        methods = {"deep": {"rmse": ours, "seconds": 1.0}, "biases": {"rmse": 2.0}, "knn": {"rmse": 1.0}}
        wide.put(
            name, {**CELL, "set": name, "seed": 0, "group": "judge", "measure": "rmse", "methods": methods}
        )
    of_features = ResultFile(tmp_path / "completion" / "side.json")
    for seed, warm in enumerate((1.0, 3.0)):
        for method, cold in (("deep", 2.0), ("myfm", 2.5)):
            rmse = {"warm": warm, "cold users": cold, "cold films": 4.0}
            of_features.put(f"{seed} {method}", {**CELL, "seed": seed, "method": method, "rmse": rmse})
    readme = tmp_path / "README.md"
    names = ("completion_wide", "completion_side")
    readme.write_text("".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in names))
    run_main(figures, "--results", tmp_path, "--images", tmp_path, "--readme", readme)
    lines = readme.read_text().splitlines()
    assert lines[3:5] == [
        "| 2 looked at in the end alone | 1 | column means, biases | 2 | 0 | 0.52 |",
        "| 2 looked at in the end alone | 1 | the best tuned peer | 1 | 1 | 1.05 |",
    ]
    assert lines[7:11] == [
        "| features of users and films, 2 draws | warm | cold users | cold films |",
        "| --- | ---: | ---: | ---: |",
        "| deep | **2.000** | **2.000** | **4.000** |",
        "| myfm | **2.000** | 2.500 | **4.000** |",
    ]
