"""Bases from data follow the gradient of the loss."""

from __future__ import annotations

import copy
from collections import namedtuple

import pytest
import torch
from torch import nn

import corefold
from adapters.deep_lora.pair_cores import initialized
from adapters.dense_gradients import (
    HALF,
    TARGETS,
    R,
    adapted_minilm,
    assert_follow_gradient,
    dense_gradients,
    initialize,
    off_by,
    plain_names,
    wrap,
)
from adapters.layer_kinds import adapted, base_of, close, every_kind, flat, inputs_of, weight_name
from corefold.core import principal_angles
from laws import lies_within
from models import adapter_state, batches, layers, load, randomise, same_tensors


@pytest.fixture
def data():
    return batches("minilm", rows=8)


# Over several batches the sketch forgets all but its largest 2 r + 8 directions. Among nearly equal directions it then
# turns by a few degrees, which costs little energy.
@pytest.mark.parametrize(
    ("count", "lost", "angle"), [(1, 1e-5, 1e-3), (4, 5e-3, 0.3)], ids=["one batch", "four"]
)
def test_bases_follow_the_dense_gradient_on_minilm(count, lost, angle):
    data, base = batches("minilm", count, rows=8), load("minilm", copied=False)
    model = wrap(copy.deepcopy(base), r=R, target_modules=TARGETS)
    values = initialize(model, data)
    gradients = dense_gradients(base, data, plain_names(model))
    assert_follow_gradient(model, gradients, lost=lost, angle=angle)
    assert values.keys() == layers(model).keys()
    for path, top in values.items():
        exact = torch.linalg.svdvals(gradients[path.removeprefix("base_model.model.")])
        torch.testing.assert_close(top[:HALF].double(), exact[:HALF], rtol=10 * lost, atol=0)
    assert model.peft_config["default"].initialized


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("mpnet", ["layer.0.attention.attn.q", "layer.5.intermediate.dense", "layer.11.output.dense"]),
        ("smollm2", ["layers.0.self_attn.q_proj", "layers.14.mlp.down_proj", "layers.29.self_attn.k_proj"]),
    ],
)
def test_bases_follow_the_dense_gradient_on_larger_models(name, targets):
    data, base = batches(name, 1, rows=8, tokens=6), load(name, copied=False)
    model = wrap(copy.deepcopy(base), r=R, target_modules=targets)
    initialize(model, data)
    assert len(layers(model)) == 3
    assert_follow_gradient(model, dense_gradients(base, data, plain_names(model)))


@pytest.mark.parametrize("kind", ["gradient", "spectral", "random"])
def test_kinds_of_bases(kind):
    data, base = batches("minilm", 1, rows=8), load("minilm", copied=False)
    model = wrap(copy.deepcopy(base), r=R, target_modules=["layer.5.attention.self.query"], bases=kind)
    initialize(model, data)
    (gradient,) = dense_gradients(base, data, plain_names(model)).values()
    u, _, vh = torch.linalg.svd(gradient)
    (layer,) = layers(model).values()
    left, right = layer.deeplora_left["default"].double(), layer.deeplora_right["default"].double()
    if kind == "gradient":  # Half of each side's columns are random.
        assert off_by(left, u[:, :HALF]) < 1e-3
        assert off_by(right, vh[:HALF].mT) < 1e-3
        assert off_by(left, u[:, HALF:R]) > 0.5
    if kind == "spectral":
        assert off_by(left[:, :HALF], u[:, :HALF]) < 1e-3
        assert off_by(right[:, :HALF], vh[:HALF].mT) < 1e-3
        assert ((left.mT @ gradient @ right).diagonal()[:HALF] < 0).all(), "starts uphill"
    if kind == "random":
        assert off_by(left, u[:, :HALF]) > 0.5
        assert off_by(right, vh[:HALF].mT) > 0.5


def test_fisher_bases_follow_single_samples_on_minilm():
    data, base = batches("minilm", 2, rows=8), load("minilm", copied=False)
    model = wrap(copy.deepcopy(base), r=R, target_modules=["layer.5.attention.self.query"], bases="fisher")
    initialize(model, data)
    (layer,) = layers(model).values()
    left, right = layer.deeplora_left["default"].double(), layer.deeplora_right["default"].double()
    singles = [{key: value[i : i + 1] for key, value in batch.items()} for batch in data for i in range(8)]
    gradients = [dense_gradients(base, [one], plain_names(model))[plain_names(model)[0]] for one in singles]
    for side, total in ((left, sum(g @ g.mT for g in gradients)), (right, sum(g.mT @ g for g in gradients))):
        torch.testing.assert_close(side.mT @ side, torch.eye(R, dtype=side.dtype), atol=1e-5, rtol=0)
        best = torch.linalg.eigvalsh(total)[-R:].sum()
        assert (side.mT @ total @ side).trace() > 0.999 * best
    core = left.mT @ sum(gradients) @ right
    assert (core.diagonal() < 0).all(), "starts uphill"
    assert (core - core.diagonal().diag()).norm() < 1e-4 * core.norm()


