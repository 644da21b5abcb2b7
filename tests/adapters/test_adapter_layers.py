"""Every kind of layer against the same model run with the dense sum of weight and update."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.pytorch_utils import Conv1D

import corefold
from cases import gaussian
from corefold import DeepLoraConfig
from laws import applied_in_order, lies_within, same_matrix
from models import (
    adapter_state,
    batches,
    inputs,
    layers,
    load,
    logits,
    randomise,
    same_tensors,
    tiny_llama,
    wrap,
)

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
    return layer(x, x.flip(1), x.roll(1, 0))[0]  # queries, keys and values differ


def attend_masked(layer, x):
    rows = x.shape[0] if layer.batch_first else x.shape[1]
    tokens = x.shape[1] if layer.batch_first else x.shape[0]
    hidden = torch.zeros(rows, tokens, dtype=torch.bool)
    hidden[-1, -1] = True
    return layer(query=x, key=x, value=x, key_padding_mask=hidden, need_weights=False)[0]


def encoder_layer():
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)


# name: (the layer, what goes in, how it is called, what is targeted)
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
        for parameter in model.parameters():  # biases and norms too
            nn.init.normal_(parameter, std=0.5)
        if getattr(model.layer, "padding_idx", None) is not None:
            nn.init.zeros_(model.layer.weight[model.layer.padding_idx].detach())
    return model


def inputs_of(kind: str, dtype: torch.dtype = torch.float64) -> Tensor:
    given = KINDS[kind][1]
    return given if isinstance(given, Tensor) else gaussian(*given, seed=1, dtype=dtype)


def adapted(kind: str, *, seed: int | None = 1, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """The wrapped model, its chains in general position unless seed is None."""
    model = wrap(base_of(kind, dtype), **{"r": R, "target_modules": ["layer"], **options}).eval()
    if seed is not None:
        shake(model, seed)
    return model


def shake(model: nn.Module, seed: int = 1) -> None:
    """Every chain in general position, its update half as large as the weight."""
    randomise(model, seed, size=0.5)


def weight_name(path: str, base: nn.Module) -> str:
    """The parameter of the unwrapped model that a layer adapts."""
    path = path.removeprefix("base_model.model.").replace(".base_layer.out_proj", ".out_proj")
    module = base.get_submodule(path)
    return f"{path}.in_proj_weight" if isinstance(module, nn.MultiheadAttention) else f"{path}.weight"


def oriented(dense: Tensor, name: str, base: nn.Module) -> Tensor:
    """An (out, in...) update as it lies in a weight."""
    module = base.get_submodule(name.rpartition(".")[0])
    return (
        dense.mT
        if isinstance(module, (nn.Embedding, Conv1D))
        else dense.reshape(base.get_parameter(name).shape)
    )


def flat(gradient: Tensor, name: str, base: nn.Module) -> Tensor:
    """A weight's gradient as the chain sees it, (out, in)."""
    module = base.get_submodule(name.rpartition(".")[0])
    return gradient.mT if isinstance(module, (nn.Embedding, Conv1D)) else gradient.flatten(1)


def dense_weights(
    model: nn.Module, base: nn.Module, adapters=("default",), scale: float = 1.0
) -> dict[str, Tensor]:
    """Weight plus updates for every adapted weight, by formula from the layers' parameters."""
    weights = {}
    for path, layer in layers(model).items():
        name = weight_name(path, base)
        weights[name] = base.get_parameter(name)
        for adapter in adapters:
            if adapter not in layer.deeplora_factors:
                continue
            config = model.peft_config[adapter]
            factors, left, right = (getattr(layer, part)[adapter] for part in layer.adapter_layer_names)
            if factors.shape[2] < left.shape[1]:  # Q, P of a narrow core
                core = factors[1] @ factors[0].mT
            else:
                core = torch.eye(left.shape[1], dtype=left.dtype)
                for factor in factors:  # W_1 first
                    core = factor @ core
                core = core - config.init_scale**config.depth * torch.eye(left.shape[1], dtype=left.dtype)
            update = left @ core @ right.flatten(0, -2).mT
            weights[name] = weights[name] + scale * oriented(update, name, base)
    return weights


def run_dense(model: nn.Module, base: nn.Module, x: Tensor, **options: Any) -> Tensor:
    return functional_call(base, dense_weights(model, base, **options), (x,))


