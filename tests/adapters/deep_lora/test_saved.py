"""Updates read from a saved adapter."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model_state_dict

from corefold.adapters import saved_updates
from models import tiny_llama, wrap


@pytest.fixture
def state():
    model = wrap(tiny_llama(), r=4)
    return model.peft_config["default"], get_peft_model_state_dict(model)


NAME = "base_model.model.model.layers.1.self_attn.v_proj"


def test_updates_of_a_saved_adapter(state):
    updates = saved_updates(*state)
    assert len(updates) == 4
    update = updates[NAME.removeprefix("base_model.model.")]
    assert update.left.shape == (12, 4)
    assert update.dense().abs().max() == 0


@pytest.mark.parametrize("part", ["deeplora_factors", "deeplora_left", "deeplora_right"])
def test_a_missing_tensor_is_named(state, part):
    config, tensors = state
    del tensors[f"{NAME}.{part}"]
    with pytest.raises(ValueError, match=rf"{NAME}\.{part} is missing"):
        saved_updates(config, tensors)


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("deeplora_factors", (2, 4, 4)),
        ("deeplora_factors", (3, 4, 5)),
        ("deeplora_factors", (3, 5, 5)),
        ("deeplora_factors", (4, 4)),
        ("deeplora_left", (12, 3)),
        ("deeplora_left", (12,)),
        ("deeplora_right", (24, 5)),
    ],
)
def test_a_wrong_shape_is_named(state, part, shape):
    config, tensors = state
    tensors[f"{NAME}.{part}"] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"{NAME}.*depth 3"):
        saved_updates(config, tensors)


def test_another_method_is_refused(state):
    with pytest.raises(ValueError, match="no Deep LoRA layer"):
        saved_updates(state[0], {"base_model.model.fc.lora_A.weight": torch.zeros(2, 2)})