def test_factors_return_to_their_start(data):
    model = adapted_minilm()
    batch = {key: value for key, value in data[0].items() if key != "labels"}
    with torch.no_grad(), model.disable_adapter():
        base = model(**batch).logits
    randomise(model)
    initialize(model, data)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, base)


def test_same_data_and_seed_same_bases(data):
    model = adapted_minilm()
    initialize(model, data)
    first = adapter_state(model)
    torch.manual_seed(123)
    initialize(model, data)
    assert same_tensors(adapter_state(model), first)
    initialize(model, data, generator=torch.Generator().manual_seed(0))
    assert same_tensors(adapter_state(model), first)
    initialize(model, data, generator=torch.Generator().manual_seed(1))
    assert not same_tensors(adapter_state(model), first)


def test_bfloat16_model(minilm, data):
    exact = wrap(copy.deepcopy(minilm), r=R)
    initialize(exact, data)
    model = wrap(minilm.to(torch.bfloat16), r=R)
    initialize(model, data)
    assert {tensor.dtype for tensor in adapter_state(model).values()} == {torch.float32}
    for path, layer in layers(model).items():
        other = layers(exact)[path]
        angle = principal_angles(
            layer.deeplora_right["default"][:, :1], other.deeplora_right["default"][:, :1]
        )
        assert angle.max() < 0.2  # bfloat16 has three digits.


def test_loss_fn_and_other_batches():
    base = nn.Sequential(nn.Linear(13, 11), nn.Tanh(), nn.Linear(11, 9)).double()
    pairs = [(torch.randn(20, 13).double(), torch.randn(20, 9).double()) for _ in range(2)]
    Pair = namedtuple("Pair", "x y")

    def loss_fn(model, batch):
        x, y = batch.values() if isinstance(batch, dict) else batch
        return (model(x) - y).square().mean()

    gradients = dense_gradients(base, pairs, ["0", "2"], loss_fn)
    for make in (tuple, list, lambda pair: Pair(*pair), lambda pair: dict(zip("xy", pair, strict=True))):
        model = wrap(copy.deepcopy(base), r=R, target_modules=["0", "2"])
        initialize(model, [make(pair) for pair in pairs], loss_fn=loss_fn)
        assert_follow_gradient(model, gradients)


def test_a_gradient_of_low_rank_is_completed(minilm):
    model = wrap(minilm, r=12, target_modules=["pooler.dense"])
    initialize(model, batches("minilm", 1, rows=2))  # The pooler sees one token a row, so the rank is 2.
    layer = layers(model)["base_model.model.bert.pooler.dense"]
    for basis in (layer.deeplora_left["default"], layer.deeplora_right["default"]):
        torch.testing.assert_close(basis.mT @ basis, torch.eye(12), atol=1e-5, rtol=0)


def test_other_active_adapters_take_part():
    # The second adapter learns on top of the first, so its gradient is that of the model with the first one merged.
    data, model = batches("minilm", 1, rows=8), wrap(load("minilm"), r=R, target_modules=TARGETS)
    second = corefold.DeepLoraConfig(bases="gradient", r=R, width=None, target_modules=TARGETS)
    model.add_adapter("second", second)
    randomise(model, size=0.3)
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match="adapter_name="):
        initialize(model, data)
    initialize(model, data, adapter_name="second")
    base = copy.deepcopy(model).merge_and_unload(adapter_names=["default"])
    assert_follow_gradient(
        model, dense_gradients(base, data, plain_names(model)), "second", lost=1e-4, angle=3e-3
    )


@every_kind
def test_bases_follow_the_dense_gradient(kind):
    base, x = base_of(kind), inputs_of(kind)
    data = [x, x.flip(-1)] if x.is_floating_point() else [x, (x + 3) % 11]
    model = adapted(kind, bases="gradient").train()

    def loss_fn(model, batch):
        return (model(batch) - 0.4).square().sum()  # Its gradient at a padding vector of zeros is not zero.

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


def test_bases_are_those_of_a_square_core_of_that_width():
    data = batches("minilm", 4)
    pair, square = (
        initialized(load("minilm"), data, **options) for options in ({}, {"r": 10, "width": None})
    )
    for one, other in zip(layers(pair).values(), layers(square).values(), strict=True):
        for part in ("deeplora_left", "deeplora_right"):
            # Eight samples have eight directions; the other columns are random.
            angles = principal_angles(getattr(one, part)["default"], getattr(other, part)["default"])
            assert angles[:8].max() < 1e-3
