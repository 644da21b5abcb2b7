"""`initialize_bases` leaves the model as it was, and recomputes activations on its way."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from adapters.dense_gradients import (
    R,
    adapted_minilm,
    assert_follow_gradient,
    dense_gradients,
    initialize,
    plain_names,
    wrap,
)
from models import adapter_state, batches, layers, load, same_tensors, tiny_llama


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
    trainable[0].grad = torch.randn_like(trainable[0])  # The user may have run a backward pass before.
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


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_and_checkpointing_of_the_user_make_no_difference(data, reentrant, training):
    model, again = adapted_minilm(), adapted_minilm().train(training)
    initialize(model, data)
    plain = adapter_state(model)
    base = again.get_base_model()  # transformers renamed the switch below.
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    before = snapshot(again)
    initialize(again, data)
    assert same_tensors(adapter_state(again), plain)
    assert_same(snapshot(again), before)


def test_dropout_inside_a_block_stays_off():
    from transformers import OPTConfig, OPTForCausalLM

    # OPT's blocks call functional dropout, and pass it their own training flag.
    size = {"hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = OPTForCausalLM(OPTConfig(**size, word_embed_proj_dim=24, vocab_size=50, dropout=0.5))
    data = batches("tiny", 1, rows=8)
    model = wrap(copy.deepcopy(base), r=R, target_modules=["q_proj", "fc1"]).train()
    initialize(model, data)
    assert_follow_gradient(model, dense_gradients(base, data, plain_names(model)))


# Transformers itself recomputes activations of BERT, but not of MPNet.
@pytest.mark.parametrize(
    ("name", "path"),
    [("minilm", "bert.encoder.layer.3.attention"), ("mpnet", "mpnet.encoder.layer.3.attention")],
)
def test_activations_are_recomputed(name, path):
    runs, model = [], wrap(load(name), r=R)
    block = model.get_submodule(f"base_model.model.{path}")
    block.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    initialize(model, batches(name, 1))
    assert len(runs) == 2  # The forward pass runs the block once, the backward pass once more.
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