def close(got: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=atol)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_wrapping_changes_no_bit(kind, dtype):
    base, x = base_of(kind, dtype), inputs_of(kind, dtype)
    model = adapted(kind, seed=None, dtype=dtype, bases="random")
    with torch.no_grad():
        assert torch.equal(model(x), base(x))
    # With a gradient as in training: PyTorch's fused attention, when nothing wants one, rounds otherwise
    assert torch.equal(model.train()(x), base.train()(x))


@every_kind
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_forward_is_the_base_with_the_dense_sum(kind, depth):
    model, base, x = adapted(kind, depth=depth), base_of(kind), inputs_of(kind)
    expected = run_dense(model, base, x)
    close(model(x), expected)
    with torch.no_grad():
        close(model(x), expected)
    assert (expected - base(x)).abs().max() > 1e-2
    for path, layer in layers(model).items():
        name = weight_name(path, base)
        update = dense_weights(model, base)[name] - base.get_parameter(name)
        close(layer.get_delta_weight("default"), update)
        factors, left, right = (
            getattr(layer, part)["default"].detach() for part in layer.adapter_layer_names
        )
        slow = applied_in_order(left, factors, right.flatten(0, -2), 0.1**depth)
        same_matrix(update, oriented(slow, name, base), 1e-12)


@every_kind
def test_gradients_are_those_of_the_dense_sum(kind):
    model, base, x = adapted(kind, basis_lr_ratio=0.1).train(), base_of(kind), inputs_of(kind)
    model.peft_config["default"].initialized = True  # or it warns of random bases
    parts = {name: p for name, p in model.named_parameters() if "deeplora" in name}
    assert all(p.requires_grad for p in parts.values())
    target = gaussian(*model(x).shape, seed=5)
    expected = torch.autograd.grad((run_dense(model, base, x) - target).square().sum(), [*parts.values()])
    (model(x) - target).square().sum().backward()
    for (name, parameter), gradient in zip(parts.items(), expected, strict=True):
        assert gradient.norm() > 1e-3, name
        same_matrix(parameter.grad, gradient, 1e-11)


@every_kind
def test_gradients_reach_what_lies_before(kind):
    x = inputs_of(kind)
    if not x.is_floating_point():
        return
    model, base, ours, dense = adapted(kind), base_of(kind), x.clone(), x.clone()
    model(ours.requires_grad_()).square().sum().backward()
    run_dense(model, base, dense.requires_grad_()).square().sum().backward()
    same_matrix(ours.grad, dense.grad, 1e-12)


@every_kind
@pytest.mark.parametrize("safe", [False, True])
def test_merging_and_back(kind, safe):
    model, base, x = adapted(kind), base_of(kind), inputs_of(kind)
    before = model(x)
    for _ in range(2):
        model.merge_adapter(safe_merge=safe)
        assert all(layer.merged for layer in layers(model).values())
        assert len(model.base_model.merge_errors()) == len(layers(model))
        close(model(x), before)
        for path, layer in layers(model).items():
            name = weight_name(path, base)
            close(layer.weight, dense_weights(model, base)[name].detach())
        model.unmerge_adapter()
        for path, layer in layers(model).items():
            assert torch.equal(layer.weight, base.get_parameter(weight_name(path, base)))
        assert torch.equal(model(x), before)


@every_kind
def test_plain_modules_come_back(kind):
    x = inputs_of(kind)
    before = adapted(kind)(x)
    merged, unloaded, base = adapted(kind).merge_and_unload(), adapted(kind).unload(), base_of(kind)
    for plain in (merged, unloaded):
        assert [type(m) for m in plain.modules()] == [type(m) for m in base.modules()]
        assert plain.state_dict().keys() == base.state_dict().keys()
    close(merged(x), before)
    assert same_tensors(unloaded.state_dict(), base.state_dict())


@every_kind
@torch.no_grad()
def test_disabled_is_the_base_bit_for_bit(kind):
    model, base, x = adapted(kind), base_of(kind), inputs_of(kind)
    changed = model(x)
    with model.disable_adapter():
        assert torch.equal(model(x), base(x))
    assert torch.equal(model(x), changed)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), base(x))
    assert torch.equal(model(x), changed)


