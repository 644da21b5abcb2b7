"""Adapters made of others, against sums of their dense updates and against PEFT's own LoRA."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import PeftModel

import corefold
from adapters.deep_lora.pair_cores import PAIR_CORE
from adapters.deep_lora.sums_of_adapters import ADAPTERS, SUM, combined, several, summed, update
from corefold import DeepLoraConfig
from laws import best_error, same_matrix
from models import adapter_state, inputs, layers, logits, randomise, same_tensors, tiny_llama, wrap

COMBINATIONS = ["svd", "ties_svd", "magnitude_prune_svd"]
WITH_DENSITY = ["ties", "dare_linear", "dare_ties", "magnitude_prune"]


@pytest.fixture
def model():
    return several()


@pytest.mark.parametrize("depth_of", ["one", "two", "three"])
def test_cat_is_the_sum(model, depth_of):
    names = sorted(SUM[0], key=lambda name: name != depth_of)
    weights = [dict(zip(*SUM, strict=True))[name] for name in names]
    before = adapter_state(model, "one")
    model.base_model.add_weighted_adapter(names, weights, "sum")
    assert combined(model).keys() == layers(model).keys()
    for path, layer in layers(model).items():
        same_matrix(update(layer, "sum"), summed(layer, names, weights), 1e-13)
        sides = (layer.left_rows, layer.right_shape[0])
        wide = sum(layer.r[name] for name in names if name in layer.r)
        assert layer.r["sum"] == min(wide, *sides), path
        assert layer.deeplora_factors["sum"].shape[0] == ADAPTERS[depth_of].get("depth", 3)
    assert {layer.r["sum"] for layer in layers(model).values()} >= {4, 12, 22}  # k_proj has a side of 12.
    assert same_tensors(adapter_state(model, "one"), before)


def test_the_sum_runs_like_its_parts(model):
    batch, (names, _) = inputs("tiny"), SUM
    model.base_model.set_adapter(names)
    together = logits(model, batch)
    model.base_model.add_weighted_adapter(names, [1.0] * 3, "sum")
    model.set_adapter("sum")
    torch.testing.assert_close(logits(model, batch), together, rtol=1e-12, atol=1e-12)


def test_scales_count(model):
    for layer in layers(model).values():
        layer.set_scale("two", 2.5)
    model.base_model.add_weighted_adapter(*SUM, "sum")
    for layer in layers(model).values():
        same_matrix(update(layer, "sum"), summed(layer, *SUM), 1e-13)
        assert layer.scaling["sum"] == 1


@pytest.mark.parametrize("kind", ["svd", "linear"])
@pytest.mark.parametrize("rank", [None, 1, 3, 100])
def test_svd_is_the_best_of_its_rank(kind, rank):
    adapters = {name: {**options, "r": 5, "rank_pattern": {}} for name, options in ADAPTERS.items()}
    model = several(adapters)
    model.base_model.add_weighted_adapter(*SUM, "sum", kind, svd_rank=rank)
    for layer in layers(model).values():
        exact, width = summed(layer, *SUM), layer.r["sum"]
        assert width <= (rank or 5)
        error = (update(layer, "sum") - exact).norm().item()
        assert error == pytest.approx(best_error(exact, rank or 5), rel=1e-9, abs=1e-12 * exact.norm().item())


def test_svd_takes_the_widest(model):
    model.base_model.add_weighted_adapter(*SUM, "sum", "svd")
    widths = {layer.r["sum"] for layer in layers(model).values()}
    assert max(widths) == 11 == model.peft_config["sum"].r


def lora_with(model: Any, names: list[str], folder: Any) -> Any:
    """Stock LoRA with the same dense updates: the exported adapters, loaded by PEFT."""
    for name in names:
        corefold.export_lora(model, folder / name, adapter_name=name)
    lora = PeftModel.from_pretrained(tiny_llama().double(), folder / names[0], adapter_name=names[0])
    for name in names[1:]:
        lora.load_adapter(folder / name, adapter_name=name)
    return lora


@pytest.mark.parametrize("kind", COMBINATIONS)
@pytest.mark.parametrize("density", [0.2, 0.6])
@pytest.mark.parametrize("majority", ["total", "frequency"])
def test_the_svd_combinations_are_those_of_peft(kind, density, majority, tmp_path):
    model = several({name: ADAPTERS[name] for name in ("one", "two")})
    lora = lora_with(model, ["one", "two"], tmp_path)
    arguments = (["one", "two"], [0.75, 1.25], "sum", kind)
    options = {"svd_rank": 6, "density": density, "majority_sign_method": majority}
    model.base_model.add_weighted_adapter(*arguments, **options)
    lora.base_model.add_weighted_adapter(*arguments, **options)
    assert layers(model)
    for path, layer in layers(model).items():
        theirs = lora.get_submodule(path).get_delta_weight("sum")
        same_matrix(update(layer, "sum"), theirs, 1e-11)
        assert layer.r["sum"] <= 6


@pytest.mark.parametrize("kind", WITH_DENSITY)
def test_pruning_with_and_without_svd_are_one(kind, model):
    # A core has no entries of the weight to prune one by one, so both prune the dense update.
    adapters = {"one": {"r": 5, "target_modules": ["q_proj"]}, "two": {"r": 5, "target_modules": ["q_proj"]}}
    model = several(adapters)
    for name in (kind, f"{kind}_svd"):
        torch.manual_seed(0)  # dare draws the entries that it drops.
        model.base_model.add_weighted_adapter(["one", "two"], [1.0, 0.5], name, name, density=0.5)
    for layer in layers(model).values():
        assert torch.equal(update(layer, kind), update(layer, f"{kind}_svd"))
        assert layer.r[kind] == 5
        assert update(layer, kind).norm() > 0.1 * update(layer, "one").norm()


def test_dare_drops_entries_and_keeps_the_mean():
    model = several({"one": {"r": 24, "target_modules": ["q_proj"]}})
    torch.manual_seed(0)
    model.base_model.add_weighted_adapter(["one"], [2.0], "halved", "dare_linear_svd", density=0.5)
    for layer in layers(model).values():
        exact, halved = update(layer, "one"), update(layer, "halved")
        kept = halved.abs() > 1e-10
        assert 0.4 < kept.double().mean() < 0.6
        torch.testing.assert_close(halved[kept], 4 * exact[kept], rtol=1e-9, atol=1e-9)


def test_it_starts_frozen_and_inactive(model):
    model.base_model.add_weighted_adapter(*SUM, "sum")
    batch, active = inputs("tiny"), [*model.active_adapters]
    assert active == ["one"]
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".sum" in name)
    assert any(p.requires_grad for name, p in model.named_parameters() if "factors.one" in name)
    assert model.peft_config["sum"].initialized
    before = logits(model, batch)
    model.set_adapter("sum")
    after = logits(model, batch)
    assert (after - before).abs().max() > 1e-2
    assert [*model.active_adapters] == ["sum"]


@pytest.mark.parametrize("kind", ["cat", "svd"])
def test_saved_loaded_and_exported(model, kind, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")
        model.base_model.add_weighted_adapter(*SUM, "sum", kind)
        model.set_adapter("sum")
        own = logits(model, inputs("tiny"))
        model.save_pretrained(tmp_path, selected_adapters=["sum"])
        corefold.export_lora(model, tmp_path / "lora")
    loaded = PeftModel.from_pretrained(tiny_llama().double(), tmp_path / "sum", adapter_name="sum").eval()
    assert same_tensors(adapter_state(loaded, "sum"), adapter_state(model, "sum"))
    assert torch.equal(logits(loaded, inputs("tiny")), own)
    lora = PeftModel.from_pretrained(tiny_llama().double(), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(lora, inputs("tiny")), own, rtol=1e-9, atol=1e-9)


def test_it_trains_and_merges(model):
    model.base_model.add_weighted_adapter(*SUM, "sum", "svd")
    model.set_adapter("sum")
    model.base_model.set_requires_grad("sum")
    optimizer = torch.optim.AdamW(corefold.param_groups(model, lr=1e-3))
    batch = inputs("tiny")
    state, losses = adapter_state(model, "sum"), []
    for _ in range(4):
        loss = model.train()(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = [
        name for name, tensor in adapter_state(model, "sum").items() if not torch.equal(tensor, state[name])
    ]
    assert moved
    assert all("factors" in name for name in moved)
    own = logits(model.eval(), batch)
    torch.testing.assert_close(logits(model.merge_and_unload(), batch), own, rtol=1e-10, atol=1e-10)


def test_sums_of_sums(model):
    model.base_model.add_weighted_adapter(["one", "two"], [1.0, 2.0], "first")
    model.base_model.add_weighted_adapter(["first", "three"], [0.5, -1.0], "second")
    for layer in layers(model).values():
        same_matrix(update(layer, "second"), summed(layer, ["one", "two", "three"], [0.5, 1.0, -1.0]), 1e-12)
    model.delete_adapter("first")
    model.delete_adapter("second")
    assert [*model.peft_config] == [*ADAPTERS]


def test_an_untrained_part_adds_nothing():
    model = several({"one": {"target_modules": ["q_proj"], "r": 3}})
    model.add_adapter("fresh", DeepLoraConfig(target_modules=["q_proj"], r=5))
    model.base_model.add_weighted_adapter(["one", "fresh"], [1.0, 1.0], "sum")
    model.base_model.add_weighted_adapter(["fresh"], [2.0], "zero")
    for layer in layers(model).values():
        assert layer.r["sum"] == 8
        same_matrix(update(layer, "sum"), update(layer, "one"), 1e-13)
        assert update(layer, "zero").abs().max() < 1e-15


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (["one", "four"], [1.0, 1.0], "sum"),
            {},
            r"Adapter four does not exist; the model has one, two, three",
        ),
        ((["one"], [1.0], "two"), {}, r"has an adapter 'two' already"),
        ((["one", "two"], [1.0], "sum"), {}, r"2 adapters need as many weights; got 1"),
        (([], [], "sum"), {}, r"0 adapters"),
        ((["one"], [1.0], "sum", "average"), {}, r"Invalid combination_type: average; one of cat, svd"),
        ((["one", "two"], [1.0, 1.0], "sum", "linear"), {}, r"same r value.*linear; got \[4, 9\]"),
        ((["one", "two"], [1.0, 1.0], "sum", "ties"), {"density": 0.5}, r"same r value.*ties"),
        ((["one"], [1.0], "sum", "ties_svd"), {}, r"ties_svd needs a density between 0 and 1; got None"),
        ((["one"], [1.0], "sum", "magnitude_prune"), {"density": 1.5}, r"density.*got 1\.5"),
        ((["one"], [1.0], "sum", "svd"), {"svd_rank": -1}, r"svd_rank"),
    ],
    ids=str,
)
def test_refusals_leave_the_model_alone(model, arguments, options, message):
    before = {name: adapter_state(model, name) for name in ADAPTERS}
    with pytest.raises(ValueError, match=message):
        model.base_model.add_weighted_adapter(*arguments, **options)
    assert [*model.peft_config] == [*ADAPTERS]
    for name, state in before.items():
        assert same_tensors(adapter_state(model, name), state)
    assert not adapter_state(model, "sum")


def test_sums_of_pair_cores_are_exact():
    model = wrap(tiny_llama().double(), **PAIR_CORE)
    model.add_adapter("other", DeepLoraConfig(**PAIR_CORE, target_modules=["q_proj", "v_proj"]))
    randomise(model)
    model.base_model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "sum", "cat")
    for layer in layers(model).values():
        expected = 0.5 * layer.get_delta_weight("default") - 2 * layer.get_delta_weight("other")
        same_matrix(layer.get_delta_weight("sum"), expected, 1e-10)
        assert layer.r["sum"] == layer.width["sum"] == 6
