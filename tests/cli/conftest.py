"""Runs of one step on small tables, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from command import Outcome, corefold, write_csv
from once import filled, folder_of_run

TEXTS = ["a joy", "a mess", "so warm", "so dull", "the best", "the worst"]
SETTINGS = {"--text": "text", "--label": "label", "--steps": 1, "--batch-size": 4, "--max-length": 8, "--rank": 1,
            "--method": "lora"}  # fmt: skip


@pytest.fixture
def finetune_table(tiny: Path, tmp_path: Path):
    """A function that trains on a table, and evaluates on it, and answers with what was printed."""

    def run(train: Path, **changed: object) -> Outcome:
        options = {
            "--model": tiny, "--train": train, "--eval": train, **SETTINGS, "-o": tmp_path / "out",
            **{"--" + name.replace("_", "-"): value for name, value in changed.items()},
        }  # fmt: skip
        return corefold(
            "finetune", *(part for pair in options.items() if pair[1] is not None for part in pair)
        )

    return run


@pytest.fixture(scope="session")
def two_classes(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that knows the classes 0 and 1."""
    folder = tmp_path_factory.mktemp("tables")
    table = write_csv(folder / "t.csv", ["text", "label"], [(text, i % 2) for i, text in enumerate(TEXTS)])
    options = {"--model": tiny, "--train": table, "--eval": table, **SETTINGS, "-o": folder / "out"}
    outcome = corefold("finetune", *(part for pair in options.items() for part in pair))
    assert outcome.code == 0, outcome.err
    assert (
        "note: task classification: the 2 whole numbers in 'label' are read as names of classes"
        in outcome.err
    )
    return folder / "out"


@pytest.fixture(scope="session")
def predictions_of(two_classes: Path):
    """A function that predicts for a table with that run, and answers with the output's path."""

    def predict(source: object, output: Path) -> Path:
        outcome = corefold("predict", two_classes, source, "-o", output)
        assert outcome.code == 0, outcome.err
        return output

    return predict


@pytest.fixture(scope="session")
def language_model(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama of two layers with random weights, and the tokenizer of SmolLM2."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    def save(folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=128, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return filled(folder_of_run(tmp_path_factory, "llama"), save)
