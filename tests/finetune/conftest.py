"""Training runs of a few steps, on a BERT of two layers with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import write_csv, write_reviews
from corefold.finetune import RunConfig

PAIRS = [("a man eats", "a man is eating", 5), ("a dog runs", "a car stops", 0.5), ("it rains", "rain falls", 4),
         ("she sings", "he sleeps", 1), ("a cat sits", "a cat is sitting", 4.5), ("snow", "a hot day", 0)]  # fmt: skip


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """For each kind of head, the settings that name a table and make such a task of it."""
    folder = tmp_path_factory.mktemp("sources")
    pairs = str(write_csv(folder / "pairs.csv", ["text", "other", "label"], PAIRS * 2))
    reviews = str(write_reviews(folder / "reviews.csv"))
    return {
        "cosine": {"train": pairs, "eval": pairs, "text_pair": "other", "pair": "separate"},
        **{head: {"train": reviews, "eval": reviews, "head": head} for head in ("own", "mean")},
    }


@pytest.fixture(scope="session")
def run_config(tiny: Path, sources):
    """A function that makes the settings of a short run with such a head."""

    def make(kind: str = "mean", **settings) -> RunConfig:
        usual = {"steps": 8, "rank": 3, "batch_size": 8, "max_length": 16, "text": "text", "label": "label"}
        return RunConfig(**{"model": str(tiny), **usual, **sources[kind], **settings})

    return make


@pytest.fixture
def prepared(run_config, tmp_path: Path):
    """A function that prepares a training run of a method, with such a head."""
    from corefold.finetune.methods import METHODS
    from corefold.finetune.run_data import draw_rows, prepare_data, read_tables
    from corefold.finetune.trainer import TrainingRun, prepare

    def make(method: str, kind: str = "mean", **settings) -> TrainingRun:
        config = run_config(kind, **settings)
        tables = read_tables(config)
        data = prepare_data(config, tables.task, *draw_rows(config, tables), METHODS[method])
        return prepare(data, tmp_path / "out")

    return make


@pytest.fixture(scope="session")
def trained(run_config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has finished."""
    from corefold.finetune import finetune

    out = tmp_path_factory.mktemp("trained") / "out"
    finetune(run_config(width=8, rank=2), out, progress=False)
    return out
