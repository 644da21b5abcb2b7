"""The cells of a comparison, their order and their work."""

from __future__ import annotations

import pytest

from corefold.compare.grid import Grid, Key, trains
from corefold.finetune import InputError, RunConfig


def grid(**changed) -> Grid:
    settings = {"methods": ("lora", "head"), "ranks": (2, 8), "samples": (16, 64), "seeds": 2, "tries": {}}
    return Grid(RunConfig(steps=changed.pop("steps", None)), **{**settings, **changed})


def test_every_cell_once_and_methods_in_turns():
    keys = grid().keys()
    assert len(keys) == len(set(keys)) == 2 * 2 * 3
    assert keys[:3] == [Key("lora", 2, 16, 0), Key("head", None, 16, 0), Key("lora", 8, 16, 0)]
    assert [key.seed for key in keys] == [0] * 6 + [1] * 6
    assert str(keys[0]) == "lora, rank 2, 16 rows, seed 0"
    assert Key.of({"method": "head", "rank": None, "samples": 1000, "seed": 3, "error": None}).samples == 1000


def test_work_is_steps_with_those_of_the_tries():
    tries = {"lora": [{"lr": 1e-4}] * 3, "head": [{"lr": 1e-2}] * 3}
    tuned = grid(methods=("lora", "head", "untouched"), tries=tries)
    assert tuned.work(Key("lora", 2, 16, 0)) == 4 * 100
    assert tuned.work(Key("lora", 2, 256, 0)) == 4 * 160
    assert tuned.work(Key("untouched", None, 64, 0)) == 1
    assert grid(steps=7).work(Key("lora", 2, 16, 0)) == 7
    assert trains("lora")
    assert not trains("untouched")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"methods": ("lora", "lara")}, "--methods knows lora, deep-lora, .*; got 'lara'"),
        ({"methods": ()}, "--methods needs one or more"),
        ({"ranks": (2, 2)}, "--ranks needs one or more, each once; got 2,2"),
        ({"samples": (0,)}, "--samples must be at least 1"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"tries": {"lora": [{}]}}, "same number of tries; got lora 1, head 0"),
        ({"samples": (4,), "tries": {"lora": [{}], "head": [{}]}}, "--samples 4 has none"),
    ],
)
def test_a_grid_that_compares_nothing_is_refused(changed, words):
    with pytest.raises(InputError, match=words):
        grid(**changed)
