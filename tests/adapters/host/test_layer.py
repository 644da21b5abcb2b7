"""Every kind of layer against the same model run with the dense sum of weight and update."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from adapters.layer_kinds import (
    adapted,
    base_of,
    close,
    dense_weights,
    every_kind,
    inputs_of,
    oriented,
    run_dense,
    two_adapters,
    weight_name,
)
from cases import gaussian
from laws import applied_in_order, same_matrix
from models import adapter_state, inputs, layers, logits, randomise, same_tensors, tiny_llama, wrap


@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_wrapping_changes_no_bit(kind, dtype):
    base, x = base_of(kind, dtype), inputs_of(kind, dtype)
    model = adapted(kind, seed=None, dtype=dtype, bases="random")
    with torch.no_grad():
        assert torch.equal(model(x), base(x))
    # Where nothing needs a gradient, PyTorch's fused attention rounds differently, so compare with one as well.
    assert torch.equal(model.train()(x), base.train()(x))


@every_kind
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_forward_is_the_base_with_the_dense_sum(kind, depth):
    model, base, x = adapted(kind, depth=depth), base_of(kind), inputs_of(kind)
    expected = run_dense(model, base, x)
    close(model(x), expected)
    with torch.no_grad():
        close(model(x), expected)
    assert (expected - base(x)).abs().max() > 1e-2
    for path, layer in layers(model).items():
        name = weight_name(path, base)
        update = dense_weights(model, base)[name] - base.get_parameter(name)
        close(layer.get_delta_weight("default"), update)
        factors, left, right = (
            getattr(layer, part)["default"].detach() for part in layer.adapter_layer_names
        )
        slow = applied_in_order(left, factors, right.flatten(0, -2), 0.1**depth)
        same_matrix(update, oriented(slow, name, base), 1e-12)


@every_kind
def test_gradients_are_those_of_the_dense_sum(kind):
    model, base, x = adapted(kind, basis_lr_ratio=0.1).train(), base_of(kind), inputs_of(kind)
    model.peft_config["default"].initialized = True  # Otherwise it warns of random bases.
    parts = {name: p for name, p in model.named_parameters() if "deeplora" in name}
    assert all(p.requires_grad for p in parts.values())
    target = gaussian(*model(x).shape, seed=5)
    expected = torch.autograd.grad((run_dense(model, base, x) - target).square().sum(), [*parts.values()])
    (model(x) - target).square().sum().backward()
    for (name, parameter), gradient in zip(parts.items(), expected, strict=True):
        assert gradient.norm() > 1e-3, name
        same_matrix(parameter.grad, gradient, 1e-11)


@every_kind
def test_gradients_reach_what_lies_before(kind):
    x = inputs_of(kind)
    if not x.is_floating_point():
        return
    model, base, ours, dense = adapted(kind), base_of(kind), x.clone(), x.clone()
    model(ours.requires_grad_()).square().sum().backward()
    run_dense(model, base, dense.requires_grad_()).square().sum().backward()
    same_matrix(ours.grad, dense.grad, 1e-12)


@every_kind
def test_plain_modules_come_back(kind):
    x = inputs_of(kind)
    before = adapted(kind)(x)
    merged, unloaded, base = adapted(kind).merge_and_unload(), adapted(kind).unload(), base_of(kind)
    for plain in (merged, unloaded):
        assert [type(m) for m in plain.modules()] == [type(m) for m in base.modules()]
        assert plain.state_dict().keys() == base.state_dict().keys()
    close(merged(x), before)
    assert same_tensors(unloaded.state_dict(), base.state_dict())


@every_kind
@torch.no_grad()
def test_disabled_is_the_base_bit_for_bit(kind):
    model, base, x = adapted(kind), base_of(kind), inputs_of(kind)
    changed = model(x)
    with model.disable_adapter():
        assert torch.equal(model(x), base(x))
    assert torch.equal(model(x), changed)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), base(x))
    assert torch.equal(model(x), changed)


@every_kind
@torch.no_grad()
def test_saved_and_loaded_gives_the_same_bits(kind, tmp_path):
    model, x = adapted(kind), inputs_of(kind)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_of(kind), tmp_path)
    assert same_tensors(adapter_state(loaded), adapter_state(model))
    assert torch.equal(loaded.eval()(x), model(x))


@every_kind
def test_two_adapters(kind):
    model, base, x = two_adapters(kind), base_of(kind), inputs_of(kind)
    alone = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        alone[name] = model(x)
        close(alone[name], run_dense(model, base, x, adapters=[name]))
    model.base_model.set_adapter(["one", "two"])
    both = run_dense(model, base, x, adapters=["one", "two"])
    close(model(x), both)
    model.merge_adapter()
    close(model(x), both)
    model.unmerge_adapter()
    model.set_adapter("one")
    model.delete_adapter("two")
    assert torch.equal(model(x), alone["one"])
    assert not adapter_state(model, "two")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": "all-linear", "task_type": "SEQ_CLS", "r": 8},
        {"target_modules": r".*attention.*dense", "depth": 1},
        {"target_modules": "all-linear", "task_type": "SEQ_CLS", "depth": 2, "init_scale": 1e-3},
        {"target_modules": r".*dense", "bases": "spectral", "init_scale": 0.3, "depth": 5},
    ],
    ids=str,
)
def test_wrapping_minilm_changes_no_bit(minilm, options):
    batch = inputs("minilm")
    before = logits(minilm, batch)
    assert torch.equal(logits(wrap(minilm, **options).eval(), batch), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*\.1\..*_proj"], ids=str)
def test_wrapping_llama_changes_no_bit(targets, dtype):
    base, batch = tiny_llama().to(dtype), inputs("tiny")
    before = logits(base, batch)
    model = wrap(base, target_modules=targets)
    after = logits(model, batch)
    assert after.dtype == dtype
    assert torch.equal(after, before)


def test_an_update_in_general_position_does_change_the_model(minilm):
    batch = inputs("minilm")
    before = logits(minilm, batch)
    model = wrap(minilm)
    randomise(model)
    assert (logits(model, batch) - before).abs().max() > 1e-2