@every_kind
@torch.no_grad()
def test_saved_and_loaded_gives_the_same_bits(kind, tmp_path):
    model, x = adapted(kind), inputs_of(kind)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_of(kind), tmp_path)
    assert same_tensors(adapter_state(loaded), adapter_state(model))
    assert torch.equal(loaded.eval()(x), model(x))


def two_adapters(kind: str) -> Any:
    model = adapted(kind, seed=None, adapter_name="one")
    model.add_adapter("two", DeepLoraConfig(r=3, depth=2, init_scale=0.3, target_modules=["layer"]))
    shake(model)
    assert all(layer.r.keys() == {"one", "two"} for layer in layers(model).values())
    return model.eval()


@every_kind
def test_two_adapters(kind):
    model, base, x = two_adapters(kind), base_of(kind), inputs_of(kind)
    alone = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        alone[name] = model(x)
        close(alone[name], run_dense(model, base, x, adapters=[name]))
    model.base_model.set_adapter(["one", "two"])
    both = run_dense(model, base, x, adapters=["one", "two"])
    close(model(x), both)
    model.merge_adapter()
    close(model(x), both)
    model.unmerge_adapter()
    model.set_adapter("one")
    model.delete_adapter("two")
    assert torch.equal(model(x), alone["one"])
    assert not adapter_state(model, "two")


@every_kind
def test_each_row_with_its_own_adapter(kind):
    model, x = two_adapters(kind), inputs_of(kind)
    if "unbatched" in kind:
        return
    names = ["two", "one", "__base__", "two"][: len(x)]
    if "attention" in kind:
        with pytest.raises(TypeError, match=r"MultiheadAttention does not support mixed adapter batches"):
            model(x, adapter_names=names)
        assert torch.isfinite(model(x)).all()
        return
    mixed = model(x, adapter_names=names)
    for row, name in enumerate(names):
        model.base_model.set_adapter([] if name == "__base__" else name)
        close(mixed[row], model(x)[row])


@every_kind
def test_scales(kind):
    model, base, x = adapted(kind), base_of(kind), inputs_of(kind)
    for layer in layers(model).values():
        layer.set_scale("default", 2)
        layer.scale_layer(0.75)
    close(model(x), run_dense(model, base, x, scale=1.5))
    merged = copy.deepcopy(model).merge_and_unload()
    close(merged(x), run_dense(model, base, x, scale=1.5))
    for layer in layers(model).values():
        layer.unscale_layer(3)
    close(model(x), run_dense(model, base, x, scale=0.5))
    for layer in layers(model).values():
        layer.unscale_layer()
        layer.set_scale("unknown", 7)
    close(model(x), run_dense(model, base, x))


@every_kind
def test_bases_follow_the_dense_gradient(kind):
    base, x = base_of(kind), inputs_of(kind)
    data = [x, x.flip(-1)] if x.is_floating_point() else [x, (x + 3) % 11]
    model = adapted(kind, bases="gradient").train()

    def loss_fn(model, batch):
        return (model(batch) - 0.4).square().sum()  # whose gradient at a padding vector of zeros is not zero

    report = corefold.initialize_bases(model, data, loss_fn=loss_fn, progress=False)
    for batch in data:
        loss_fn(base, batch).backward()
    assert report.keys() == layers(model).keys()
    for path, layer in layers(model).items():
        name = weight_name(path, base)
        gradient = flat(base.get_parameter(name).grad, name, base)
        u, s, vh = torch.linalg.svd(gradient)
        rank = min(len(s), len(report[path]))
        torch.testing.assert_close(report[path][:rank], s[:rank], rtol=1e-8, atol=1e-8 * s[0].item())
        half = -(-layer.r["default"] // 2)
        assert s[half - 1] > (1.001 * s[half] if half < len(s) else 0), "no gap: the spaces are not defined"
        left, right = (
            layer.deeplora_left["default"],
            layer.tensors("default")[2].flatten(0, -2),
        )
        lies_within(u[:, :half], left, 1e-5)
        lies_within(vh[:half].mT, right, 1e-5)
        padding = getattr(layer.get_base_layer(), "padding_idx", None)
        for basis in (left, right):
            if basis is left or padding is None:
                close(basis.mT @ basis, torch.eye(basis.shape[1], dtype=basis.dtype))
            else:
                assert not basis[padding].any()
        assert not layer.get_delta_weight("default").any()
    with torch.no_grad():
        assert torch.equal(model.eval()(x), base(x))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OBSTACLES])
