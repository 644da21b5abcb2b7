"""One small finished run that the tests of commands read (and copy before they change it)."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import corefold, write_reviews


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("data") / "reviews.csv")


@pytest.fixture(scope="session")
def finished(minilm_dir: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    outcome = corefold(
        "finetune", "--model", minilm_dir, "--train", reviews, "--eval", reviews, "--text", "text", "--label", "label",
        "--steps", 20, "--batch-size", 8, "-o", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return out
