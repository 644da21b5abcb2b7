"""Models of one layer, one for each kind of layer, and their outputs and gradients by formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.pytorch_utils import Conv1D

from cases import gaussian
from corefold import DeepLoraConfig
from models import layers, randomise, wrap

R = 4
IDS = torch.tensor([[3, 2, 7, 0, 2], [10, 3, 3, 1, 9]])


class Around(nn.Module):
    """A model of one layer, named `layer`, that is not its last operation."""

    def __init__(self, layer: nn.Module, call: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.layer, self.call = layer, call or (lambda layer, x: layer(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer, x).sin()


def attend(layer, x):
    return layer(x, x.flip(1), x.roll(1, 0))[0]  # Queries, keys and values differ.


def attend_masked(layer, x):
    rows = x.shape[0] if layer.batch_first else x.shape[1]
    tokens = x.shape[1] if layer.batch_first else x.shape[0]
    hidden = torch.zeros(rows, tokens, dtype=torch.bool)
    hidden[-1, -1] = True
    return layer(query=x, key=x, value=x, key_padding_mask=hidden, need_weights=False)[0]


KINDS: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "linear": (lambda: nn.Linear(9, 7), (2, 3, 9), None),
    "linear without bias": (lambda: nn.Linear(5, 12, bias=False), (4, 5), None),
    "Conv1D": (lambda: Conv1D(7, 10), (2, 3, 10), None),
    "embedding": (lambda: nn.Embedding(11, 7), IDS, None),
    "embedding with padding": (lambda: nn.Embedding(11, 7, padding_idx=2), IDS, None),
    "scaled embedding": (lambda: Gemma3TextScaledWordEmbedding(11, 7, 2, embed_scale=3.7), IDS, None),
    "conv1d": (lambda: nn.Conv1d(5, 8, 3, stride=2, padding=1), (2, 5, 9), None),
    "conv1d same": (lambda: nn.Conv1d(5, 8, 3, padding="same", dilation=2), (2, 5, 9), None),
    "conv1d unbatched": (lambda: nn.Conv1d(5, 8, 3), (5, 9), None),
    "conv2d 1x1": (lambda: nn.Conv2d(6, 9, 1), (2, 6, 4, 3), None),
    "conv2d": (lambda: nn.Conv2d(3, 7, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 7, 6), None),
    "conv2d without bias": (lambda: nn.Conv2d(3, 5, 3, bias=False), (2, 3, 5, 6), None),
    "conv2d groups": (lambda: nn.Conv2d(6, 10, (3, 2), groups=2), (2, 6, 5, 4), None),
    "conv2d depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, padding=1), (2, 6, 5, 4), None),
    "conv2d circular": (
        lambda: nn.Conv2d(3, 7, 3, dilation=2, padding=2, padding_mode="circular"),
        (2, 3, 7, 6),
        None,
    ),
    "conv2d reflect": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=(2, 1), padding_mode="reflect", groups=2),
        (2, 4, 7, 6),
        None,
    ),
    "conv3d": (lambda: nn.Conv3d(2, 5, (3, 1, 2), padding=1, stride=(1, 2, 1)), (2, 2, 4, 3, 5), None),
    "attention": (lambda: nn.MultiheadAttention(8, 2), (3, 4, 8), attend),
    "attention batch_first": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        (3, 4, 8),
        attend_masked,
    ),
    "attention bare": (
        lambda: nn.MultiheadAttention(6, 3, bias=False, add_zero_attn=True),
        (3, 4, 6),
        attend_masked,
    ),
}
"""For each kind the layer, its input or the shape of it, and how a model calls it if not by the input alone."""
OBSTACLES = {
    name: "an attention" if "attention" in name else "groups, dilation or a padding mode"
    for name in KINDS
    if any(word in name for word in ("attention", "same", "groups", "depthwise", "circular", "reflect"))
}
every_kind = pytest.mark.parametrize("kind", [*KINDS])


def base_of(kind: str, dtype: torch.dtype = torch.float64) -> Around:
    make, _, call = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Around(make(), call).to(dtype).eval().requires_grad_(True)
        for parameter in model.parameters():  # Biases are zero otherwise.
            nn.init.normal_(parameter, std=0.5)
        if getattr(model.layer, "padding_idx", None) is not None:
            nn.init.zeros_(model.layer.weight[model.layer.padding_idx].detach())
    return model


def inputs_of(kind: str, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = KINDS[kind][1]
    return shape if isinstance(shape, Tensor) else gaussian(*shape, seed=1, dtype=dtype)


def adapted(kind: str, *, seed: int | None = 1, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """The wrapped model, its updates in general position unless seed is None."""
    model = wrap(base_of(kind, dtype), **{"r": R, "target_modules": ["layer"], **options}).eval()
    if seed is not None:
        shake(model, seed)
    return model


def shake(model: nn.Module, seed: int = 1) -> None:
    """Put every update in general position, half as large as the weight."""
    randomise(model, seed, size=0.5)


def weight_name(path: str, base: nn.Module) -> str:
    """The parameter of the unwrapped model that a layer adapts."""
    path = path.removeprefix("base_model.model.").replace(".base_layer.out_proj", ".out_proj")
    module = base.get_submodule(path)
    return f"{path}.in_proj_weight" if isinstance(module, nn.MultiheadAttention) else f"{path}.weight"


def oriented(dense: Tensor, name: str, base: nn.Module) -> Tensor:
    """An update (out, in) as it lies in a weight."""
    module = base.get_submodule(name.rpartition(".")[0])
    return (
        dense.mT
        if isinstance(module, (nn.Embedding, Conv1D))
        else dense.reshape(base.get_parameter(name).shape)
    )


def flat(gradient: Tensor, name: str, base: nn.Module) -> Tensor:
    """A weight's gradient as an update sees it, (out, in)."""
    module = base.get_submodule(name.rpartition(".")[0])
    return gradient.mT if isinstance(module, (nn.Embedding, Conv1D)) else gradient.flatten(1)