def test_stock_lora_takes_the_export(kind, tmp_path):
    model, x = adapted(kind), inputs_of(kind)
    export = corefold.export_lora(model, tmp_path)
    assert export.needed.keys() == {path.removeprefix("base_model.model.") for path in layers(model)}
    lora = PeftModel.from_pretrained(base_of(kind), tmp_path).eval()
    assert type(lora.base_model).__name__ == "LoraModel"
    close(lora(x), model(x), atol=1e-10)
    close(lora.merge_and_unload()(x), model(x), atol=1e-10)


@pytest.mark.parametrize("kind", [*OBSTACLES])
def test_no_export_of_what_lora_cannot_do(kind, tmp_path):
    with pytest.raises(ValueError, match=rf"layer .*{OBSTACLES[kind]}.*exclude_modules"):
        corefold.export_lora(adapted(kind), tmp_path)
    assert not [*tmp_path.iterdir()]


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["autocast_adapter_dtype", "to"])
def test_half_precision_adapters_start_at_zero(kind, dtype, how):
    base, x = base_of(kind, dtype), inputs_of(kind, dtype)
    config = DeepLoraConfig(r=R, target_modules=["layer"])
    model = get_peft_model(base_of(kind, dtype), config, autocast_adapter_dtype=how == "to").eval()
    assert {t.dtype for t in adapter_state(model).values()} == {torch.float32 if how == "to" else dtype}
    model = model.to(dtype) if how == "to" else model
    assert {t.dtype for t in adapter_state(model).values()} == {dtype}
    with torch.no_grad():
        assert torch.equal(model(x), base(x))
    for layer in layers(model).values():
        assert not layer.get_delta_weight("default").any()


@every_kind
def test_no_wider_than_the_smaller_side(kind):
    model = adapted(kind, r=100)
    base, x = base_of(kind), inputs_of(kind)
    for path, layer in layers(model).items():
        weight = flat(base.get_parameter(weight_name(path, base)), weight_name(path, base), base)
        assert layer.r["default"] == layer.deeplora_factors["default"].shape[-1] == min(weight.shape)
    close(model(x), run_dense(model, base, x))


@pytest.mark.parametrize("kind", ["embedding with padding", "scaled embedding"])
def test_the_vector_of_padding_never_changes(kind):
    base, x = base_of(kind), inputs_of(kind)
    assert (x == 2).any()
    model = adapted(kind, seed=None, basis_lr_ratio=0.5, bases="random")
    optimizer = torch.optim.AdamW(corefold.param_groups(model, lr=0.1))
    for _ in range(3):
        model(x).square().sum().backward()
        optimizer.step()
    merged = model.merge_and_unload().layer.weight
    assert torch.equal(merged[2], base.layer.weight[2])
    assert (merged - base.layer.weight).abs().max() > 1e-2


# nn.TransformerEncoderLayer has a fused path of its own, and nn.TransformerEncoder one for padded rows: both would read
# the weights from under the adapters.
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "targets",
    [
        ["self_attn"],
        ["linear1", "linear2"],
        ["layers.1.self_attn"],
        ["layers.0.linear2"],
        ["self_attn", "linear1"],
    ],
    ids=str,
)
@torch.no_grad()
def test_no_fused_path_around_an_adapter(targets, masked):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    base, x = nn.TransformerEncoder(block, 2).double().eval(), gaussian(3, 4, 8)
    mask = torch.arange(4) >= torch.tensor([[3], [4], [2]]) if masked else None
    model = wrap(copy.deepcopy(base), target_modules=targets).eval()
    plain = base(x, src_key_padding_mask=mask)
    seen = ~mask if masked else slice(None)
    close(model(x, src_key_padding_mask=mask)[seen], plain[seen])
    randomise(model, size=0.5)
    expected = functional_call(base.train(), dense_weights(model, base), (x,), {"src_key_padding_mask": mask})
    assert (expected - plain)[seen].abs().max() > 0.1
    close(model(x, src_key_padding_mask=mask)[seen], expected[seen])
    with model.disable_adapter():
        close(model(x, src_key_padding_mask=mask)[seen], plain[seen])


