from __future__ import annotations

import copy
import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import corefold
from corefold.core import principal_angles
from models import (
    adapter_state,
    batches,
    layers,
    load,
    randomise,
    same_tensors,
    tiny_llama,
)
from models import wrap as wrap_by_default

R, HALF = 8, 4  # width, and the directions of the gradient in it
TARGETS = ["query", "value", "intermediate.dense", "output.dense"]


def wrap(base, *args, **options):
    return wrap_by_default(base, *args, **{"bases": "gradient", **options})


def initialize(model, data, **options):
    return corefold.initialize_bases(model, data, **{"num_batches": 9, "progress": False, **options})


def dense_gradients(base, data, names, loss_fn=None):
    """The weight gradients of full backpropagation through a copy, summed over the batches, in float64."""
    model = copy.deepcopy(base).eval().requires_grad_(False)
    weights = {name: model.get_submodule(name).weight.requires_grad_() for name in names}
    for batch in data:
        (loss_fn(model, batch) if loss_fn else model(**batch).loss).backward()
    return {name: weight.grad.double() for name, weight in weights.items()}


def halves(layer, adapter="default"):
    """The columns of the two bases that follow the gradient: left's last ones, right's first."""
    return layer.deeplora_left[adapter].double()[:, -HALF:], layer.deeplora_right[adapter].double()[:, :HALF]


def off_by(columns, exact):
    """The largest angle between the spaces, in radians."""
    return principal_angles(columns, exact).max().item()


def assert_follow_gradient(model, gradients, adapter="default", lost=1e-5, angle=1e-3):
    """The gradient's halves of the bases against its dense SVD.

    They carry all of the energy that any bases of that size could but a share `lost`. They are its top singular
    vectors, to `angle` radians, where it has a gap there; without a gap the vectors are not defined.
    """
    found = layers(model)
    assert found
    for path, layer in found.items():
        gradient = gradients[path.removeprefix("base_model.model.")]
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        for basis in (layer.deeplora_left[adapter], layer.deeplora_right[adapter]):
            torch.testing.assert_close(basis.mT @ basis, torch.eye(R, dtype=basis.dtype), atol=1e-5, rtol=0)
        left, right = halves(layer, adapter)
        best = s[:HALF].norm()
        for carried in ((left.mT @ gradient).norm(), (gradient @ right).norm()):
            assert carried**2 >= (1 - lost) * best**2, f"{path} loses {1 - (carried / best) ** 2:.1e}"
        if s[HALF] < 0.95 * s[HALF - 1]:
            worst = max(off_by(left, u[:, :HALF]), off_by(right, vh[:HALF].mT))
            assert worst < angle, f"{path}: {worst:.1e} rad from the gradient"


def snapshot(model):
    """All that initialize_bases must leave alone, beside the adapter's own tensors."""
    return {
        "weights": {
            n: (p.dtype, p.detach().clone()) for n, p in model.named_parameters() if "deeplora" not in n
        },
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "trainable": {n: p.requires_grad for n, p in model.named_parameters()},
        "training": {n: m.training for n, m in model.named_modules()},
        "checkpointing": {
            n: {k: v for k, v in vars(m).items() if "gradient_checkpointing" in k}
            for n, m in model.named_modules()
        },
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()},
        "active": {n: (m._active_adapter, m._disable_adapters) for n, m in layers(model).items()},
        "use_cache": model.config.use_cache,
        "random": (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()),
    }


def assert_same(now, before):
    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, np.ndarray):
            return np.array_equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    for part, value in before.items():
        assert equal(now[part], value), f"initialize_bases changed {part}"


@pytest.fixture
def data():
    return batches("minilm", rows=8)


@pytest.fixture
def model(minilm):
    return wrap(minilm, r=R, target_modules=TARGETS)


def plain_names(model):
    return [name.removeprefix("base_model.model.") for name in layers(model)]


# Over several batches the sketch forgets what stood below its 2 r + 8 directions: it turns by a few degrees
# among nearly equal directions and loses little.
@pytest.mark.parametrize(
    ("count", "lost", "angle"), [(1, 1e-5, 1e-3), (4, 5e-3, 0.3)], ids=["one batch", "four"]
)
def test_bases_follow_the_dense_gradient_on_minilm(count, lost, angle):
    data, base = batches("minilm", count, rows=8), load("minilm")
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
    data, base = batches(name, 1, rows=8, tokens=6), load(name)
    model = wrap(copy.deepcopy(base), r=R, target_modules=targets)
    initialize(model, data)
    assert len(layers(model)) == 3
    assert_follow_gradient(model, dense_gradients(base, data, plain_names(model)))


