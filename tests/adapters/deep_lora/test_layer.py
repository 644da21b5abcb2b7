"""Shapes and trained parameters of layers with a pair core and with a square core."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

import corefold
from adapters.deep_lora.pair_cores import PAIR_CORE, initialized
from adapters.layer_kinds import adapted, base_of, close, every_kind, flat, inputs_of, run_dense, weight_name
from corefold.adapters import saved_updates
from laws import orthonormal_columns
from models import batches, layers, load, randomise, tiny_llama, wrap


def test_it_trains_two_thin_factors_and_starts_as_the_model():
    data = batches("minilm", 2)
    base = load("minilm").eval()
    before = base(**data[0]).logits
    model = initialized(base, data).eval()
    assert torch.equal(model(**data[0]).logits, before)
    for layer in layers(model).values():
        factors, left, right = layer.tensors("default")
        assert factors.shape == (2, 10, 3)
        assert factors.requires_grad
        assert not left.requires_grad and not right.requires_grad  # noqa: PT018
        for part in (left, right, factors[0]):
            orthonormal_columns(part.detach(), 1e-5)
        assert not factors[1].any()
    adapter = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "deeplora" in name)
    assert adapter == len(layers(model)) * 2 * 10 * 3


def test_saved_loaded_merged_and_exported(tmp_path):
    model = wrap(tiny_llama().double(), **PAIR_CORE)
    randomise(model)
    tokens = {"input_ids": torch.arange(12).reshape(2, 6)}
    wanted = model.eval()(**tokens).logits.detach()
    model.save_pretrained(str(tmp_path / "own"))
    assert "rank 3, width 10" in (tmp_path / "own" / "README.md").read_text()
    loaded = PeftModel.from_pretrained(tiny_llama().double(), str(tmp_path / "own")).eval()
    assert torch.equal(loaded(**tokens).logits, wanted)
    export = corefold.export_lora(model, tmp_path / "lora")
    assert export.rank == 3  # No direction was dropped.
    lora = PeftModel.from_pretrained(tiny_llama().double(), str(tmp_path / "lora")).eval()
    torch.testing.assert_close(lora(**tokens).logits, wanted, rtol=0, atol=1e-5)
    model.merge_adapter()
    torch.testing.assert_close(model(**tokens).logits, wanted, rtol=0, atol=1e-10)
    config, state = model.peft_config["default"], get_peft_model_state_dict(model)
    assert {update.rank for update in saved_updates(config, state).values()} == {3}
    name = next(key for key in state if "deeplora_factors" in key)
    with pytest.raises(ValueError, match=r"factors \(1, 10, 3\)"):
        saved_updates(config, {**state, name: state[name][:1]})


@pytest.mark.parametrize(
    ("r", "width", "shape"), [(40, 48, (2, 24, 24)), (4, 48, (2, 24, 4)), (9, 9, (2, 9, 9))]
)
def test_no_side_of_a_layer_is_exceeded(r, width, shape):
    model = wrap(tiny_llama(), r=r, width=width, depth=2)  # Its layers are 24 x 24 and 12 x 24.
    for layer in layers(model).values():
        assert layer.deeplora_factors["default"].shape[2] <= min(r, layer.left_rows)
    assert shape in {tuple(layer.deeplora_factors["default"].shape) for layer in layers(model).values()}


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


@every_kind
def test_no_wider_than_the_smaller_side(kind):
    model = adapted(kind, r=100)
    base, x = base_of(kind), inputs_of(kind)
    for path, layer in layers(model).items():
        weight = flat(base.get_parameter(weight_name(path, base)), weight_name(path, base), base)
        assert layer.r["default"] == layer.deeplora_factors["default"].shape[-1] == min(weight.shape)
    close(model(x), run_dense(model, base, x))