@pytest.mark.parametrize("targets", ["all-linear", ["out_proj"]], ids=str)
def test_an_attention_never_calls_its_output_projection(targets):
    with pytest.raises(TypeError, match=r"self_attn\.out_proj is not supported by itself.*exclude_modules"):
        wrap(nn.TransformerEncoderLayer(8, 2, 12), target_modules=targets)
    model = (
        wrap(
            nn.TransformerEncoderLayer(8, 2, 12),
            target_modules=targets,
            exclude_modules=["self_attn.out_proj"],
        )
        if (targets == "all-linear")
        else wrap(nn.TransformerEncoderLayer(8, 2, 12), target_modules=["self_attn", *targets])
    )
    assert len(layers(model)) == 2


def test_attention_of_unequal_sizes_is_refused():
    with pytest.raises(ValueError, match="one size"):
        wrap(Around(nn.MultiheadAttention(8, 2, kdim=6)), target_modules=["layer"])


class Whole(nn.Module):
    """Weights that are not floating point, as those of a quantised layer that PEFT does not know."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)


class WholeLinear(Whole, nn.Linear):
    def __init__(self):
        nn.Linear.__init__(self, 4, 3)
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    "make",
    [lambda: nn.LSTM(5, 4), lambda: nn.Bilinear(3, 4, 5), lambda: nn.LayerNorm(4), lambda: nn.ConvTranspose1d(3, 4, 2),
     lambda: nn.EmbeddingBag(5, 3), Whole, WholeLinear],
)  # fmt: skip
def test_other_layers_are_refused_by_name(make):
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(make()))
    with pytest.raises(TypeError, match=r"(?s)is not supported.*leave 1\.0 out of target_modules"):
        wrap(model, target_modules=["1.0"])


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


GPT2 = {"target_modules": ["c_attn", "c_proj", "c_fc", "wte", "wpe"], "fan_in_fan_out": True}


def test_gpt2():
    base, batch = gpt2(tie_word_embeddings=False), inputs("tiny")
    model = wrap(copy.deepcopy(base), **GPT2).eval()
    assert len(layers(model)) == 2 * 4 + 2
    assert torch.equal(logits(model, batch), logits(base, batch))
    shake(model)
    expected = functional_call(base, dense_weights(model, base), (), batch).logits
    close(logits(model, batch), expected.detach(), atol=1e-11)
    close(logits(model.merge_and_unload(), batch), expected.detach(), atol=1e-11)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gpt2_bases_and_gradients(reentrant):
    base, data = gpt2(tie_word_embeddings=False), batches("tiny", 2)
    model = wrap(copy.deepcopy(base), **GPT2, bases="gradient").train()
    if reentrant is not None:
        gpt = model.get_base_model()  # transformers has renamed it
        enable = getattr(gpt, "activation_checkpointing_enable", None) or gpt.gradient_checkpointing_enable
        enable({"use_reentrant": reentrant})
    report = corefold.initialize_bases(model, data, progress=False)
    for batch in data:
        base(**batch).loss.backward()
    for path, layer in layers(model).items():
        name = weight_name(path, base)
        u, s, vh = torch.linalg.svd(flat(base.get_parameter(name).grad, name, base))
        torch.testing.assert_close(report[path][:2], s[:2], rtol=1e-3, atol=0)
        lies_within(u[:, :1], layer.deeplora_left["default"], 1e-2)
        lies_within(vh[:1].mT, layer.tensors("default")[2], 1e-2)
    shake(model)
    factors = {path: layer.deeplora_factors["default"] for path, layer in layers(model).items()}
    dense = functional_call(base, dense_weights(model, base), (), data[0]).loss
    expected = torch.autograd.grad(dense, [*factors.values()])
    model(**data[0]).loss.backward()
    for (path, parameter), gradient in zip(factors.items(), expected, strict=True):
        assert gradient.any(), path
        same_matrix(parameter.grad, gradient, 1e-9)


def saying(make: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What it makes, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = make()
    return made, [str(w.message) for w in seen if w.category is UserWarning]


@pytest.mark.parametrize(
    "make", [gpt2, lambda: tiny_llama(tie_word_embeddings=True).double()], ids=["gpt2", "llama"]
)
def test_tied_word_embeddings_as_lora_has_them(make, tmp_path):
    batch, name = inputs("tiny"), "wte" if make is gpt2 else "embed_tokens"
    base = make()
    assert base.get_input_embeddings().weight is base.get_output_embeddings().weight
    model, warned = saying(lambda: get_peft_model(base, DeepLoraConfig(r=R, target_modules=[name])))
    _, by_lora = saying(lambda: get_peft_model(make(), LoraConfig(r=R, target_modules=[name])))
    assert [text[:40] for text in warned] == [text[:40] for text in by_lora]
    before = logits(model, batch)
    shake(model)
    (layer,) = layers(model).values()
    own = logits(model, batch)
    weight = weight_name(next(iter(layers(model))), make())
    assert torch.equal(logits(make(), batch), before)
    alone = functional_call(
        make(), {weight: layer.weight + layer.get_delta_weight("default")}, (), batch, tie_weights=False
    )
    close(own, alone.logits.detach(), atol=1e-11)  # the head keeps its weight

    saying(lambda: corefold.export_lora(model, tmp_path))
    lora, _ = saying(lambda: PeftModel.from_pretrained(make(), tmp_path).eval())
    close(logits(lora, batch), own, atol=1e-10)
    merged, _ = saying(lora.merge_and_unload)
    saying(model.merge_adapter)
    close(logits(model, batch), logits(merged, batch), atol=1e-10)  # merged into both
    model.unmerge_adapter()
    assert torch.equal(logits(model, batch), own)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), before)


def test_word_embeddings_of_minilm(minilm, tmp_path):
    batch = inputs("minilm")
    before = logits(minilm, batch)
    model = wrap(minilm, target_modules=["word_embeddings", "query"], task_type="SEQ_CLS").eval()
    assert torch.equal(logits(model, batch), before)
    report = corefold.initialize_bases(model, batches("minilm", 1), progress=False)
    dense = load("minilm")
    dense(**batches("minilm", 1)[0]).loss.backward()
    for path, values in report.items():
        gradient = dense.get_parameter(weight_name(path, dense)).grad
        torch.testing.assert_close(values[:2], torch.linalg.svdvals(gradient)[:2], rtol=1e-3, atol=0)
    randomise(model)
    assert (logits(model, batch) - before).abs().max() > 1e-2
    corefold.export_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(load("minilm"), tmp_path).eval()
    torch.testing.assert_close(logits(lora, batch), logits(model, batch), atol=1e-4, rtol=1e-5)


def test_grouped_attention_shapes():
    base, batch = tiny_llama(num_attention_heads=6, num_key_value_heads=1).double(), inputs("tiny")
    model = wrap(copy.deepcopy(base), target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], r=5)
    sides = {(m.out_features, m.in_features, m.r["default"]) for m in layers(model).values()}
    assert sides == {(24, 24, 5), (4, 24, 4)}
    shake(model)
    expected = functional_call(base, dense_weights(model, base), (), batch).logits
    close(logits(model, batch), expected.detach())


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
    said = []
    for config in (LoraConfig(r=R, **options), DeepLoraConfig(r=R, **options)):
        with pytest.raises(ValueError, match=error) as raised:
            get_peft_model(tiny_llama(), config)
        said.append(str(raised.value))
    assert said[0] == said[1]


@every_kind
def test_training_on_random_bases_warns(kind):
    model, x = adapted(kind, seed=None), inputs_of(kind)
    with torch.no_grad():
        model.train()(x)
    with pytest.warns(UserWarning, match="random bases"):
        model(x)
    model(x)  # once


@pytest.mark.parametrize("width", [None, 6])
def test_how_a_table_weighs_its_own_gradient_is_nothing_to_the_factors(width):
    """IDS names some rows of the table more than once."""
    grads = []
    for scaled in (False, True):
        torch.manual_seed(0)
        model = Around(nn.Embedding(11, 7, scale_grad_by_freq=scaled))
        model = get_peft_model(
            model, DeepLoraConfig(r=2, width=width, bases="random", target_modules=["layer"])
        )
        randomise(model)
        layer = model.base_model.model.layer
        model(IDS).sum().backward()
        grads.append(layer.deeplora_factors["default"].grad)
    assert grads[0].abs().min() > 0
    torch.testing.assert_close(*grads)
