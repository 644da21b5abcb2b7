"""`corefold compare`: all methods beside each other, killed and resumed, refused, and its table and page."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from command import corefold, refused, start, write_csv
from grids import compare, records

pytestmark = pytest.mark.usefixtures("unrendered")
ALL = "lora,deep-lora,lora-ga,lora-one,eva,pissa,adalora,dora,vera,full,head"


def test_every_method_runs_and_gets_the_same_rows_in_the_same_batches(grid, monkeypatch):
    from transformers import Trainer

    seen: list[list[str]] = []
    evaluated: list[str] = []
    train, step, evaluate = Trainer.train, Trainer.training_step, Trainer.evaluate

    def digest(tensor):
        return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:8]

    def begin(self, *args, **kwargs):
        seen.append([])
        return train(self, *args, **kwargs)

    def watched(self, model, inputs, *args, **kwargs):
        seen[-1].append(digest(inputs["first"]["input_ids"]) + digest(inputs["labels"]))
        return step(self, model, inputs, *args, **kwargs)

    def scored(self, rows, *args, **kwargs):
        evaluated.append(json.dumps([row["labels"] for row in rows]))
        return evaluate(self, rows, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", begin)
    monkeypatch.setattr(Trainer, "training_step", watched)
    monkeypatch.setattr(Trainer, "evaluate", scored)
    outcome = compare(grid, methods=ALL, seeds=2, steps=5)
    assert outcome.code == 0, outcome.err
    cells = records(grid)
    assert [cell["error"] for cell in cells] == [None] * 22, [cell["error"] for cell in cells]
    assert len(seen) == 22
    by_seed = {
        seed: {tuple(seen[i]) for i, cell in enumerate(cells) if cell["seed"] == seed} for seed in (0, 1)
    }
    assert [len(batches) for batches in by_seed.values()] == [1, 1]
    assert by_seed[0] != by_seed[1]
    assert all(len(batches) == 5 for group in by_seed.values() for batches in group)
    assert len(set(evaluated)) == 1
    trained = {cell["method"]: cell["trainable_parameters"] for cell in cells}
    kept = {cell["method"]: cell["bytes"] for cell in cells}
    assert trained["head"] == 2 * 32 + 2
    assert trained["deep-lora"] == 12 * 2 * 32 * 2 + 66  # the cores of twelve layers, and the head
    assert trained["lora"] == trained["pissa"] == trained["lora-ga"] == trained["dora"] - 2 * (5 * 32 + 64)
    assert kept["full"] > 4 * trained["full"] > kept["lora"] > 4 * trained["lora"] > kept["head"]


def test_a_cell_is_what_finetune_does_with_the_same_settings(grid, tmp_path):
    assert compare(grid, methods="lora,deep-lora", steps=6).code == 0
    for cell in records(grid):
        out = tmp_path / cell["method"]
        given = {
            name: value
            for name, value in grid.items()
            if name[2:] not in ("ranks", "samples", "seeds", "jobs")
        }
        given |= {
            "--rank": 2,
            "--samples": 16,
            "--seed": 0,
            "--method": cell["method"],
            "-o": out,
            "--steps": 6,
        }
        assert corefold("finetune", *(part for pair in given.items() for part in pair)).code == 0
        metrics = json.loads((out / "metrics.json").read_text())
        assert cell["scores"] == metrics["after"]
        assert cell["trainable_parameters"] == metrics["adapter"]["trainable_parameters"]
        head = (out / "head.safetensors").stat().st_size
        assert metrics["adapter"]["bytes"] < cell["bytes"] < metrics["adapter"]["bytes"] + head + 64
        assert cell["settings"]["lr"] == pytest.approx(
            3e-4 if cell["method"] == "lora" else 0.05 / (2 * 3) ** 0.5
        )
        assert cell["settings"]["weight_decay"] == (0 if cell["method"] == "lora" else 3)


def test_settings_come_from_a_file_and_options_win(grid, tmp_path):
    file = tmp_path / "settings.yaml"
    # The rank is a cell's own, as in the config.yaml of a run.
    file.write_text("lr: 0.02\nhead_lr: 0.01\nsteps: 4\nrank: 7\nweight_decay: 0.1\n")
    assert compare(grid, config=file, steps=2, methods="lora").code == 0
    (cell,) = records(grid)
    chosen = {"lr": 0.02, "weight_decay": 0.1, "head_lr": 0.01, "steps": 2, "objective": "cross-entropy"}
    assert cell["settings"] == chosen
    assert cell["rank"] == 2
    file.write_text("learning: 1\n")
    refused(compare(grid, config=file), "unknown setting 'learning'")


def test_a_killed_grid_goes_on_where_it_was(grid):
    more = {"--seeds": 6, "--jobs": 2}
    process = start("compare", *(part for pair in {**grid, **more}.items() for part in pair))
    cells = Path(str(grid["-o"])) / "cells.jsonl"
    deadline = time.monotonic() + 180
    while not cells.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert cells.exists(), errors
    deadline = time.monotonic() + 30
    done = -1
    while done != (done := len(records(grid))) and time.monotonic() < deadline:
        time.sleep(1.5)  # its processes end the cell that they are at, and then notice
    assert 0 < done < 12
    before = cells.read_bytes()
    with cells.open("ab") as file:
        file.write(b'{"method": "lora", "rank": 2, "samples": 16, "seed": 5, "err')  # torn by a power cut
    outcome = compare({**grid, **more, "--jobs": 1})
    assert outcome.code == 0, outcome.err
    assert cells.read_bytes().startswith(before)
    assert f"of {12 - done} cells" in outcome.err
    whole = [json.loads(line) for line in cells.read_text().splitlines() if line.endswith("}")]
    assert len({(cell["method"], cell["seed"]) for cell in whole}) == len(whole) == 12
    again = compare({**grid, **more})
    assert again.code == 0
    assert "cells:" not in again.err
    assert len(cells.read_text().splitlines()) == 13


def test_more_of_everything_extends_it_and_anything_else_is_refused(grid, reviews, tmp_path):
    assert compare(grid, methods="head").code == 0
    cells = Path(str(grid["-o"])) / "cells.jsonl"
    first = cells.read_bytes()
    moved = Path(str(tmp_path / "moved.csv"))
    moved.write_bytes(reviews.read_bytes())
    assert compare(grid, methods="lora,head", samples="8,16", seeds=2, train=moved).code == 0
    assert len(records(grid)) == 1 + 7
    assert cells.read_bytes().startswith(first)
    kept = {path.name: path.read_bytes() for path in cells.parent.iterdir()}
    other = write_csv(tmp_path / "other.csv", ["text", "label"], pd.read_csv(reviews).iloc[:-1].to_numpy())
    for changed, words in (
        ({"steps": 4}, ["steps 3, not 4"]),
        ({"lr": 0.1}, ["lr not set, not 0.1"]),
        ({"train": other}, ["train"]),
        ({"eval": other}, ["eval"]),
        ({"tune": "lr=0.1,0.2", "methods": "lora,head", "samples": 16}, ["chosen from nothing"]),
    ):
        refused(compare(grid, **{"methods": "head", **changed}), "another -o", *words)
    assert {path.name: path.read_bytes() for path in cells.parent.iterdir()} == kept


def test_cells_of_other_defaults_are_not_mixed(grid, monkeypatch):
    same = {"methods": "deep-lora", "tune": "lr=0.1,0.2", "steps": 2}
    assert compare(grid, **same).code == 0
    out = Path(str(grid["-o"]))
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    for place, name, value in (
        ("corefold.finetune.method.HEAD_LR", "head_lr", 0.123),
        ("corefold.adapters.deep_lora.recipe.RANK_TIMES_WIDTH", "width", 10),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, 20 if name == "width" else value)  # ten columns for rank 2
            refused(
                compare(grid, **same, seeds=2),
                f"{name} ",
                f"this version decides {name} {value}",
                "another -o",
            )
        assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    assert compare(grid, **same).code == 0
    assert len(records(grid)) == 1


def test_another_model_and_a_folder_of_something_else_are_refused(grid, tiny, tmp_path):
    import shutil

    assert compare(grid, methods="head").code == 0
    changed = Path(shutil.copytree(tiny, tmp_path / "model"))
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(weights)
    refused(compare(grid, methods="head", model=changed), "model", "another -o")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all my work")
    refused(compare({**grid, "-o": mine}), "not empty")
    (mine / "settings.json").write_text("{}")
    refused(compare({**grid, "-o": mine}), "settings.json")
    assert (mine / "thesis.txt").read_text() == "all my work"
    assert len(list(mine.iterdir())) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"methods": "lora,lara"}, ["--methods", "'lara'", "deep-lora"]),
        ({"methods": "lora,lora"}, ["--methods", "each once"]),
        ({"ranks": "2,many"}, ["--ranks", "whole numbers"]),
        ({"ranks": "0"}, ["--ranks", "at least 1"]),
        ({"samples": "16,100000"}, ["100000", "32 rows"]),
        ({"samples": "4", "tune": "lr=1,2"}, ["--tune", "--samples 4"]),
        ({"tune": "lr"}, ["--tune", "NAME=V1,V2"]),
        ({"tune": "max_length=3,4"}, ["--tune", "one of lr"]),
        ({"tune": "lr=0,1"}, ["--lr must be positive"]),
        ({"tune": "dora.lr=0.1,0.2"}, ["'dora'", "--methods"]),
        ({"tune": "lora.lr=0.1,0.2"}, ["same number of tries", "lora 2, deep-lora 0"]),
        ({"train": "nowhere.csv"}, ["nowhere.csv", "no such file"]),
        ({"label": "stars"}, ["no column 'stars'"]),
        ({"model": "/no/such/folder"}, ["/no/such/folder", "cannot be loaded"]),
        ({"steps": 0}, ["--steps", "at least 1"]),
    ],
)
def test_bad_input_is_refused_before_there_is_a_folder(grid, changed, words):
    refused(compare(grid, **changed), *words)
    assert not Path(str(grid["-o"])).exists()


def test_a_method_that_cannot_run_says_why_and_the_grid_goes_on(grid, tmp_path):
    outcome = compare(grid, methods="head,lora,deep-lora", ranks="2,4096")
    assert outcome.code == 0, outcome.err
    failed = {(c["method"], c["rank"]): c["error"] for c in records(grid) if c["error"]}
    assert set(failed) == {("lora", 4096), ("deep-lora", 4096)}
    assert all("4096 exceeds" in error and "\n" not in error for error in failed.values())
    assert "lora, 16 rows, rank 4,096: 1 without a score" in outcome.out
    assert "4096 exceeds" in (tmp_path / "out/index.html").read_text()
    assert "cells:" not in compare(grid, methods="head,lora,deep-lora", ranks="2,4096").err
    assert "of 2 cells" in compare(grid, "--retry", methods="head,lora,deep-lora", ranks="2,4096").err
    refused(
        compare({**grid, "-o": tmp_path / "none"}, methods="lora", ranks=4096), "no cell has a score", "4096"
    )


def test_what_the_caller_froze_stays_frozen(grid):
    assert gc.get_freeze_count() > 0  # by tests/conftest.py
    assert compare(grid, methods="head").code == 0
    assert gc.get_freeze_count() > 0


def test_ctrl_c_says_how_to_go_on(grid, monkeypatch):
    from corefold.compare import workers

    run, count = workers.run_cell, []

    def stopped(given, key):
        count.append(key)
        if len(count) == 2:
            raise KeyboardInterrupt
        return run(given, key)

    monkeypatch.setattr(workers, "run_cell", stopped)
    outcome = compare(grid)
    assert outcome.code == 130
    assert "the same command continues" in outcome.out
    assert "Traceback" not in outcome.err
    monkeypatch.undo()
    assert len(records(grid)) == 1
    assert compare(grid).code == 0
    assert len(records(grid)) == 2
