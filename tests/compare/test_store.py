"""Cells on disk: whole lines from many processes, torn ones, a full disk."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corefold.compare.grid import Key
from corefold.compare.store import append, open_store, read_cells
from corefold.finetune import InputError


def cell(seed, **more):
    return {"method": "lora", "rank": 8, "samples": 16, "seed": seed, **more}


def test_many_writers_leave_whole_lines(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: append(tmp_path, cell(seed, text="x" * 5000)), range(200)))
    assert {key.seed for key in read_cells(tmp_path)} == set(range(200))
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 200


@pytest.mark.parametrize("torn", ['{"method": "lo', '{"method": "lora"}', "[1]", "\x00\x00"])
def test_a_line_that_was_cut_is_no_cell_and_spoils_no_other(tmp_path, torn):
    settings, out = {"tries": {}}, tmp_path / "out"
    open_store(out, settings)
    append(out, cell(0))
    with (out / "cells.jsonl").open("a") as file:
        file.write(torn)
    assert list(read_cells(out)) == [Key("lora", 8, 16, 0)]
    open_store(out, settings)
    append(out, cell(1))
    assert list(read_cells(out)) == [Key("lora", 8, 16, 0), Key("lora", 8, 16, 1)]


def test_of_equal_keys_the_last_counts(tmp_path):
    append(tmp_path, cell(0, error="no memory"))
    append(tmp_path, cell(0, error=None))
    assert read_cells(tmp_path)[Key("lora", 8, 16, 0)]["error"] is None


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            return len(data) // 2

    append(tmp_path, cell(0))
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", *a, **kw: Full() if mode == "ab" else opened(path, mode)
    )
    with pytest.raises(OSError, match="No space left"):
        append(tmp_path, cell(1))


def test_a_method_that_comes_later_must_have_as_many_tries(tmp_path):
    out, settings = tmp_path / "out", {"lr": None}
    open_store(out, {**settings, "tries": {"lora": [{"lr": 1e-4}, {"lr": 1e-3}]}})
    before = (out / "settings.json").read_bytes()
    for tries in ([], [{"lr": 1.0}], [{"lr": 1.0}] * 3):
        with pytest.raises(InputError, match="same number of tries"):
            open_store(out, {**settings, "tries": {"dora": tries}})
    with pytest.raises(InputError, match="lora those that it had"):
        open_store(out, {**settings, "tries": {"lora": [{"lr": 1e-4}, {"lr": 1e-2}]}})
    assert (out / "settings.json").read_bytes() == before
    open_store(out, {**settings, "tries": {"dora": [{"lr": 1e-4}, {"lr": 1e-2}]}})
    assert set(json.loads((out / "settings.json").read_text())["tries"]) == {"lora", "dora"}
