"""`initialize_bases(rank_budget=...)`: ranks that follow the gradient's energy."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import corefold
from adapters.deep_lora.chosen_gradients import (
    PREFIX,
    SPECTRA,
    ChosenGradients,
    spread,
    widths,
    with_gradients,
)
from adapters.deep_lora.pair_cores import PAIR_CORE
from cases import gaussian
from models import adapter_state, batches, inputs, layers, logits, randomise, same_tensors, tiny_llama, wrap


@pytest.mark.parametrize(
    ("spectra", "budget", "expected"),
    [
        # Every layer gets 2, and then 2 for each direction: three directions of a come before the second of b.
        ({"a": [9, 8, 7, 1], "b": [2, 1.5, 1], "c": [0.5, 0.1]}, 10, {"a": 6, "b": 2, "c": 2}),
        ({"a": [9, 8, 7, 1], "b": [2, 1.5, 1], "c": [0.5, 0.1]}, 12, {"a": 6, "b": 4, "c": 2}),
        ({"a": [9, 8, 7, 6, 5], "b": [0.1], "c": [0.2]}, 12, {"a": 8, "b": 2, "c": 2}),
        # Energy is a sum of squares, so a few large values count more than many small ones.
        ({"a": [5, 4, 0.1], "b": [3, 2.9, 2.8, 2.7]}, 6, {"a": 4, "b": 2}),
        # Every layer has one direction, however little energy it has.
        ({"a": [5, 4, 3], "b": [1e-3]}, 4, {"a": 2, "b": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("r", [4, 6])
def test_widths_follow_the_energy(spectra, budget, expected, r):
    model = with_gradients(spectra, r=r, bases="gradient")
    report = spread(model, budget)
    assert widths(report) == expected
    for name, values in spectra.items():
        torch.testing.assert_close(
            report[PREFIX + name][: len(values)], torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=0
        )
        layer = layers(model)[PREFIX + name]
        assert layer.r["default"] == layer.deeplora_factors["default"].shape[-1] == expected[name]
        assert layer.deeplora_left["default"].shape == (15, expected[name])
        u, _, vh = torch.linalg.svd(model.get_base_model().gradients[name])
        half = min(expected[name] // 2, len(values))
        for basis, exact in ((layer.deeplora_left["default"], u), (layer.deeplora_right["default"], vh.mT)):
            assert (exact[:, :half] - basis @ (basis.mT @ exact[:, :half])).norm() < 1e-8
    pattern = {f"^{name}": width for name, width in expected.items() if width != r}
    assert model.peft_config["default"].rank_pattern == pattern


def test_no_layer_gets_more_than_twice_the_average():
    spectra = {"a": [9.0 - i / 2 for i in range(12)], "b": [1, 0.9, 0.8], "c": [0.1, 0.05], "d": [0.1]}
    assert widths(spread(with_gradients(spectra), 20)) == {"a": 10, "b": 6, "c": 2, "d": 2}
    assert widths(spread(with_gradients(spectra), 24)) == {"a": 12, "b": 6, "c": 4, "d": 2}


def test_no_layer_gets_more_than_its_side():
    report = spread(with_gradients({"a": [9, 8, 7], "b": [1]}, (3, 5)), 40)
    assert widths(report) == {"a": 2, "b": 2}  # One direction more would need a rank of 4.


@pytest.mark.parametrize("budget", [8, 9, 10, 17, 24, 31, 32])
def test_the_budget_is_spent(budget):
    model = with_gradients({name: [3.0 - i / 9 - j / 50 for i in range(12)] for j, name in enumerate("abcd")})
    ranks = widths(spread(model, budget))
    assert budget - 1 <= sum(ranks.values()) <= budget
    assert min(ranks.values()) >= 2


def test_no_budget_leaves_the_widths():
    model = with_gradients({"a": [9, 8, 7], "b": [1]}, rank_pattern={"b": 3})
    assert widths(spread(model, None)) == {"a": 4, "b": 3}
    assert model.peft_config["default"].rank_pattern == {"b": 3}


def test_a_gradient_of_zero_everywhere():
    with pytest.warns(UserWarning, match="zero"):
        report = spread(with_gradients({"a": [0.0], "b": [0.0]}), 8)
    assert set(report.energies.values()) == {0.0}
    assert sum(report.ranks.values()) <= 8
    assert "0.0%" in str(report)


@pytest.mark.parametrize(("budget", "layers_", "least"), [(5, 3, 6), (0, 1, 2), (-4, 2, 4)])
def test_a_budget_too_small(budget, layers_, least):
    model = with_gradients({name: [1.0] for name in "abc"[:layers_]})
    state, config = adapter_state(model), copy.deepcopy(model.peft_config["default"])
    with pytest.raises(
        ValueError,
        match=rf"rank_budget for {layers_} layers must be a whole number from {least} up; got {budget}",
    ):
        spread(model, budget)
    assert same_tensors(adapter_state(model), state)
    assert model.peft_config["default"] == config


def test_too_late_for_ddp(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = with_gradients({"a": [2.0, 1.0]})
        wrapped = DistributedDataParallel(model)
        with pytest.raises(ValueError, match="before wrapping with DDP"):
            spread_wrapped(wrapped)
    finally:
        torch.distributed.destroy_process_group()


def spread_wrapped(model: nn.Module) -> None:
    corefold.initialize_bases(
        model, [torch.eye(12).double()], loss_fn=lambda model, x: model(x), rank_budget=8, progress=False
    )


def test_llama_starts_unchanged_trains_and_comes_back(tmp_path):
    data, batch = batches("tiny", 2), inputs("tiny")
    model = wrap(tiny_llama().double(), target_modules="all-linear", r=6, basis_lr_ratio=0.1)
    report = corefold.initialize_bases(model, data, rank_budget=14 * 5, progress=False)
    assert len(report.ranks) == 14
    assert 69 <= sum(report.ranks.values()) <= 70
    assert len({*report.ranks.values()}) >= 3
    assert torch.equal(logits(model.eval(), batch), logits(tiny_llama().double(), batch))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 3 * 14

    optimizer = torch.optim.AdamW(corefold.param_groups(model, lr=1e-2))
    losses = []
    for _ in range(5):
        loss = model.train()(**data[0]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama().double(), tmp_path)
    assert same_tensors(adapter_state(loaded), adapter_state(model))
    assert torch.equal(logits(loaded.eval(), batch), logits(model.eval(), batch))
    pattern = PeftConfig.from_pretrained(tmp_path).rank_pattern
    assert {
        f"^{re.escape(name.removeprefix(PREFIX))}": w for name, w in report.ranks.items() if w != 6
    } == pattern


def test_same_data_same_widths_and_bases():
    data, states = batches("tiny", 2), []
    for r in (4, 4, 10):
        model = wrap(tiny_llama(), target_modules="all-linear", r=r)
        corefold.initialize_bases(model, data, rank_budget=60, progress=False)
        states.append(adapter_state(model))
    assert same_tensors(states[0], states[1])
    assert same_tensors(states[0], states[2])  # `r` does not matter.


def test_again_with_another_budget():
    model = with_gradients({"a": [9, 8, 7, 1], "b": [2, 1.5, 1], "c": [0.5, 0.1]})
    spread(model, 12)
    assert widths(spread(model, 10)) == {"a": 6, "b": 2, "c": 2}
    assert model.peft_config["default"].rank_pattern == {"^a": 6, "^b": 2, "^c": 2}


def test_of_one_adapter_among_two():
    model = with_gradients({"a": [9, 8, 7, 1], "b": [2, 1.5, 1]}, adapter_name="one")
    model.add_adapter("two", corefold.DeepLoraConfig(target_modules=["a", "b"], r=4))
    randomise(model)
    before = adapter_state(model, "one")
    spread(model, 8, adapter_name="two")
    assert {name: layer.r["two"] for name, layer in layers(model).items()} == {
        PREFIX + "a": 6,
        PREFIX + "b": 2,
    }
    assert same_tensors(adapter_state(model, "one"), before)
    assert [*model.active_adapters] == ["one"]
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".two" in name)
    assert model.peft_config["one"].rank_pattern == {}


class Mixed(nn.Module):
    """Attention, whose output projection is a layer inside a layer, beside other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(21, 16, padding_idx=2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.conv = nn.Conv1d(16, 9, 3, groups=1)
        self.tiny = nn.Linear(9, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.attention(x, x, x)[0]
        return self.tiny(self.conv(x.mT).mT).sin()


@pytest.mark.parametrize("budget", [9, 20, 31])
def test_every_kind_of_layer(budget, tmp_path):
    torch.manual_seed(0)
    base, ids = Mixed().double().eval(), (gaussian(3, 7).abs() * 7).long()
    model = wrap(copy.deepcopy(base), target_modules=["embed", "attention", "conv", "tiny"], r=5)
    report = corefold.initialize_bases(
        model, [ids], loss_fn=lambda model, x: model(x).square().sum(), rank_budget=budget, progress=False
    )
    ranks = widths(report)
    assert sum(ranks.values()) <= budget
    assert ranks["tiny"] == 1
    assert ranks["attention"] == ranks["attention.base_layer.out_proj"]  # PEFT knows one rank for both.
    with torch.no_grad():
        start = model.eval()(ids)
        with model.disable_adapter():
            assert torch.equal(model(ids), start)
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert same_tensors(adapter_state(loaded), adapter_state(model))
    torch.testing.assert_close(loaded(ids), model(ids), rtol=1e-12, atol=1e-14)


def test_a_budget_keeps_what_else_the_adapter_has():
    model = with_gradients(SPECTRA)
    model.add_adapter("other", corefold.DeepLoraConfig(r=4, target_modules=["a", "b", "c"]))
    model.set_requires_grad("default", False)
    for layer in layers(model).values():
        layer.set_scale("other", 0.5)
    spread(model, 10, adapter_name="other")
    for layer in layers(model).values():
        assert layer.scaling["other"] == 0.5
        assert not any(tensor.requires_grad for tensor in layer.tensors("default"))


def test_a_budget_keeps_the_dtype_that_was_asked_for():
    base = ChosenGradients(SPECTRA).bfloat16()
    base.gradients = {name: g.bfloat16() for name, g in base.gradients.items()}
    config = corefold.DeepLoraConfig(r=4, target_modules=["a", "b", "c"])
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    eye = torch.eye(12, dtype=torch.bfloat16)
    corefold.initialize_bases(
        model, [eye], loss_fn=lambda model, x: model(x).float(), rank_budget=10, progress=False
    )
    assert {layer.deeplora_left["default"].dtype for layer in layers(model).values()} == {torch.bfloat16}


def test_a_budget_names_layers_as_the_adapter_does(tmp_path):
    """The names do not depend on the model around the adapted one."""

    class Holder(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

    model = with_gradients(SPECTRA)
    spread(Holder(model), 10)
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(ChosenGradients(SPECTRA).double(), tmp_path)
    assert same_tensors(adapter_state(model), adapter_state(loaded))


def test_an_attention_and_its_output_projection_have_one_width(tmp_path):
    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(16, 2), nn.Linear(16, 3)

        def forward(self, x):
            return self.out(self.attention(x, x, x)[0])

    base = Attentive()
    model = wrap(copy.deepcopy(base), target_modules=["attention", "out_proj", "out"], r=6)
    x = gaussian(5, 16).float()
    corefold.initialize_bases(
        model, [x], loss_fn=lambda model, x: model(x).square().sum(), rank_budget=9, progress=False
    )
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert same_tensors(adapter_state(model), adapter_state(loaded))


def test_no_batch_is_wanted():
    model = with_gradients(SPECTRA)
    with pytest.raises(ValueError, match="num_batches must be at least 1; got 0"):
        spread(model, None, num_batches=0)
    with pytest.raises(ValueError, match="whole number"):
        spread(model, 10.5)


def test_a_budget_spreads_ranks_and_keeps_the_width(minilm):
    model = wrap(minilm, **PAIR_CORE)
    count = len(layers(model))
    report = corefold.initialize_bases(
        model, batches("minilm", 2), num_batches=2, rank_budget=4 * count, progress=False
    )
    assert sum(report.ranks.values()) == 4 * count
    assert len(set(report.ranks.values())) > 1
    for name, layer in layers(model).items():
        assert layer.r["default"] == report.ranks[name]
        assert layer.width["default"] == max(10, report.ranks[name])
