from __future__ import annotations

from pathlib import Path

import pytest

from models import find

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "bases", "rank"), [("minilm", "gradient", 8), ("minilm", "fisher", 32), ("mpnet", "fisher", 32)]
)
def test_initializing_bases_takes_no_more_memory_than_a_training_step(monkeypatch, name, bases, rank):
    find(name)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import init

    case = init.case_of(init.load(name, "cpu"), rank)
    found = init.run(case, bases, 8, 64, "cpu", rounds=1, budget=0)
    for method, measured in found["methods"].items():
        assert measured["peak_bytes"] > 10 * 2**20, f"{method}: the measurement sees nothing"
    assert found["memory_over_step"] <= init.MEMORY
