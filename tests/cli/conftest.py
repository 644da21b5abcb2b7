"""Runs of one step on small tables, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import Outcome, corefold, write_csv

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