@pytest.mark.parametrize("kind", ["gradient", "spectral", "random"])
def test_kinds_of_bases(kind):
    data, base = batches("minilm", 1, rows=8), load("minilm")
    model = wrap(copy.deepcopy(base), r=R, target_modules=["layer.5.attention.self.query"], bases=kind)
    initialize(model, data)
    (gradient,) = dense_gradients(base, data, plain_names(model)).values()
    u, _, vh = torch.linalg.svd(gradient)
    (layer,) = layers(model).values()
    left, right = layer.deeplora_left["default"].double(), layer.deeplora_right["default"].double()
    if kind == "gradient":  # each side holds half of the gradient's directions, beside random ones
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
    data, base = batches("minilm", 2, rows=8), load("minilm")
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


def test_factors_return_to_their_start(model, data):
    batch = {key: value for key, value in data[0].items() if key != "labels"}
    with torch.no_grad(), model.disable_adapter():
        base = model(**batch).logits
    randomise(model)
    initialize(model, data)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, base)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_nothing_of_the_model_changes(name, training):
    options = (
        {"task_type": "SEQ_CLS", "bias": "all"} if name == "minilm" else {"modules_to_save": ["lm_head"]}
    )
    model = wrap(load(name) if name == "minilm" else tiny_llama(), r=R, basis_lr_ratio=0.1, **options)
    model.train(training)
    model.config.use_cache = True
    trainable = [p for p in model.parameters() if p.requires_grad]
    trainable[0].grad = torch.randn_like(trainable[0])  # as after a backward pass of the user's
    before = snapshot(model)
    shuffled = DataLoader(batches(name, 4), batch_size=None, shuffle=True)
    initialize(model, shuffled)
    assert_same(snapshot(model), before)


@pytest.mark.parametrize("error_after", ["loss", "none"])
def test_nothing_changes_when_it_fails(minilm, data, error_after):
    model = wrap(minilm, r=R).train()
    before, adapter = snapshot(model), adapter_state(model)

    def loss_fn(model, batch):
        loss = model(**batch).loss
        return loss * float("nan") if error_after == "loss" else None

    with pytest.raises(ValueError, match="batch 1"):
        initialize(model, data, loss_fn=loss_fn)
    assert_same(snapshot(model), before)
    assert same_tensors(adapter_state(model), adapter)
    assert not model.peft_config["default"].initialized


def test_same_data_and_seed_same_bases(model, data):
    initialize(model, data)
    first = adapter_state(model)
    torch.manual_seed(123)
    initialize(model, data)
    assert same_tensors(adapter_state(model), first)
    initialize(model, data, generator=torch.Generator().manual_seed(0))
    assert same_tensors(adapter_state(model), first)
    initialize(model, data, generator=torch.Generator().manual_seed(1))
    assert not same_tensors(adapter_state(model), first)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_and_checkpointing_of_the_user_make_no_difference(model, data, reentrant, training):
    initialize(model, data)
    plain = adapter_state(model)
    again = wrap(load("minilm"), r=R, target_modules=TARGETS).train(training)
    base = again.get_base_model()  # transformers has renamed it
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    before = snapshot(again)
    initialize(again, data)
    assert same_tensors(adapter_state(again), plain)
    assert_same(snapshot(again), before)


