"""Merging into weights of every dtype rounds once, and reports the error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from corefold.adapters import DeepLoraConfig
from models import inputs, layers, logits, randomise, same_tensors, tiny_llama, wrap

HALVES = [torch.bfloat16, torch.float16]
FLOATS = [*HALVES, torch.float32, torch.float64]
SPACING = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""The distance of neighbouring numbers from 1 to 2."""


def two_adapters(dtype):
    model = wrap(tiny_llama().to(dtype), target_modules="all-linear")
    model.add_adapter("second", DeepLoraConfig(r=3, target_modules=["q_proj", "down_proj"]))
    randomise(model)
    return model


def weights(model):
    return {name: layer.weight.detach().clone() for name, layer in layers(model).items()}


def exact(model, names=("default",)):
    """The sums of weight and updates, from the factors and bases in float64."""
    sums = {}
    for path, layer in layers(model).items():
        total = layer.weight.detach().double()
        for name in {*names} & {*layer.deeplora_factors}:
            factors = layer.deeplora_factors[name].detach().double()
            if len(factors) == 2:  # The factors are Q and P of a pair core.
                core = factors[1] @ factors[0].mT
            else:
                w_1, w_2, w_3 = factors
                core = w_3 @ w_2 @ w_1 - 0.1**3 * torch.eye(len(w_1), dtype=torch.float64)
            left, right = layer.deeplora_left[name].double(), layer.deeplora_right[name].double()
            total = total + layer.scaling[name] * left @ core @ right.mT
        sums[path] = total.detach()
    return sums


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_errors_reported_are_those_of_the_weights(dtype, safe, record_property):
    model = wrap(tiny_llama().to(dtype), target_modules="all-linear")
    randomise(model)
    for layer in layers(model).values():
        layer.set_scale("default", 0.7)
    sums = exact(model)
    assert model.merge_errors() == {}
    model.merge_adapter(safe_merge=safe)
    errors, merged = model.merge_errors(), weights(model)
    record_property(f"merge error in {dtype}", max(errors.values()))
    assert {f"base_model.model.{name}" for name in errors} == sums.keys()
    for name, error in errors.items():
        total, weight = sums[f"base_model.model.{name}"], merged[f"base_model.model.{name}"].double()
        largest, unit = float((weight - total).abs().max()), float(total.abs().max())
        summed = 1e-15 if dtype == torch.float64 else 1e-7 * unit  # The sum itself is known only so well.
        assert error == pytest.approx(largest, abs=summed)
        assert largest <= torch.finfo(dtype).eps / 2 * unit + summed
    model.unmerge_adapter()
    assert model.merge_errors() == {}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("calls", [[["one", "two"]], [["one"], ["two"]], [["two"], ["one"]]], ids=str)
@pytest.mark.filterwarnings("ignore:Already following adapters were merged:UserWarning")
def test_two_small_updates_are_rounded_together(dtype, calls):
    model = wrap(
        nn.Sequential(nn.Linear(5, 4, bias=False)).to(dtype), adapter_name="one", target_modules=["0"]
    )
    model.add_adapter("two", DeepLoraConfig(r=2, target_modules=["0"], depth=1, width=None))
    (layer,) = layers(model).values()
    with torch.no_grad():
        layer.weight.fill_(1)
        for name in ("one", "two"):  # Each alone is less than half a step from 1.
            layer.deeplora_left[name].fill_(0)[:, 0] = 0.3 * SPACING[dtype]
            layer.deeplora_right[name].fill_(0)[:, 0] = 1
            depth, start = len(layer.deeplora_factors[name]), layer.start_products[name][torch.float32]
            layer.deeplora_factors[name].fill_(0)[:, 0, 0] = (1 + start) ** (1 / depth)
    before = weights(model)
    for names in calls:
        model.merge_adapter(adapter_names=names)
    assert (layer.weight == 1 + SPACING[dtype]).all()
    assert layer.merge_error == pytest.approx(0.4 * SPACING[dtype], rel=1e-3)
    model.unmerge_adapter()
    assert same_tensors(weights(model), before)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_merging_some_then_others(dtype):
    model, before = two_adapters(dtype), None
    before, both, second = weights(model), exact(model, ["default", "second"]), exact(model, ["second"])
    reach = {name for name, layer in layers(model).items() if "second" in layer.deeplora_factors}
    model.merge_adapter(adapter_names=["second"])
    for name, weight in weights(model).items():
        assert layers(model)[name].merged_adapters == (["second"] if name in reach else [])
        torch.testing.assert_close(weight, second[name].to(dtype))
    assert {f"base_model.model.{name}" for name in model.merge_errors()} == reach
    with pytest.warns(UserWarning, match="additionally merging default"):
        model.merge_adapter(adapter_names=["default"])
    one_by_one = weights(model)
    for name, weight in one_by_one.items():
        torch.testing.assert_close(weight, both[name].to(dtype))
    model.unmerge_adapter()
    assert same_tensors(weights(model), before)
    model.merge_adapter(adapter_names=["second", "default"])
    assert same_tensors(weights(model), one_by_one)
    model.unmerge_adapter()
    assert same_tensors(weights(model), before)


def test_a_refused_second_merge_changes_nothing():
    model = two_adapters(torch.bfloat16)
    before = weights(model)
    model.merge_adapter(adapter_names=["default"])
    merged, errors = weights(model), model.merge_errors()
    for layer in layers(model).values():
        if "second" in layer.deeplora_factors:
            layer.deeplora_factors["second"].data[0, 1, 1] = float("nan")
    with (
        pytest.raises(ValueError, match="adapter second seems to be broken"),
        pytest.warns(UserWarning, match="additionally merging second"),
    ):
        model.merge_adapter(safe_merge=True, adapter_names=["second"])
    assert same_tensors(weights(model), merged)
    assert model.merge_errors() == errors
    assert all(layer.merged_adapters == ["default"] for layer in layers(model).values())
    model.unmerge_adapter()
    assert same_tensors(weights(model), before)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_merging_under_autocast_is_no_coarser(dtype):
    model = wrap(tiny_llama().to(dtype), target_modules="all-linear")
    randomise(model)
    model.merge_adapter()
    expected = weights(model)
    model.unmerge_adapter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.merge_adapter()
    assert same_tensors(weights(model), expected)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_merged_half_precision_model_is_the_adapted_one(minilm, dtype):
    model, batch = wrap(minilm.to(dtype), target_modules="all-linear", task_type="SEQ_CLS"), inputs("minilm")
    randomise(model)
    before, weight = logits(model, batch), weights(model)
    model.merge_adapter()
    # This model has weights up to 2.6.
    assert max(model.merge_errors().values()) < torch.finfo(dtype).eps * 3
    torch.testing.assert_close(
        logits(model, batch), before, rtol=0, atol=16 * torch.finfo(dtype).eps * before.abs().max().item()
    )
    model.unmerge_adapter()
    assert same_tensors(weights(model), weight)
    assert torch.equal(logits(model, batch), before)
