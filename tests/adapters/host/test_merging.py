"""Merging into the base weight, unmerging to the last bit, and unloading."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import corefold
from adapters.layer_kinds import adapted, base_of, close, dense_weights, every_kind, inputs_of, weight_name
from models import inputs, layers, load, logits, randomise, same_tensors, tiny_llama, wrap


@every_kind
@pytest.mark.parametrize("safe", [False, True])
def test_merging_and_back(kind, safe):
    model, base, x = adapted(kind), base_of(kind), inputs_of(kind)
    before = model(x)
    for _ in range(2):
        model.merge_adapter(safe_merge=safe)
        assert all(layer.merged for layer in layers(model).values())
        assert len(model.base_model.merge_errors()) == len(layers(model))
        close(model(x), before)
        for path, layer in layers(model).items():
            name = weight_name(path, base)
            close(layer.weight, dense_weights(model, base)[name].detach())
        model.unmerge_adapter()
        for path, layer in layers(model).items():
            assert torch.equal(layer.weight, base.get_parameter(weight_name(path, base)))
        assert torch.equal(model(x), before)


NAMES = ["minilm", "mpnet", "smollm2"]


def make(name, **options):
    base = tiny_llama() if name == "tiny" else load(name)
    task = "CAUSAL_LM" if name in ("tiny", "smollm2") else "SEQ_CLS"
    model = wrap(base, target_modules="all-linear", task_type=task, **options).eval()
    randomise(model)
    return model


def base_weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if "deeplora" not in name}


def lora_like(model, name):
    """PEFT's own LoRA of the same rank, in general position, its updates of the same size."""
    base = tiny_llama() if name == "tiny" else load(name)
    task = "CAUSAL_LM" if name in ("tiny", "smollm2") else "SEQ_CLS"
    lora = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type=task)
    ).eval()
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path in layers(model):
            layer = lora.get_submodule(path)
            for part in (layer.lora_A, layer.lora_B):
                part["default"].weight.copy_(torch.randn(part["default"].weight.shape, generator=stream))
            size = 0.03 * layer.weight.norm() / layer.get_delta_weight("default").norm()
            layer.lora_B["default"].weight.mul_(size)
    return lora


def merge_error(model, batch):
    before = logits(model, batch)
    model.merge_adapter()
    after = logits(model, batch)
    model.unmerge_adapter()
    return (after - before).abs().max().item(), before.abs().max().item()


@pytest.mark.parametrize("name", NAMES)
def test_merged_logits_and_unmerged_bits(name, record_property):
    model, batch = make(name), inputs(name)
    weights, before = base_weights(model), logits(model, batch)
    error, scale = merge_error(model, batch)
    assert same_tensors(base_weights(model), weights)
    assert torch.equal(logits(model, batch), before)
    lora_error, _ = merge_error(lora_like(model, name), batch)
    record_property("merge error, PEFT's LoRA, largest logit", (error, lora_error, scale))
    print(f"{name}: {error:.1e}, PEFT's LoRA {lora_error:.1e}, logits up to {scale:.2f}")
    # The only error is the rounding of the weights to float32, which a LoRA of the same rank and size has too.
    assert error <= 1e-5 * max(1, scale)
    assert error <= 4 * lora_error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_unmerging_restores_every_bit(dtype):
    model = make("minilm").to(dtype)
    for layer in layers(model).values():  # .to() converts the adapter as well.
        assert layer.weight.dtype == dtype
    weights, batch = base_weights(model), inputs("minilm")
    with torch.no_grad(), model.disable_adapter():
        base = model(**batch).logits
    for _ in range(3):  # Repeating it must not let the weights drift.
        model.merge_adapter()
        assert not same_tensors(base_weights(model), weights)
        model.unmerge_adapter()
        assert same_tensors(base_weights(model), weights)
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**batch).logits, base)


def test_bfloat16_weights_are_rounded_once():
    model = wrap(tiny_llama().to(torch.bfloat16), target_modules="all-linear")
    randomise(model)
    expected = {
        n: (m.weight.float() + m.get_delta_weight("default")).bfloat16() for n, m in layers(model).items()
    }
    model.merge_adapter()
    assert same_tensors({name: layer.weight for name, layer in layers(model).items()}, expected)


@pytest.mark.parametrize("state", ["active", "merged"])
def test_disabled_is_the_base_model_bit_for_bit(minilm, state):
    batch = inputs("minilm")
    base = logits(minilm, batch)
    model = wrap(minilm).eval()
    randomise(model)
    changed = logits(model, batch)
    assert not torch.equal(changed, base)
    if state == "merged":
        model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), base)
    assert torch.equal(logits(model, batch), changed)


@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unload_gives_a_plain_model(safe):
    model, batch = make("minilm"), inputs("minilm")
    before = logits(model, batch)
    plain = model.merge_and_unload(safe_merge=safe)
    assert type(plain) is type(load("minilm", copied=False))
    shapes = {name: p.shape for name, p in load("minilm", copied=False).named_parameters()}
    assert {name: p.shape for name, p in plain.named_parameters()} == shapes
    torch.testing.assert_close(logits(plain, batch), before, atol=1e-5 * before.abs().max().item(), rtol=0)


def test_merging_twice_and_unmerging_nothing_warn():
    model = make("tiny")
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()
    model.merge_adapter()
    merged = base_weights(model)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    assert same_tensors(base_weights(model), merged)


def test_two_adapters_merge_one_after_the_other():
    model, batch = make("tiny"), inputs("tiny")
    model.add_adapter("second", corefold.DeepLoraConfig(r=3, target_modules=["q_proj", "down_proj"]))
    randomise(model, seed=1, only="second")
    weights = base_weights(model)
    model.base_model.set_adapter(["default", "second"])
    both = logits(model, batch)
    model.base_model.set_adapter(["default"])
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging second"):
        model.merge_adapter(["second"])
    torch.testing.assert_close(logits(model, batch), both, atol=1e-5, rtol=0)
    model.unmerge_adapter()
    assert same_tensors(base_weights(model), weights)


def test_saving_while_merged_saves_the_adapter(tmp_path):
    model, batch = make("tiny"), inputs("tiny")
    before = logits(model, batch)
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path), batch), before)
