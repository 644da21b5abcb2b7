from __future__ import annotations

import pytest
import torch
from torch import nn

from models import adapter_state, inputs, layers, load, logits, randomise, tiny_llama, wrap

LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _short(model):
    return {name.removeprefix("base_model.model.") for name in layers(model)}


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


def test_wrapping_changes_no_bit_under_autocast(minilm):
    batch = inputs("minilm")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = logits(minilm, batch)
        assert torch.equal(logits(wrap(minilm, target_modules=r".*dense"), batch), before)


def test_a_chain_keeps_its_digits_under_autocast():
    # Near its start the core is a small difference of products, of which bfloat16 would leave nothing.
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


def test_a_chain_in_general_position_does_change_the_model(minilm):
    batch = inputs("minilm")
    before = logits(minilm, batch)
    model = wrap(minilm)
    randomise(model)
    assert (logits(model, batch) - before).abs().max() > 1e-2


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_forward_is_the_base_plus_the_dense_update(depth):
    model = wrap(tiny_llama().double(), target_modules="all-linear", depth=depth, r=5)
    randomise(model, size=0.5)
    for layer in layers(model).values():
        core = torch.eye(5, dtype=torch.float64)
        for factor in layer.deeplora_factors["default"]:  # W_1 first
            core = factor @ core
        core = core - 0.1**depth * torch.eye(5, dtype=torch.float64)
        update = layer.deeplora_left["default"] @ core @ layer.deeplora_right["default"].mT
        torch.testing.assert_close(layer.get_delta_weight("default"), update, rtol=1e-12, atol=1e-12)
        x = torch.randn(2, 3, layer.in_features, dtype=torch.float64)
        expected = nn.functional.linear(x, layer.weight + update, layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_all_linear_leaves_the_head_alone(llama):
    wrapped = wrap(llama, target_modules="all-linear")
    assert {name.rpartition(".")[2] for name in _short(wrapped)} == LINEARS
    assert len(_short(wrapped)) == 2 * len(LINEARS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"target_modules": r".*\.0\.mlp\.(up|down)_proj"},
            {f"model.layers.0.mlp.{name}" for name in ("up_proj", "down_proj")},
        ),
        (
            {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]},
            {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)},
        ),
        (
            {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.1\..*"},
            {f"model.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj")},
        ),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [1]},
            {"model.layers.1.self_attn.q_proj"},
        ),
        (
            {"target_modules": ["o_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
            {"model.layers.0.self_attn.o_proj"},
        ),
    ],
    ids=str,
)
def test_targeting(llama, options, expected):
    assert _short(wrap(llama, **options)) == expected


def test_rank_pattern_takes_names_and_regular_expressions(llama):
    pattern = {"k_proj": 3, r".*\.1\.mlp\..*": 5, "model.layers.0.mlp.up_proj": 2}
    model = wrap(llama, target_modules="all-linear", r=4, rank_pattern=pattern)
    for name, layer in layers(model).items():
        short = name.removeprefix("base_model.model.")
        expected = (
            3 if "k_proj" in name else 5 if ".1.mlp" in name else 2 if short.endswith("0.mlp.up_proj") else 4
        )
        assert layer.r["default"] == expected
        assert layer.deeplora_factors["default"].shape == (3, expected, expected)
        assert layer.deeplora_left["default"].shape == (layer.out_features, expected)
        assert layer.deeplora_right["default"].shape == (layer.in_features, expected)


def test_only_the_cores_train(minilm):
    model = wrap(minilm, task_type="SEQ_CLS")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    cores = {name for name in trainable if "deeplora_factors" in name}
    assert len(cores) == 12
    assert all("classifier.modules_to_save" in name for name in trainable - cores)
    trained_bases = {
        n for n, p in wrap(load("minilm"), basis_lr_ratio=0.1).named_parameters() if p.requires_grad
    }
    assert (
        len([n for n in trained_bases if "left" in n])
        == len([n for n in trained_bases if "right" in n])
        == 12
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_bases_keep_float32_chains(minilm, dtype):
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


def test_the_repr_tells_the_method(llama):
    assert "deeplora.DeepLoraLinear" in repr(wrap(llama))


def test_works_on_the_meta_device(llama):
    with torch.device("meta"):
        model = wrap(tiny_llama())
        ids = torch.zeros(2, 3, dtype=torch.long)
    assert model(input_ids=ids).logits.shape == (2, 3, 50)
