"""Adapted embeddings: padding, tied weights, real word embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.func import functional_call

import corefold
from adapters.layer_kinds import IDS, Around, R, adapted, base_of, close, gpt2, inputs_of, shake, weight_name
from corefold import DeepLoraConfig
from models import batches, inputs, layers, load, logits, randomise, tiny_llama, wrap


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


def with_warnings(make: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The value of `make()`, and the warnings that it raised."""
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        value = make()
    return value, [str(w.message) for w in recorded if w.category is UserWarning]


@pytest.mark.parametrize(
    "make", [gpt2, lambda: tiny_llama(tie_word_embeddings=True).double()], ids=["gpt2", "llama"]
)
def test_tied_word_embeddings_as_lora_has_them(make, tmp_path):
    batch, name = inputs("tiny"), "wte" if make is gpt2 else "embed_tokens"
    base = make()
    assert base.get_input_embeddings().weight is base.get_output_embeddings().weight
    model, warned = with_warnings(lambda: get_peft_model(base, DeepLoraConfig(r=R, target_modules=[name])))
    _, by_lora = with_warnings(lambda: get_peft_model(make(), LoraConfig(r=R, target_modules=[name])))
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
    close(own, alone.logits.detach(), atol=1e-11)  # The head keeps its weight.

    with_warnings(lambda: corefold.export_lora(model, tmp_path))
    lora, _ = with_warnings(lambda: PeftModel.from_pretrained(make(), tmp_path).eval())
    close(logits(lora, batch), own, atol=1e-10)
    merged, _ = with_warnings(lora.merge_and_unload)
    with_warnings(model.merge_adapter)
    close(logits(model, batch), logits(merged, batch), atol=1e-10)  # Merging writes into the shared weight.
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
        rows = gradient[gradient.any(1)]  # Nearly all words of the table have no gradient.
        torch.testing.assert_close(values[:2], torch.linalg.svdvals(rows)[:2], rtol=1e-3, atol=0)
    randomise(model)
    assert (logits(model, batch) - before).abs().max() > 1e-2
    corefold.export_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(load("minilm"), tmp_path).eval()
    torch.testing.assert_close(logits(lora, batch), logits(model, batch), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("width", [None, 6])
def test_a_table_s_scaling_of_its_gradient_does_not_reach_the_factors(width):
    """`scale_grad_by_freq` divides a row's gradient by how often the batch names it, and IDS names some rows twice."""
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
