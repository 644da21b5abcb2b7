"""Half precision: bases in bfloat16 and float16 with chains in float32, and merging that rounds once."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import nn

from corefold import initialize_bases
from corefold.adapters import DeepLoraConfig
from models import (
    adapter_state,
    batches,
    inputs,
    layers,
    logits,
    randomise,
    same_tensors,
    tiny_llama,
    wrap,
)

HALVES = [torch.bfloat16, torch.float16]
FLOATS = [*HALVES, torch.float32, torch.float64]
SPACING = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # of numbers from 1 to 2


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
            if len(factors) == 2:  # Q, P of a narrow core
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
        summed = 1e-15 if dtype == torch.float64 else 1e-7 * unit  # how well the sum itself is known
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
        for name in ("one", "two"):  # each alone is less than half a step from 1
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
    assert max(model.merge_errors().values()) < torch.finfo(dtype).eps * 3  # weights of this model reach 2.6
    torch.testing.assert_close(
        logits(model, batch), before, rtol=0, atol=16 * torch.finfo(dtype).eps * before.abs().max().item()
    )
    model.unmerge_adapter()
    assert same_tensors(weights(model), weight)
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_training_keeps_float32(dtype, autocast, tmp_path):
    """Bases too, whose updates half precision would drop: beside .2 a step of 1e-4 is nothing to bfloat16."""
    model, data = (
        wrap(tiny_llama().to(dtype), target_modules="all-linear", basis_lr_ratio=0.01),
        batches("tiny"),
    )
    initialize_bases(model, data, progress=False)
    model.train()
    start, base = adapter_state(model), weights(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, eps=1e-12, weight_decay=0)
    scale = 2.0**14 if dtype == torch.float16 else 1.0  # as a GradScaler would, and Adam does not mind
    for batch in data:  # two: the core is 0 in the first, and so the bases' gradient
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            loss = model(**batch).loss
        (scale * loss.float()).backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in trained)
        optimizer.step()
        optimizer.zero_grad()
    assert {t.dtype for state in optimizer.state.values() for t in state.values()} == {torch.float32}
    moved = adapter_state(model)
    for name, tensor in start.items():
        assert (moved[name] != tensor).double().mean() > 0.8
        if dtype == torch.bfloat16 and "factors" not in name:
            assert (moved[name].to(dtype) != tensor.to(dtype)).double().mean() < 0.5
    assert same_tensors(weights(model), base)
    model.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama().to(dtype), tmp_path)
    assert same_tensors(adapter_state(loaded), moved)
    assert torch.equal(logits(loaded, data[0]), logits(model, data[0]))


@pytest.mark.parametrize("how", ["bfloat16 base", "float16 base", "autocast"])
def test_bases_in_half_precision_are_close_to_those_in_float32(how):
    data, found = batches("tiny", count=3), []
    for half in (False, True):
        base = tiny_llama()
        if half and how != "autocast":
            base = base.to(getattr(torch, how.split()[0]))
        model = wrap(base, target_modules="all-linear", r=4)

        def loss_of(model, batch, autocast=half and how == "autocast"):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                return model(**batch).loss

        report = initialize_bases(model, data, loss_fn=loss_of, progress=False)
        found.append((report, layers(model)))
    (expected, exact_layers), (report, half_layers) = found
    for name, layer in half_layers.items():
        torch.testing.assert_close(
            report[name], expected[name], rtol=0.05, atol=0.02 * expected[name].max().item()
        )
        u, u_exact = (m.deeplora_left["default"][:, -2:].detach() for m in (layer, exact_layers[name]))
        gap = 1 - expected[name][2] / expected[name][1]
        if gap > 0.1:  # else the second direction and the third may change places
            assert torch.linalg.svdvals(u.mT @ u_exact).min() > 0.95
        eye = torch.eye(layer.r["default"])
        for part in (layer.deeplora_left, layer.deeplora_right):
            assert part["default"].dtype == torch.float32
            torch.testing.assert_close(part["default"].mT @ part["default"], eye, rtol=0, atol=1e-5)
