"""Which layers are adapted, against PEFT's LoRA, and which are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from adapters.layer_kinds import R, gpt2
from corefold import DeepLoraConfig
from models import layers, load, tiny_llama, wrap


class IntegerWeights(nn.Module):
    """A layer whose weights are integers, as in a quantisation that PEFT does not know."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)


class IntegerLinear(IntegerWeights, nn.Linear):
    def __init__(self):
        nn.Linear.__init__(self, 4, 3)
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    "make",
    [lambda: nn.LSTM(5, 4), lambda: nn.Bilinear(3, 4, 5), lambda: nn.LayerNorm(4), lambda: nn.ConvTranspose1d(3, 4, 2),
     lambda: nn.EmbeddingBag(5, 3), IntegerWeights, IntegerLinear],
)  # fmt: skip
def test_other_layers_are_refused_by_name(make):
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(make()))
    with pytest.raises(TypeError, match=r"(?s)is not supported.*leave 1\.0 out of target_modules"):
        wrap(model, target_modules=["1.0"])


def tower() -> nn.Module:
    return nn.Sequential(Tower())


class Tower(nn.Module):
    """Layers of every kind, in two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "attention": nn.MultiheadAttention(8, 2),
                "conv": nn.Conv1d(8, 6, 3),
                "linear": nn.Linear(6, 8),
                "norm": nn.LayerNorm(8),
            })
            for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(8, 3)


def bert() -> Any:
    return load("minilm")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (tiny_llama, {}),
        (tiny_llama, {"target_modules": ["q_proj", "mlp.up_proj"]}),
        (tiny_llama, {"target_modules": r".*\.1\..*(q|down)_proj"}),
        (tiny_llama, {"target_modules": "all-linear", "exclude_modules": r".*mlp.*"}),
        (tiny_llama, {"target_modules": "all-linear", "modules_to_save": ["lm_head", "norm"]}),
        (tiny_llama, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}),
        (tiny_llama, {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": ["layers"]}),
        (
            tiny_llama,
            {
                "target_modules": "all-linear",
                "rank_pattern": {
                    "k_proj": 3,
                    r".*\.1\.mlp\..*": 5,
                    "^model.layers.0.mlp.up_proj": 2,
                    "self_attn.o_proj": 6,
                },
            },
        ),
        (bert, {"task_type": "SEQ_CLS", "bias": "only"}),
        (bert, {"task_type": "SEQ_CLS", "bias": "all", "target_modules": ["query", "word_embeddings"]}),
        (
            bert,
            {
                "target_modules": "all-linear",
                "layers_to_transform": None,
                "exclude_modules": ["pooler.dense"],
            },
        ),
        (gpt2, {"fan_in_fan_out": True}),
        (gpt2, {"target_modules": "all-linear", "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}),
        (tower, {"target_modules": ["embed", "attention", "conv", "linear"], "modules_to_save": ["head"]}),
        (tower, {"target_modules": ["attention", "conv"], "bias": "only", "layers_to_transform": [1]}),
        (tower, {"target_modules": ["conv", "linear"], "bias": "all", "exclude_modules": ["0.linear"]}),
        (tower, {"target_modules": r".*blocks\.\d\.(conv|attention)", "rank_pattern": {r"1\.conv": 2}}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_same_layers_as_lora(make, options):
    kinds = {"only": ("lora_only", "deeplora_only")}.get(
        options.get("bias"), (options.get("bias", "none"),) * 2
    )
    lora = get_peft_model(make(), LoraConfig(**{**options, "r": R, "bias": kinds[0]}))
    ours = get_peft_model(make(), DeepLoraConfig(**{**options, "r": R, "bias": kinds[1]}))
    widths = {name: module.r["default"] for name, module in lora.named_modules() if hasattr(module, "lora_A")}
    assert layers(ours).keys() == widths.keys()
    for name, layer in layers(ours).items():
        assert layer.r["default"] == min(widths[name], layer.left_rows, math.prod(layer.right_shape))
    trained = [
        {name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
        for model in (lora, ours)
    ]
    assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"target_modules": ["nowhere"]}, r"Target modules .*nowhere.* not found"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "excluded"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [7]}, "not found|layers"),
        ({"target_modules": r"nowhere.*"}, "not found"),
    ],
    ids=str,
)
def test_nothing_to_adapt_is_the_error_of_lora(options, error):
    messages = []
    for config in (LoraConfig(r=R, **options), DeepLoraConfig(r=R, **options)):
        with pytest.raises(ValueError, match=error) as raised:
            get_peft_model(tiny_llama(), config)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _short(model):
    return {name.removeprefix("base_model.model.") for name in layers(model)}


def test_all_linear_leaves_the_head_alone(llama):
    wrapped = wrap(llama, target_modules="all-linear")
    assert {name.rpartition(".")[2] for name in _short(wrapped)} == LINEARS
    assert len(_short(wrapped)) == 2 * len(LINEARS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"target_modules": r".*\.0\.mlp\.(up|down)_proj"},
            [f"model.layers.0.mlp.{name}" for name in ("up_proj", "down_proj")],
        ),
        (
            {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]},
            [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)],
        ),
        (
            {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.1\..*"},
            [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj")],
        ),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [1]},
            ["model.layers.1.self_attn.q_proj"],
        ),
        (
            {"target_modules": ["o_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
            ["model.layers.0.self_attn.o_proj"],
        ),
    ],
    ids=str,
)
def test_targeting(llama, options, expected):
    assert {*_short(wrap(llama, **options))} == {*expected}


def test_the_repr_tells_the_method(llama):
    assert "deeplora.DeepLoraLinear" in repr(wrap(llama))


def test_works_on_the_meta_device(llama):
    with torch.device("meta"):
        model = wrap(tiny_llama())
        ids = torch.zeros(2, 3, dtype=torch.long)
    assert model(input_ids=ids).logits.shape == (2, 3, 50)