def test_dropout_inside_a_block_stays_off():
    from transformers import OPTConfig, OPTForCausalLM

    # OPT's blocks call functional dropout themselves, by their own training flag.
    size = {"hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = OPTForCausalLM(OPTConfig(**size, word_embed_proj_dim=24, vocab_size=50, dropout=0.5))
    data = batches("tiny", 1, rows=8)
    model = wrap(copy.deepcopy(base), r=R, target_modules=["q_proj", "fc1"]).train()
    initialize(model, data)
    assert_follow_gradient(model, dense_gradients(base, data, plain_names(model)))


@pytest.mark.parametrize(
    ("name", "path"),
    [("minilm", "bert.encoder.layer.3.attention"), ("mpnet", "mpnet.encoder.layer.3.attention")],
)  # transformers itself can recompute the first alone
def test_activations_are_recomputed(name, path):
    runs, model = [], wrap(load(name), r=R)
    block = model.get_submodule(f"base_model.model.{path}")
    block.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    initialize(model, batches(name, 1))
    assert len(runs) == 2  # forward, and once more on the way back
    above = model.get_submodule(f"base_model.model.{path.rpartition('.')[0]}")
    assert "forward" not in vars(above)


def test_a_block_that_changes_its_input_is_refused():
    base = load("mpnet")
    block = base.mpnet.encoder.layer[3]
    own = block.forward
    block.forward = lambda hidden, *args, **kwargs: own(hidden.mul_(2), *args, **kwargs)
    model = wrap(base, r=R)
    before, changed = adapter_state(model), block.forward
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        initialize(model, batches("mpnet", 1))
    assert same_tensors(adapter_state(model), before)
    assert block.forward is changed


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
        assert angle.max() < 0.2  # bfloat16 has three digits


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


def test_generators_give_num_batches_and_no_more(model):
    stream = iter(batches("minilm", 5, rows=8))
    initialize(model, (batch for batch in stream), num_batches=2)
    first = adapter_state(model)
    assert len([*stream]) == 3
    initialize(model, batches("minilm", 2, rows=8))
    assert same_tensors(adapter_state(model), first)


def test_fewer_batches_than_asked_for(model, data):
    initialize(model, data, num_batches=50)
    assert model.peft_config["default"].initialized


def test_progress_bar_is_on_unless_switched_off(model, data, capsys):
    initialize(model, data)
    assert "bases" not in capsys.readouterr().err
    corefold.initialize_bases(model, data)
    assert "2/2" in capsys.readouterr().err


def pooler_ignored(model, batch):
    hidden = model.base_model.model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    return hidden.square().mean()


@pytest.mark.parametrize("targets", [["query", "pooler.dense"], ["pooler.dense"]], ids=str)
def test_a_layer_that_the_loss_ignores_is_named(minilm, data, targets):
    model = wrap(minilm, r=R, target_modules=targets)
    before = adapter_state(model)
    with pytest.raises(ValueError, match=r"1 adapted layer\(s\): base_model.model.bert.pooler.dense"):
        initialize(model, data, loss_fn=pooler_ignored)
    assert same_tensors(adapter_state(model), before)
    assert not model.peft_config["default"].initialized


def test_a_zero_gradient_warns_and_gives_random_bases(model, data):
    before = adapter_state(model)
    with pytest.warns(UserWarning, match=r"zero.*random"):
        initialize(model, data, loss_fn=lambda model, batch: model(**batch).loss * 0)
    for layer in layers(model).values():
        for basis in (layer.deeplora_left["default"], layer.deeplora_right["default"]):
            torch.testing.assert_close(basis.mT @ basis, torch.eye(R), atol=1e-5, rtol=0)
    assert not same_tensors(adapter_state(model), before)


def test_a_gradient_of_low_rank_is_completed(minilm):
    model = wrap(minilm, r=12, target_modules=["pooler.dense"])
    initialize(model, batches("minilm", 1, rows=2))  # the pooler sees one token a row: rank 2
    layer = layers(model)["base_model.model.bert.pooler.dense"]
    for basis in (layer.deeplora_left["default"], layer.deeplora_right["default"]):
        torch.testing.assert_close(basis.mT @ basis, torch.eye(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("loss_fn", "says"),
    [
        (lambda model, batch: model(**batch).loss * float("inf"), "loss of batch 1 is inf"),
        (lambda model, batch: None, "one number"),
        (lambda model, batch: 3.0, "one number"),
        (lambda model, batch: model(**batch).logits, "one number"),
        (lambda model, batch: model(**batch).loss.detach(), "does not depend on 30 adapted"),
    ],
)
def test_bad_losses(model, data, loss_fn, says):
    with pytest.raises(ValueError, match=says):
        initialize(model, data, loss_fn=loss_fn)


def test_batches_without_labels(model, data):
    del data[0]["labels"]
    with pytest.raises(ValueError, match="labels"):
        initialize(model, data)


@pytest.mark.parametrize("empty", [[], iter(())], ids=["list", "iterator"])
def test_no_batch(model, empty):
    with pytest.raises(ValueError, match="no batch"):
        corefold.initialize_bases(model, empty, progress=False)


def test_merged(model, data):
    model.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        initialize(model, data)


def test_no_adapter(minilm, data):
    with pytest.raises(ValueError, match="an active Deep LoRA adapter"):
        initialize(minilm, data)
    with pytest.raises(ValueError, match="'other'"):
        initialize(wrap(minilm), data, adapter_name="other")


def test_only_the_named_adapter_changes(model, data):
    model.add_adapter("second", corefold.DeepLoraConfig(r=R, target_modules=["query"]))
    randomise(model)
    first, second = adapter_state(model), adapter_state(model, "second")
    initialize(model, data, adapter_name="second")
    assert same_tensors(adapter_state(model), first)
    assert not same_tensors(adapter_state(model, "second"), second)
    assert model.peft_config["second"].initialized
    assert not model.peft_config["default"].initialized
    assert model.active_adapter == "default"


def test_other_active_adapters_take_part():
    # The second adapter learns on top of the first: its gradient is that of the model with the first one in it.
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
