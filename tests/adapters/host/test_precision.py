"""Half precision and autocast: bases and weights in bfloat16 and float16, adapters in float32."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn

from adapters.layer_kinds import R, base_of, every_kind, inputs_of
from corefold import DeepLoraConfig, initialize_bases
from models import adapter_state, batches, inputs, layers, logits, randomise, same_tensors, tiny_llama, wrap

HALVES = [torch.bfloat16, torch.float16]


def weights(model):
    return {name: layer.weight.detach().clone() for name, layer in layers(model).items()}


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["autocast_adapter_dtype", "to"])
def test_half_precision_adapters_start_at_zero(kind, dtype, how):
    base, x = base_of(kind, dtype), inputs_of(kind, dtype)
    config = DeepLoraConfig(r=R, target_modules=["layer"])
    model = get_peft_model(base_of(kind, dtype), config, autocast_adapter_dtype=how == "to").eval()
    assert {t.dtype for t in adapter_state(model).values()} == {torch.float32 if how == "to" else dtype}
    model = model.to(dtype) if how == "to" else model
    assert {t.dtype for t in adapter_state(model).values()} == {dtype}
    with torch.no_grad():
        assert torch.equal(model(x), base(x))
    for layer in layers(model).values():
        assert not layer.get_delta_weight("default").any()


def test_wrapping_changes_no_bit_under_autocast(minilm):
    batch = inputs("minilm")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = logits(minilm, batch)
        assert torch.equal(logits(wrap(minilm, target_modules=r".*dense"), batch), before)


def test_a_core_keeps_its_digits_under_autocast():
    # Near its start the core is a small difference of products, which bfloat16 would round away.
    model = wrap(nn.Sequential(nn.Linear(12, 9, bias=False)), target_modules=["0"])
    (layer,) = layers(model).values()
    x = torch.randn(5, 12)
    with torch.no_grad():
        layer.weight.zero_()
        layer.deeplora_factors["default"].add_(1e-4 * torch.randn(3, 4, 4))
        exact = x @ layer.get_delta_weight("default").mT
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = layer(x).float()
    assert (rounded - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_low_precision_base_keeps_its_adapter_in_float32(minilm, dtype):
    model = wrap(minilm.to(dtype))
    assert {tensor.dtype for tensor in adapter_state(model).values()} == {torch.float32}
    randomise(model)
    layer = next(iter(layers(model).values()))
    x = torch.randn(2, 3, layer.in_features, dtype=dtype)
    assert layer(x).dtype == dtype
    exact = nn.functional.linear(
        x.float(), layer.weight.float() + layer.get_delta_weight("default"), layer.bias.float()
    )
    torch.testing.assert_close(layer(x).float(), exact, rtol=2e-2, atol=2e-2)
    assert logits(model, inputs("minilm")).dtype == dtype


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_training_keeps_float32(dtype, autocast, tmp_path):
    """Bases as well: to an entry of 0.2, bfloat16 could not add a step of 1e-4."""
    model, data = (
        wrap(tiny_llama().to(dtype), target_modules="all-linear", basis_lr_ratio=0.01),
        batches("tiny"),
    )
    initialize_bases(model, data, progress=False)
    model.train()
    start, base = adapter_state(model), weights(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, eps=1e-12, weight_decay=0)
    # A GradScaler does this, and Adam does not depend on it.
    scale = 2.0**14 if dtype == torch.float16 else 1.0
    for batch in data:  # In the first of two steps the core is 0, and so is the gradient of the bases.
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
    data, results = batches("tiny", count=3), []
    for half in (False, True):
        base = tiny_llama()
        if half and how != "autocast":
            base = base.to(getattr(torch, how.split()[0]))
        model = wrap(base, target_modules="all-linear", r=4)

        def loss_of(model, batch, autocast=half and how == "autocast"):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                return model(**batch).loss

        report = initialize_bases(model, data, loss_fn=loss_of, progress=False)
        results.append((report, layers(model)))
    (expected, exact_layers), (report, half_layers) = results
    for name, layer in half_layers.items():
        torch.testing.assert_close(
            report[name], expected[name], rtol=0.05, atol=0.02 * expected[name].max().item()
        )
        u, u_exact = (m.deeplora_left["default"][:, -2:].detach() for m in (layer, exact_layers[name]))
        gap = 1 - expected[name][2] / expected[name][1]
        if gap > 0.1:  # Otherwise the second and third direction may change places.
            assert torch.linalg.svdvals(u.mT @ u_exact).min() > 0.95
        eye = torch.eye(layer.r["default"])
        for part in (layer.deeplora_left, layer.deeplora_right):
            assert part["default"].dtype == torch.float32
            torch.testing.assert_close(part["default"].mT @ part["default"], eye, rtol=0, atol=1e-5)


def test_peft_can_disable_the_casting_of_inputs():
    model = wrap(nn.Sequential(nn.Linear(4, 3)), target_modules=["0"]).eval()
    with disable_input_dtype_casting(model):
        assert model(torch.zeros(2, 4)).dtype == torch.float32
