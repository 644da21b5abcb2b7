"""Comparisons of a few cells, on a BERT of two layers with random weights and MiniLM's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command import Outcome, corefold
from once import filled, folder_of_run


@pytest.fixture(scope="session")
def tiny(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer, BertConfig, BertModel

    sides = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

    def save(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            BertModel(BertConfig(**sides, **dropout)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(minilm_dir).save_pretrained(folder)

    return filled(folder_of_run(tmp_path_factory, "tiny"), save)


@pytest.fixture
def grid(tiny: Path, reviews: Path, tmp_path: Path) -> dict[str, object]:
    """A grid of two cells."""
    return {
        "--model": tiny, "--train": reviews, "--eval": reviews, "--text": "text", "--label": "label", "--steps": 3,
        "--batch-size": 8, "--max-length": 16, "--ranks": 2, "--samples": 16, "--seeds": 1, "--jobs": 1,
        "-o": tmp_path / "out",
    }  # fmt: skip


def compare(grid: dict[str, object], *flags: object, **changed: object) -> Outcome:
    """Run the grid with some options changed, or left out where the value is None."""
    options = {**grid, **{"--" + name.replace("_", "-"): value for name, value in changed.items()}}
    return corefold(
        "compare", *(part for pair in options.items() if pair[1] is not None for part in pair), *flags
    )


def records(grid: dict[str, object]) -> list[dict]:
    lines = (Path(str(grid["-o"])) / "cells.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
