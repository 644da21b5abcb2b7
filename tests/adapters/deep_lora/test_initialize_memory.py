"""The peak memory of `initialize_bases`, measured as the benchmark does, beside that of a training step."""

from __future__ import annotations

import pytest
from torch import Tensor

from benchmarks.initialization.initialize_bases import MAX_MEMORY, adapter, initialize
from benchmarks.shared.base_models import base_model, load, random_batch
from benchmarks.shared.footprint import Watch
from benchmarks.shared.training_steps import warmed_up
from models import find


@pytest.mark.parametrize(
    ("name", "bases", "rank"), [("minilm", "gradient", 8), ("minilm", "fisher", 32), ("mpnet", "fisher", 32)]
)
def test_initializing_bases_takes_no_more_memory_than_a_training_step(name, bases, rank):
    find(name)
    base = base_model(load(name, "cpu"), rank)

    def batch(seed: int) -> dict[str, Tensor]:
        return random_batch(base.module, 8, 64, seed, "cpu")

    _, step = warmed_up("deep_frozen", base, batch, "cpu")
    with Watch() as watch:
        model = adapter(base, bases)
        watch.mark()
        initialize(base, model, batch(0))
    assert min(watch.peak, step["peak_bytes"]) > 10 * 2**20, "the measurement sees nothing"
    assert watch.peak <= MAX_MEMORY * step["peak_bytes"]
