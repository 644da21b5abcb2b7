"""Benchmarks and experiments as a user runs them, and two small sets of data for them."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from command import write_csv


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the `main` of a module with these arguments."""

    def run_main(module: ModuleType, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    return run_main


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> tuple[Any, ...]:
    """Arguments for two small sets in files, with few training steps."""
    monkeypatch.setattr(importlib.import_module("corefold.adapters.deep_lora.recipe"), "MIN_STEPS", 3)
    pairs = [(f"a man number {i}", f"a dog number {i % 3}", i % 5 + 0.5) for i in range(40)]
    texts = [(f"{'who' if i % 2 else 'where'} is number {i}", i % 2) for i in range(40)]
    for part in ("train", "dev"):
        for name, header, rows in (
            ("stsb", ["sentence1", "sentence2", "score"], pairs),
            ("trec", ["text", "label"], texts),
        ):
            folder = tmp_path / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            write_csv(folder / f"{part}.csv", header, rows)
    encoder = shutil.copytree(tiny, tmp_path / "encoder")
    (encoder / "modules.json").write_text("[]")  # marks a model that embeds sentences
    return ("--model", encoder, "--data", tmp_path / "data", "--sets", "stsb", "trec", "--samples", 10,
            "--seeds", 2, "--out", tmp_path)  # fmt: skip
