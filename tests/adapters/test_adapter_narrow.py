"""Adapters of a rank below the width of their bases, which is the default."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

import corefold
from corefold.adapters import DeepLoraConfig, saved_updates
from corefold.core import principal_angles
from laws import orthonormal_columns, same_matrix
from models import batches, layers, load, randomise, tiny_llama, wrap

NARROW = {"r": 3, "width": 10, "depth": 2}


def initialized(base, data, **options):
    model = wrap(base, **{**NARROW, **options})
    corefold.initialize_bases(model, data, num_batches=4, progress=False)
    return model


def test_the_default_is_narrow():
    config = DeepLoraConfig()
    assert config.r < config.width
    assert config.depth == 2
    assert DeepLoraConfig.paper().width is None


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


def test_bases_are_those_of_a_square_core_of_that_width():
    data = batches("minilm", 4)
    narrow, square = (
        initialized(load("minilm"), data, **options) for options in ({}, {"r": 10, "width": None})
    )
    for one, other in zip(layers(narrow).values(), layers(square).values(), strict=True):
        for part in ("deeplora_left", "deeplora_right"):
            # Eight samples have eight directions; the others are drawn.
            angles = principal_angles(getattr(one, part)["default"], getattr(other, part)["default"])
            assert angles[:8].max() < 1e-3


def test_saved_loaded_merged_and_exported(tmp_path):
    model = wrap(tiny_llama().double(), **NARROW)
    randomise(model)
    tokens = {"input_ids": torch.arange(12).reshape(2, 6)}
    wanted = model.eval()(**tokens).logits.detach()
    model.save_pretrained(str(tmp_path / "own"))
    assert "rank 3, width 10" in (tmp_path / "own" / "README.md").read_text()
    loaded = PeftModel.from_pretrained(tiny_llama().double(), str(tmp_path / "own")).eval()
    assert torch.equal(loaded(**tokens).logits, wanted)
    export = corefold.export_lora(model, tmp_path / "lora")
    assert export.rank == 3  # with nothing dropped
    lora = PeftModel.from_pretrained(tiny_llama().double(), str(tmp_path / "lora")).eval()
    torch.testing.assert_close(lora(**tokens).logits, wanted, rtol=0, atol=1e-5)
    model.merge_adapter()
    torch.testing.assert_close(model(**tokens).logits, wanted, rtol=0, atol=1e-10)
    config, state = model.peft_config["default"], get_peft_model_state_dict(model)
    assert {chain.rank for chain in saved_updates(config, state).values()} == {3}
    name = next(key for key in state if "deeplora_factors" in key)
    with pytest.raises(ValueError, match=r"factors \(1, 10, 3\)"):
        saved_updates(config, {**state, name: state[name][:1]})


def test_sums_of_narrow_adapters_are_exact():
    model = wrap(tiny_llama().double(), **NARROW)
    model.add_adapter("other", DeepLoraConfig(**NARROW, target_modules=["q_proj", "v_proj"]))
    randomise(model)
    model.base_model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "sum", "cat")
    for layer in layers(model).values():
        expected = 0.5 * layer.get_delta_weight("default") - 2 * layer.get_delta_weight("other")
        same_matrix(layer.get_delta_weight("sum"), expected, 1e-10)
        assert layer.r["sum"] == layer.width["sum"] == 6


@pytest.mark.parametrize(
    ("r", "width", "made"), [(40, 48, (2, 24, 24)), (4, 48, (2, 24, 4)), (9, 9, (2, 9, 9))]
)
def test_no_side_of_a_layer_is_exceeded(r, width, made):
    model = wrap(tiny_llama(), r=r, width=width, depth=2)  # layers of 24 x 24 and 12 x 24
    for layer in layers(model).values():
        assert layer.deeplora_factors["default"].shape[2] <= min(r, layer.left_rows)
    assert made in {tuple(layer.deeplora_factors["default"].shape) for layer in layers(model).values()}


@pytest.mark.parametrize("settings", [{"r": 9}, {"r": 2, "rank_pattern": {"q_proj": 9}}])
def test_bases_narrower_than_the_rank_are_refused(settings):
    with pytest.raises(ValueError, match="bases of 8 columns have no room for rank 9; give width=9 or more"):
        DeepLoraConfig(width=8, **settings)


def test_a_budget_spreads_ranks_and_keeps_the_width():
    model = wrap(load("minilm"), **NARROW)
    count = len(layers(model))
    report = corefold.initialize_bases(
        model, batches("minilm", 2), num_batches=2, rank_budget=4 * count, progress=False
    )
    assert sum(report.ranks.values()) == 4 * count
    assert len(set(report.ranks.values())) > 1
    for name, layer in layers(model).items():
        assert layer.r["default"] == report.ranks[name]
        assert layer.width["default"] == max(10, report.ranks[name])


def test_more_than_two_factors_need_a_square_core():
    with pytest.raises(ValueError, match="two factors; got depth=3 and width=112"):
        DeepLoraConfig(depth=3)
    with pytest.raises(ValueError, match="width"):
        DeepLoraConfig(width=0)
    assert DeepLoraConfig(depth=3, width=None).r == 2
