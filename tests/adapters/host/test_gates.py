"""Scales and active adapters."""

from __future__ import annotations

import copy

import pytest
import torch

from adapters.layer_kinds import adapted, base_of, close, every_kind, inputs_of, run_dense
from adapters.overlapping_adapters import BATCH, alone, overlapping
from models import layers, logits, tiny_llama, wrap


@pytest.fixture
def model():
    return overlapping()


@every_kind
def test_scales(kind):
    model, base, x = adapted(kind), base_of(kind), inputs_of(kind)
    for layer in layers(model).values():
        layer.set_scale("default", 2)
        layer.scale_layer(0.75)
    close(model(x), run_dense(model, base, x, scale=1.5))
    merged = copy.deepcopy(model).merge_and_unload()
    close(merged(x), run_dense(model, base, x, scale=1.5))
    for layer in layers(model).values():
        layer.unscale_layer(3)
    close(model(x), run_dense(model, base, x, scale=0.5))
    for layer in layers(model).values():
        layer.unscale_layer()
        layer.set_scale("unknown", 7)
    close(model(x), run_dense(model, base, x))


def test_set_adapter_switches(model):
    one, two, base = (alone(model, name) for name in ("one", "two", "__base__"))
    assert not any(torch.equal(a, b) for a, b in [(one, two), (one, base), (two, base)])
    assert torch.equal(alone(model, "one"), one)
    assert torch.equal(base, logits(tiny_llama(), BATCH))
    model.set_adapter("two")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("deeplora_factors.two" in name for name in trained)


def test_unknown_names(model):
    with pytest.raises(ValueError, match="three"):
        model.set_adapter("three")
    with pytest.raises((ValueError, KeyError), match="three"):
        model.delete_adapter("three")


def test_gates_made_while_evaluating_serve_a_compiled_training_step():
    """A trained model is often compared with its base inside `torch.inference_mode`."""
    model = wrap(tiny_llama(), target_modules=["q_proj"], r=4)
    with torch.inference_mode(), model.disable_adapter():
        logits(model, BATCH)
    for layer in layers(model).values():
        assert not layer.gates["default"].is_inference()
        assert layer.gates["default"] == 1
