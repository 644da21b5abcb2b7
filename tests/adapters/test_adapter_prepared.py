"""Cores computed together for a whole model: the same training, and only where they are sure to be right."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import corefold.adapters.model
from models import batches, inputs, layers, randomise, tiny_llama, wrap


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = wrap(tiny_llama(), target_modules="all-linear", rank_pattern={"v_proj": 3}, bases="random")
    randomise(model)
    return model.train()


def gradients(model):
    model.zero_grad(set_to_none=True)
    model(**batches("tiny")[0]).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def used(model, monkeypatch):
    """How many layers get their core from the batch, in a forward pass."""
    seen = []
    real = corefold.adapters.leaves.cores_at_hand

    def watch(layer, names):
        found = real(layer, names)
        seen.append(found is not None and found[0] is not None)
        return found

    monkeypatch.setattr(corefold.adapters.leaves, "cores_at_hand", watch)
    gradients(model)
    return sum(seen), len(seen)


def test_gradients_are_those_of_cores_computed_layer_by_layer(model, monkeypatch):
    together = gradients(model)
    monkeypatch.setattr(corefold.adapters.model, "prepared_cores", lambda layers: nullcontext())
    alone = gradients(model)
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-5, atol=1e-8)


def test_every_layer_gets_its_core_and_keeps_none(model, monkeypatch):
    count = len(layers(model))
    assert used(model, monkeypatch) == (count, count)
    assert not any(layer.prepared_cores for layer in layers(model).values())
    with pytest.raises(ValueError, match="input_ids"):
        model()
    assert not any(layer.prepared_cores for layer in layers(model).values())


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_compute_their_own(model, reentrant):
    plain = gradients(model)
    model.enable_input_require_grads()
    base = model.get_base_model()
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    again = gradients(model)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-8)


def test_a_layer_that_is_not_reached_gets_no_gradient(model):
    skipped = next(name for name in layers(model) if "layers.1" in name and "down_proj" in name)
    block = model.get_submodule(skipped.rpartition(".")[0])
    block.forward = lambda x: x
    names = gradients(model)
    assert not any("layers.1.mlp" in name for name in names)
    assert any("layers.0.mlp" in name for name in names)


def test_merged_and_switched_off_layers_want_none(model):
    with model.disable_adapter(), torch.no_grad():
        model(**inputs("tiny"))
    model.merge_adapter()
    with torch.no_grad():
        merged = model(**inputs("tiny")).logits
    model.unmerge_adapter()
    torch.testing.assert_close(model(**inputs("tiny")).logits, merged, rtol=1e-3, atol=1e-4)
