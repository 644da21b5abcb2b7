"""Each method on each kind of task: it starts as the untouched model, trains what it should, and learns."""

from __future__ import annotations

import runpy
from typing import get_args

import pytest
import torch
from adalora_penalty import penalty

from corefold.finetune import InputError, methods
from corefold.finetune.config import KeptMethod, MethodName
from corefold.finetune.methods import METHODS

CASES = [
    *((name, "mean") for name, method in METHODS.items() if method.trains),
    *((name, "own") for name in ("eva", "lora-ga", "lora-one", "adalora", "vera", "full", "head")),
    *((name, "cosine") for name in ("eva", "lora-ga", "lora-one", "full")),
]


def test_there_is_one_list_of_names():
    names = {*runpy.run_path(methods.__file__)["METHODS"]}  # reproduce/ adds to METHODS itself.
    assert names == {*get_args(MethodName)}
    assert {*get_args(KeptMethod)} < names


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_starts_as_the_untouched_model_and_learns(prepared, name, kind):
    untouched = prepared("full", kind).evaluate()
    fit = prepared(name, kind, **({"lr": 3e-3} if METHODS[name].peft is None else {}))
    began = {key: p.detach().clone() for key, p in fit.model.named_parameters()}
    before = fit.evaluate()
    if name != "lora-one":  # Its start is a step down the gradient, of a length of its own.
        assert before["loss"] - penalty(name, kind, fit) == pytest.approx(untouched["loss"], abs=1e-4)
    fit.train()
    assert fit.evaluate()["loss"] < before["loss"]
    bases = ("deeplora_left", "deeplora_right")  # A callback sets them.
    moved = {key for key, p in fit.model.named_parameters() if not torch.equal(p, began[key])}
    moved = {key for key in moved if not any(base in key for base in bases)}
    trains = {key for key, p in fit.model.named_parameters() if p.requires_grad}
    assert moved
    assert moved <= trains
    if name != "full":
        assert sum(began[key].numel() for key in trains) == fit.trainable_parameters() < 60_000


def test_a_head_alone_needs_a_head(prepared):
    with pytest.raises(InputError, match="has none"):
        prepared("head", "cosine")


@pytest.mark.parametrize("name", ["vera", "eva"])
def test_an_adapter_wider_than_the_model_is_refused(prepared, name):
    with pytest.raises(InputError, match="r=65 exceeds"):
        prepared(name, "mean", rank=65)
