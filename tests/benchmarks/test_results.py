"""The files that benchmarks and claims are read from: each machine is in them once, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.shared.blocks import fill, markdown_table
from benchmarks.shared.results import ResultFile, cell_name, circumstances, read

ROOT = Path(__file__).parents[2]
MACHINES = [{"machine": {"processor": name}, "versions": {"torch": "2"}} for name in ("a", "b")]


def test_a_file_holds_each_machine_once_and_each_cell_its_own(tmp_path):
    path = tmp_path / "new" / "result.json"
    results = ResultFile(path, question="why?")
    for seed in range(4):
        results.put(f"seed={seed}", {"seed": seed, "score": seed / 7, **MACHINES[seed % 2]})
    content = json.loads(path.read_text())
    assert content["circumstances"] == MACHINES
    assert content["cells"]["seed=3"] == {"seed": 3, "score": 3 / 7, "circumstances": 1}
    assert read(path) == {"question": "why?", "cells": results.cells}
    assert ResultFile(path).cells == results.cells
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_cell_takes_the_place_of_an_earlier_one(tmp_path):
    results = ResultFile(tmp_path / "result.json")
    name = cell_name({"set": "genes", "seed": 0})
    assert name == "set=genes, seed=0"
    for machine in MACHINES:
        results.put(name, {"score": 1, **machine})
    assert read(results.path)["cells"] == {name: {"score": 1, **MACHINES[1]}}
    assert json.loads(results.path.read_text())["circumstances"] == MACHINES[1:]


def test_circumstances_name_the_machine_and_the_versions():
    about = circumstances("cpu")
    assert about["machine"]["device"] == "cpu"
    assert about["machine"]["threads"] >= 1
    assert {"corefold", "torch", "peft", "transformers"} <= set(about["versions"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*/*.json")), ids=lambda path: path.stem)
def test_a_committed_file_is_as_it_would_be_written(path, tmp_path):
    content = read(path)
    again = ResultFile(tmp_path / "again.json", **{k: v for k, v in content.items() if k != "cells"})
    again.cells = content["cells"]
    again.write()
    assert again.path.read_text() == path.read_text()
    assert len(content["cells"]) > 0


def test_only_blocks_with_contents_are_filled():
    page = "".join(f"<!-- {name} -->\nold\n<!-- end -->\n" for name in ("table: few rows", "figure: step"))
    filled = fill(page, {"table: few rows": "new"})
    assert filled == page.replace("old", "new", 1)


def test_a_table_has_its_columns_aligned():
    assert markdown_table(["a", "b", "c"], "lrc", [["1", "2", "3"]]).splitlines() == [
        "| a | b | c |",
        "| --- | ---: | :---: |",
        "| 1 | 2 | 3 |",
    ]
