"""`corefold complete` in tests: a wide table, tables of entries, and what the command prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command import Outcome, corefold

LABELS = ["--row", "user", "--col", "item", "--value", "rating"]
STREAM = np.random.default_rng(0)
X = STREAM.normal(size=(40, 2)) @ STREAM.normal(size=(2, 12)) + 3
SEEN = STREAM.random(X.shape) < 0.7
SEEN[:, 0] = True
GAPPED = np.where(SEEN, X, np.nan)
WIDE = pd.DataFrame(GAPPED, columns=[f"c{place}" for place in range(12)]).round(4)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks of one step and no other candidates, for tests of files and labels: any fit serves them."""
    from corefold.completion import DeepMatrixCompletion

    defaults = DeepMatrixCompletion.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "max_iter", 1)
    monkeypatch.setitem(defaults, "candidates", "low_rank")


def done(*arguments: object) -> Outcome:
    outcome = corefold("complete", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def notes(outcome: Outcome) -> str:
    return "\n".join(line for line in outcome.out.splitlines() if line.startswith("note: "))


def long_table(users: list[str], items: list[str]) -> pd.DataFrame:
    """An entry a row, of which every user and item has some."""
    row, column = np.indices((len(users), len(items)))
    shown = (row + column) % 4 != 3
    return pd.DataFrame(
        {
            "user": np.array(users, dtype=object)[row[shown]],
            "item": np.array(items, dtype=object)[column[shown]],
            "rating": (row + 2.0 * column)[shown],
        }
    )


def filled(tmp_path: Path, *arguments: object) -> pd.DataFrame:
    """The filled table, its cells as they are written."""
    done(*arguments, "-o", tmp_path / "filled.csv", "--force")
    return pd.read_csv(tmp_path / "filled.csv", dtype=str)
