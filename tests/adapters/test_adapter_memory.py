from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from models import find

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "init_memory.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
def test_initializing_bases_takes_no_more_memory_than_a_training_step():
    find("minilm")
    case = runpy.run_path(str(BENCHMARK))["measure"]("minilm", 16, 64)
    median = case["median"]
    for what in ("init", "step"):  # the measurement sees the model and something on top of it
        assert 80 < median[what]["before_mib"] < median[what]["peak_mib"] - 10
    assert case["ratio"] <= 1.15
    assert case["ratio_above_model"] <= 1.15
