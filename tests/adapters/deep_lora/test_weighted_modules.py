"""Which layers and saved modules a sum of adapters has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from adapters.deep_lora.sums_of_adapters import combined, several, summed, update
from corefold import DeepLoraConfig
from laws import same_matrix
from models import adapter_state, inputs, layers, logits, same_tensors, tiny_llama, wrap


class Every(nn.Module):
    """Kinds of layers whose updates have different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.conv = nn.Conv2d(4, 6, (3, 2), groups=2)
        self.linear = nn.Linear(8, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.attention(x, x, x)[0]
        x = x + self.conv(x.new_ones(1, 4, 5, 3)).sum()
        return self.linear(x)


def test_every_kind_of_layer(tmp_path):
    torch.manual_seed(0)
    base = Every().double()
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    targets = ["embed", "attention", "conv", "linear"]
    model = several(
        {"one": {"r": 3, "target_modules": targets}, "two": {"r": 4, "target_modules": targets, "depth": 2}},
        base,
    )
    ids = torch.tensor([[3, 2, 7], [10, 3, 1]])
    model.base_model.set_adapter(["one", "two"])
    both = model(ids)
    model.base_model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "sum")
    assert combined(model).keys() == layers(model).keys()
    for layer in layers(model).values():
        same_matrix(update(layer, "sum"), summed(layer, ["one", "two"], [1.0, 1.0]), 1e-13)
    model.set_adapter("sum")
    torch.testing.assert_close(model(ids), both, rtol=1e-12, atol=1e-12)
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    fresh = Every().double()
    fresh.load_state_dict(weights)
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "sum", adapter_name="sum").eval()
    assert same_tensors(adapter_state(loaded, "sum"), adapter_state(model, "sum"))
    torch.testing.assert_close(loaded(ids), both, rtol=1e-12, atol=1e-12)


class Nested(nn.Module):
    """Layers whose names end in one another: fc, sub.fc, sub.sub.fc."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.fc = nn.Linear(9, 9)
        if depth:
            self.sub = Nested(depth - 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x).tanh()
        return self.sub(x) if hasattr(self, "sub") else x


@pytest.mark.parametrize("mine", ["fc", "sub.fc", "sub.sub.fc"])
def test_only_layers_of_its_parts(mine, tmp_path):
    model = several(
        {"one": {"r": 3, "target_modules": mine}, "rest": {"r": 2, "target_modules": ["fc"]}}, Nested()
    )
    model.base_model.add_weighted_adapter(["one"], [2.0], "twice")
    assert [*combined(model, "twice")] == [f"base_model.model.{mine}"]
    model.save_pretrained(tmp_path, selected_adapters=["twice"])
    loaded = PeftModel.from_pretrained(Nested(), tmp_path / "twice", adapter_name="twice")
    assert same_tensors(adapter_state(loaded, "twice"), adapter_state(model, "twice"))


def with_head(model: Any, name: str) -> Tensor:
    return model.base_model.model.lm_head.modules_to_save[name].weight


@pytest.mark.parametrize("owner", ["one", "two"])
def test_the_saved_module_of_one_part_comes_along(owner, tmp_path):
    adapters: dict[str, dict[str, Any]] = {
        name: {"target_modules": ["q_proj"], "r": 3} for name in ("one", "two")
    }
    adapters[owner]["modules_to_save"] = ["lm_head"]
    model = several(adapters)
    with torch.no_grad():
        with_head(model, owner).mul_(-2)
    model.base_model.add_weighted_adapter(["one", "two"], [1.0, 3.0], "sum")
    assert torch.equal(with_head(model, "sum"), with_head(model, owner))
    assert with_head(model, "sum") is not with_head(model, owner)
    assert model.peft_config["sum"].modules_to_save == ["lm_head"]
    model.set_adapter("sum")
    own = logits(model, inputs("tiny"))
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(tiny_llama().double(), tmp_path / "sum", adapter_name="sum").eval()
    assert torch.equal(logits(loaded, inputs("tiny")), own)


def test_two_saved_modules_in_one_place_are_refused():
    options = {"target_modules": ["q_proj"], "r": 3, "modules_to_save": ["lm_head"]}
    model = several({"one": options, "two": options})
    with pytest.raises(ValueError, match=r"same module with modules_to_save: .*lm_head"):
        model.base_model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "sum")
    assert [*model.peft_config] == ["one", "two"]


def test_what_is_no_low_rank_update_is_not_added_up_in_silence():
    model = get_peft_model(
        tiny_llama(attention_bias=True), DeepLoraConfig(target_modules=["q_proj"], bias="deeplora_only")
    )
    with pytest.raises(ValueError, match="'default' trains biases"):
        model.add_weighted_adapter(["default"], [1.0], "sum")
    assert [*model.peft_config] == ["default"]
    model = wrap(tiny_llama(), target_modules=["q_proj"], trainable_token_indices=[1, 2])
    with pytest.warns(UserWarning, match="the token rows that adapter 'default' trains"):
        model.add_weighted_adapter(["default"], [1.0], "sum")
