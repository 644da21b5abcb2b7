"""The results of `corefold compare`: choices, scores, the table and the page."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from command import refused, write_csv
from grids import compare, records


def test_tuning_chooses_by_held_out_rows_and_tells_every_try(grid, monkeypatch):
    from corefold.finetune import trainer

    fits = []
    prepare = trainer.prepare
    monkeypatch.setattr(
        "corefold.compare.cell.prepare", lambda *args, **kw: fits.append(prepare(*args, **kw)) or fits[-1]
    )
    flags = ["--tune", "lr=1e-6,1e-2", "--tune", "head.lr=0.5,1e-6", "--tune", "steps=20,20"]
    outcome = compare(grid, *flags, methods="head,full", steps=None, samples=20, batch_size=4)
    assert outcome.code == 0, outcome.err
    for number, cell in enumerate(records(grid)):
        rows = [[json.dumps(row, sort_keys=True) for row in f.data.train] for f in fits[5 * number :][:5]]
        *tries, final = fits[5 * number :][:5]
        held = [{json.dumps(row, sort_keys=True) for row in each.data.eval} for each in tries]
        assert [len(each) for each in rows] == [16] * 4 + [20]
        for fitted, evaluated in zip(rows, held, strict=False):
            assert evaluated.isdisjoint(fitted)
            assert evaluated | set(fitted) == set(rows[-1])  # the training subset, and no evaluation row
        assert [each.data.settings.steps for each in tries] == [20] * 4
        scores = [(each["accuracy"], -each["loss"]) for each in cell["tries"]]
        assert len(scores) == 4
        assert cell["chosen"] == scores.index(max(scores))
        assert final.data.settings.lr == cell["settings"]["lr"] == cell["tries"][cell["chosen"]]["lr"]
        assert cell["settings"]["lr"] > 1e-3  # the others hardly move
    page = (Path(str(grid["-o"])) / "index.html").read_text()
    assert "lr 0.5; steps 20" in page


def test_the_table_and_the_page_show_what_the_cells_say(grid, tmp_path):
    outcome = compare(grid, methods="lora,deep-lora,head", ranks="2,4", samples="8,16", seeds=2)
    assert outcome.code == 0, outcome.err
    cells = records(grid)
    table = json.loads((tmp_path / "out/table.json").read_text())
    with (tmp_path / "out/table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [row["method"] for row in lines] == [row["method"] for row in table]
    assert {(row["model"], row["train"], row["task"]) for row in lines} == {
        ("tiny", "reviews.csv", "classification")
    }
    assert all(len(row["mean"]) <= 6 for row in lines)
    assert len(table) == 2 * 2 * 3
    assert len(cells) == 2 * 2 * 5  # the head once for both ranks
    scores = {(c["method"], c["rank"], c["samples"], c["seed"]): c["scores"]["accuracy"] for c in cells}
    for row in table:
        rank = None if row["method"] == "head" else row["rank"]
        own = [scores[row["method"], rank, row["samples"], seed] for seed in (0, 1)]
        lora = [scores["lora", row["rank"], row["samples"], seed] for seed in (0, 1)]
        assert row["mean"] == pytest.approx(sum(own) / 2)
        if row["method"] == "lora":
            assert row["difference"] is None
            continue
        assert row["difference"] == pytest.approx((sum(own) - sum(lora)) / 2)
        assert row["pairs"] == 2
        if len({a - b for a, b in zip(own, lora, strict=True)}) == 1:
            assert row["low"] is row["high"] is None  # equal differences have no interval
        else:
            assert row["low"] <= row["difference"] <= row["high"]
        assert row["wins"] == sum(a > b for a, b in zip(own, lora, strict=True))
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<svg") == 4  # against rows for two ranks, against ranks for two numbers of rows
    assert re.search(r"less lora", outcome.out)
    assert "tiny on reviews.csv, evaluated on reviews.csv: classification" in outcome.out
    assert "2 seeds: interval by Student's t" in outcome.out
    assert "tiny on reviews.csv" in page
    assert "2 seeds: interval by Student&#39;s t" in page
    assert "index.html" in outcome.out
    assert max(map(len, outcome.out.splitlines()[:-1])) <= 80


def test_every_cell_says_what_it_comes_from(grid, tiny):
    assert compare(grid, methods="head").code == 0
    (cell,) = records(grid)
    assert cell["main"] == "accuracy"
    assert set(cell["scores"]) == {"loss", "accuracy", "f1_macro", "log_loss", "calibration_error"}
    assert (cell["model"]["name"], len(cell["model"]["digest"])) == (str(tiny), 16)
    assert len(cell["data"]["digests"]) == 2
    assert cell["rows"] == {"train": 16, "eval": 32}
    assert cell["tries"] == []
    assert {"corefold", "torch", "peft", "python"} <= set(cell["versions"])
    assert {"cores", "threads", "device"} <= set(cell["machine"])
    assert cell["seconds"] > cell["seconds_per_step"] > 0


def test_the_untouched_model_is_scored_as_it_comes(grid, tmp_path):
    pairs = [("a man eats", "a man is eating", 5), ("a dog runs", "a car stops", 0.5), ("it rains", "rain falls", 4),
             ("she sings", "he sleeps", 1), ("snow", "a hot day", 0)]  # fmt: skip
    table = write_csv(tmp_path / "pairs.csv", ["text", "other", "label"], pairs * 4)
    given = {"--train": table, "--eval": table, "--text-pair": "other", "--pair": "separate"}
    outcome = compare({**grid, **given}, "--tune", "lr=1e-9,2e-9", methods="untouched,full", ranks="2,4")
    assert outcome.code == 0, outcome.err
    untouched, full = records(grid)
    # Rates of 1e-9 leave the model where it was.
    assert untouched["scores"] == pytest.approx(full["scores"], abs=1e-4)
    assert untouched["trainable_parameters"] == untouched["bytes"] == 0
    assert (untouched["tries"], untouched["settings"]["lr"], len(full["tries"])) == ([], None, 2)


def test_a_model_with_a_new_head_is_not_untouched(grid):
    refused(compare(grid, methods="untouched"), "no cell has a score", "puts a new head on it")
