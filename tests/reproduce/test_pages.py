"""The pages, figures and claims are those of the result files."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.shared.blocks import fill
from benchmarks.shared.results import ResultFile, read
from reproduce import table
from reproduce.defaults import search
from reproduce.experiment import rounded

ROOT = Path(__file__).parents[2]
MACHINE = {"machine": {"processor": "P", "threads": 1}, "versions": {"torch": "2"}}


def test_the_table_has_a_row_for_each_claim_and_what_was_not_run():
    row = {"claim": "C", "paper": "7x", "ours": "8x", "status": "agrees", "command": "go", "seconds": 300.0}
    missing = {**row, "claim": "D", "ours": None, "status": "not run", "seconds": None}
    result = {"claims": [row, missing], "cells": {"a": MACHINE, "b": MACHINE}}
    text = "before\n<!-- table: theorem -->\nold\n<!-- end -->\nafter\n"
    filled = fill(text, {"table: theorem": table.table(result)}).splitlines()
    assert filled[4:6] == [
        "| C | 7x | 8x | **agrees** | 5 min | `go` |",
        "| D | 7x |  | **not run** |  | `go` |",
    ]
    assert filled[7] == "Machine: P, 1 thread, torch 2."
    assert (filled[0], filled[-1]) == ("before", "after")
    scored = table.score({"theorem": result}).splitlines()[-1]
    assert scored == "| [The theorem](#the-theorem) | 1 |  |  | 1 |"


def test_the_pages_are_what_the_result_files_say(run_main, tmp_path):
    for path in (ROOT / "reproduce").glob("*/result.json"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        copy.write_text(path.read_text())
    pages = {
        name: (ROOT / name).read_text()
        for name in ("README.md", "reproduce/README.md", "reproduce/defaults/README.md")
    }
    for name, page in pages.items():
        stale = (
            page.replace("agrees", "thinks").replace("prototype |", "|").replace("question types, acc", "x")
        )
        (tmp_path / name).write_text(stale)
    run_main(table, "--folder", tmp_path / "reproduce")
    assert {name: (tmp_path / name).read_text() for name in pages} == pages
    for name, heading in table.FOLDERS.items():
        assert f"\n## {heading}\n" in pages["reproduce/README.md"]
        assert f"<!-- table: {name} -->" in pages["reproduce/README.md"]


@pytest.mark.parametrize("name", table.FOLDERS)
def test_a_committed_file_is_as_it_would_be_written_and_its_claims_follow_from_its_cells(name, tmp_path):
    path = ROOT / "reproduce" / name / "result.json"
    result = read(path)
    again = ResultFile(tmp_path / "again.json", question=result["question"], claims=result["claims"])
    again.cells = result["cells"]
    again.write()
    assert again.path.read_text() == path.read_text()
    claims = importlib.import_module(f"reproduce.{name}.claims").claims
    assert rounded(claims(result["cells"])) == result["claims"]


def test_the_search_is_drawn_from_its_file(tmp_path):
    content = search.read()
    search.figure(content, tmp_path / "search.svg")
    drawn = (tmp_path / "search.svg").read_text()
    assert drawn.count("<svg") == 1
    assert all(shape in drawn for shape in search.SHAPES)
    worse = {name: dict(part) for name, part in content["parts"].items()}
    name = "rank 2, width 112, lr 0.0063"
    worse["third"][name] = {at: dict.fromkeys(seeds, 0.0) for at, seeds in worse["third"][name].items()}
    third = search.tables({"parts": worse}).split("\n\n")[2]
    assert "-0.9" in third.splitlines()[-1]
