from __future__ import annotations

from pathlib import Path

import pytest

from models import find

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_initializing_bases_takes_no_more_memory_than_a_training_step(monkeypatch, name):
    find(name)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import init

    case = init.case_of(init.load(name, "cpu"), 8)
    found = init.run(case, 8, 64, "cpu", rounds=1, budget=0)
    for name, method in found["methods"].items():
        assert method["peak_bytes"] > 10 * 2**20, f"{name}: the measurement sees nothing"
    assert found["memory_over_step"] <= init.MEMORY
