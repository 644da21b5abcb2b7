from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks.initialization import initialize_bases
from benchmarks.shared.base_models import base_model, load
from models import find


@pytest.mark.parametrize(
    ("name", "bases", "rank"), [("minilm", "gradient", 8), ("minilm", "fisher", 32), ("mpnet", "fisher", 32)]
)
def test_initializing_bases_takes_no_more_memory_than_a_training_step(name, bases, rank):
    find(name)
    options = Namespace(bases=bases, device="cpu", rounds=1, budget=0)
    figures = initialize_bases.measured(base_model(load(name, "cpu"), rank), 8, 64, options)
    for method, measured in figures["methods"].items():
        assert measured["peak_bytes"] > 10 * 2**20, f"{method}: the measurement sees nothing"
    assert figures["memory_over_step"] <= initialize_bases.MAX_MEMORY
