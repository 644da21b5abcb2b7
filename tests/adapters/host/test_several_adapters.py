"""Several adapters of one model: adding up, deleting, saving."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel

from adapters.overlapping_adapters import BATCH, alone, overlapping
from corefold import DeepLoraConfig
from models import adapter_state, layers, logits, same_tensors, tiny_llama, wrap


@pytest.fixture
def model():
    return overlapping()


def test_delete_adapter(model):
    one = alone(model, "one")
    model.delete_adapter("two")
    assert torch.equal(logits(model, BATCH), one)
    assert [*model.peft_config] == ["one"]
    assert not adapter_state(model, "two")
    for layer in layers(model).values():
        for part in ("r", "configs", "frozen_peft_weight_names"):
            assert "two" not in getattr(layer, part)
    model.add_adapter("two", DeepLoraConfig(target_modules=["q_proj"], r=2))
    assert adapter_state(model, "two")


def test_deleting_the_active_one(model):
    model.set_adapter("one")
    with pytest.warns(UserWarning, match="Setting active adapter to two"):
        model.delete_adapter("one")
    assert not adapter_state(model, "one")
    assert torch.equal(logits(model, BATCH), alone(model, "two"))


def test_save_and_load_two(model, tmp_path):
    one, two = alone(model, "one"), alone(model, "two")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "two", adapter_name="second")
    loaded.load_adapter(tmp_path / "one", adapter_name="first")
    assert torch.equal(alone(loaded, "second"), two)
    assert torch.equal(alone(loaded, "first"), one)


def test_beside_another_method(llama):
    model = wrap(llama, adapter_name="mine", target_modules=["q_proj"])
    state = adapter_state(model, "mine")
    with pytest.raises(ValueError, match=r"[Cc]annot combine|same type|mixed|peft_type|PEFT"):
        model.add_adapter("plain", LoraConfig(target_modules=["q_proj"]))
    assert same_tensors(adapter_state(model, "mine"), state)
