"""Parameter groups, and training with them."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.optim import SGD, AdamW

import corefold
from models import adapter_state, batches, layers, load, same_tensors, tiny_llama, wrap


def initialized(model, data, **options):
    corefold.initialize_bases(model, data, progress=False, **options)
    return model


def train(model, data, optimizer, steps):
    model.train()
    losses = []
    for step in range(steps):
        loss = model(**data[step % len(data)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("bases", ["gradient", "spectral"])
@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_twenty_steps_lower_the_loss(name, bases):
    data = batches(name, 1, rows=8)
    options = {"task_type": "SEQ_CLS"} if name == "minilm" else {"target_modules": "all-linear"}
    model = initialized(wrap(load(name) if name == "minilm" else tiny_llama(), bases=bases, **options), data)
    if name == "minilm":  # The cores alone must learn, without the head.
        model.base_model.model.classifier.requires_grad_(False)
    torch.manual_seed(0)  # Dropout draws from it.
    losses = train(model, data, AdamW(corefold.param_groups(model, lr=1e-2), eps=1e-6), 20)
    if name == "minilm":
        assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    else:  # A random Llama with a frozen head learns little, but at every step.
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.99 * losses[0]


def test_frozen_bases_get_no_gradient_and_keep_every_bit(minilm):
    data = batches("minilm")
    model = initialized(wrap(minilm), data)
    before, base = (
        adapter_state(model),
        {n: p.clone() for n, p in model.named_parameters() if "deeplora" not in n},
    )
    optimizer = AdamW(corefold.param_groups(model, lr=1e-2, weight_decay=0.1))
    train(model, data, optimizer, 2)
    model(**data[0]).loss.backward()
    for name, tensor in adapter_state(model).items():
        assert torch.equal(tensor, before[name]) == ("factors" not in name)
    assert same_tensors(base, {n: p for n, p in model.named_parameters() if "deeplora" not in n})
    for layer in layers(model).values():
        assert layer.deeplora_factors["default"].grad.abs().max() > 0
        assert layer.deeplora_left["default"].grad is None
        assert layer.deeplora_right["default"].grad is None


@pytest.mark.parametrize("where", ["config", "argument"])
def test_bases_train_at_lr_times_ratio(minilm, where):
    data = batches("minilm")
    model = initialized(wrap(minilm, basis_lr_ratio=0.25 if where == "config" else 0.0), data)
    groups = corefold.param_groups(
        model, lr=0.02, basis_lr_ratio=None if where == "config" else 0.25, weight_decay=0.1
    )
    by_name = {group["name"]: group for group in groups}
    assert [*by_name] == ["cores", "bases x 0.25"]
    assert (by_name["cores"]["lr"], by_name["cores"]["weight_decay"]) == (0.02, 0.1)
    assert (by_name["bases x 0.25"]["lr"], by_name["bases x 0.25"]["weight_decay"]) == (0.005, 0.0)
    assert len(by_name["bases x 0.25"]["params"]) == 2 * len(layers(model))
    assert model.peft_config["default"].basis_lr_ratio == 0.25
    before = adapter_state(model)
    model(**data[0]).loss.backward()
    grads = {
        n: getattr(layers(model)[n.rpartition(".")[0]], n.rpartition(".")[2])["default"].grad for n in before
    }
    SGD(groups, lr=9.0).step()
    for name, tensor in adapter_state(model).items():
        rate = 0.02 if "factors" in name else 0.005
        decayed = before[name] * (1 - 0.02 * 0.1 if "factors" in name else 1)
        torch.testing.assert_close(tensor, decayed - rate * grads[name], rtol=1e-5, atol=1e-8)
        assert grads[name] is not None


def test_ratio_zero_freezes_bases_again(minilm):
    model = wrap(minilm, basis_lr_ratio=0.1)
    groups = corefold.param_groups(model, lr=1e-2, basis_lr_ratio=0)
    assert [group["name"] for group in groups] == ["cores"]
    assert not any(p.requires_grad for n, p in model.named_parameters() if "left" in n or "right" in n)
    model.set_adapter("default")  # PEFT's switch keeps them frozen.
    assert not any(p.requires_grad for n, p in model.named_parameters() if "left" in n or "right" in n)


def test_every_trainable_parameter_is_in_one_group(minilm):
    model = wrap(minilm, task_type="SEQ_CLS", bias="deeplora_only", basis_lr_ratio=0.5)
    groups = corefold.param_groups(model, lr=1e-2, other_lr=1e-3, weight_decay=0.3)
    others = groups[-1]
    assert (others["name"], others["lr"], others["weight_decay"]) == ("others", 1e-3, 0.0)
    decaying = corefold.param_groups(model, lr=1e-2, other_weight_decay=0.1)
    assert [group["weight_decay"] for group in decaying] == [0.0, 0.0, 0.1]
    assert len(others["params"]) == 12 + 2  # These are biases, and the head's weight and bias.
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert {*grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_head_trains_at_a_rate_of_its_own(minilm):
    model = wrap(minilm, task_type="SEQ_CLS")
    assert corefold.param_groups(model, lr=0.02)[-1]["lr"] == corefold.recipe(rows=16).head_lr == 1e-3
    assert corefold.param_groups(model, lr=0.02, other_lr=0.0)[-1]["lr"] == 0.0


def test_param_groups_needs_an_adapter_that_trains(minilm, llama):
    with pytest.raises(ValueError, match="DeepLoraConfig"):
        corefold.param_groups(minilm, lr=1e-2)
    with pytest.raises(ValueError, match="DeepLoraConfig"):
        corefold.param_groups(get_peft_model(minilm, LoraConfig(target_modules=["query"])), lr=1e-2)
    with pytest.raises(ValueError, match="DeepLoraConfig"):
        corefold.param_groups(wrap(llama, inference_mode=True), lr=1e-2)
    with pytest.raises(ValueError, match="basis_lr_ratio"):
        corefold.param_groups(wrap(load("minilm")), lr=1e-2, basis_lr_ratio=-1)