def dense_weights(
    model: nn.Module, base: nn.Module, adapters=("default",), scale: float = 1.0
) -> dict[str, Tensor]:
    """The sum of weight and updates for every adapted weight, by formula from the layers' parameters."""
    weights = {}
    for path, layer in layers(model).items():
        name = weight_name(path, base)
        weights[name] = base.get_parameter(name)
        for adapter in adapters:
            if adapter not in layer.deeplora_factors:
                continue
            config = model.peft_config[adapter]
            factors, left, right = (getattr(layer, part)[adapter] for part in layer.adapter_layer_names)
            if factors.shape[2] < left.shape[1]:  # The factors are Q and P of a pair core.
                core = factors[1] @ factors[0].mT
            else:
                core = torch.eye(left.shape[1], dtype=left.dtype)
                for factor in factors:  # W_1 comes first.
                    core = factor @ core
                core = core - config.init_scale**config.depth * torch.eye(left.shape[1], dtype=left.dtype)
            update = left @ core @ right.flatten(0, -2).mT
            weights[name] = weights[name] + scale * oriented(update, name, base)
    return weights


def run_dense(model: nn.Module, base: nn.Module, x: Tensor, **options: Any) -> Tensor:
    return functional_call(base, dense_weights(model, base, **options), (x,))


def close(got: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=atol)


def two_adapters(kind: str) -> Any:
    model = adapted(kind, seed=None, adapter_name="one")
    model.add_adapter("two", DeepLoraConfig(r=3, depth=2, init_scale=0.3, target_modules=["layer"]))
    shake(model)
    assert all(layer.r.keys() == {"one", "two"} for layer in layers(model).values())
    return model.eval()


def gpt2(**options: Any) -> Any:
    """A random GPT-2, whose linear layers are Conv1D and whose head is tied to the word embeddings."""
    size = {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 16}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**size, **dropout, bos_token_id=1, eos_token_id=2, **options))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    return model.double().eval()
