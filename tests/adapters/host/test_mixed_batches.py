"""Batches whose rows name their adapters."""

from __future__ import annotations

import pytest
import torch

from adapters.layer_kinds import close, every_kind, inputs_of, two_adapters
from adapters.overlapping_adapters import BATCH, alone, overlapping
from corefold import DeepLoraConfig
from models import inputs, load, logits, randomise, tiny_llama, wrap


@pytest.fixture
def model():
    return overlapping()


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


def test_mixed_batch_gives_each_row_its_adapter(model):
    names = ["two", "one", "__base__", "two", "one"]
    rows = {name: alone(model, name) for name in {*names}}
    model.set_adapter("one")
    mixed = logits(model, BATCH, adapter_names=names)
    for i, name in enumerate(names):
        torch.testing.assert_close(mixed[i], rows[name][i], atol=1e-5, rtol=0)
        others = {*names} - {name}
        assert all((mixed[i] - rows[other][i]).abs().max() > 1e-3 for other in others)
    assert torch.equal(logits(model, BATCH), rows["one"])  # No hook is left behind.


def test_mixed_batch_with_heads_of_their_own():
    options = {"task_type": "SEQ_CLS", "target_modules": ["query"]}
    model = wrap(load("minilm"), adapter_name="one", **options)
    model.add_adapter("two", DeepLoraConfig(r=3, **options))
    randomise(model)
    head = model.base_model.model.classifier.modules_to_save
    with torch.no_grad():
        head["one"].weight.neg_()
        head["two"].weight.mul_(2)
    model.eval()
    batch, names = inputs("minilm", rows=3), ["two", "__base__", "one"]
    rows = []
    for name in ("two", "one"):
        model.set_adapter(name)
        rows.append(logits(model, batch))
    with model.disable_adapter():
        rows.insert(1, logits(model, batch))
    mixed = logits(model, batch, adapter_names=names)
    for i in range(3):
        torch.testing.assert_close(mixed[i], rows[i][i], atol=1e-4, rtol=0)


def test_mixed_batch_refusals(model):
    names = ["one"] * 5
    with pytest.raises(ValueError, match=r"non-existing adapter.*three"):
        logits(model, BATCH, adapter_names=[*names[1:], "three"])
    with pytest.raises(ValueError, match=r"got 4 and 5"):
        logits(model, BATCH, adapter_names=names[1:])
    with pytest.raises(ValueError, match="training mode"):
        logits(model.train(), BATCH, adapter_names=names)
    model.eval().merge_adapter(["one"])
    with pytest.raises(ValueError, match="unmerge"):
        logits(model, BATCH, adapter_names=names)


def test_generate_with_adapter_names(model):
    names = ["one", "two", "__base__", "one", "two"]
    options = {"max_new_tokens": 3, "do_sample": False}
    batch = {**BATCH, "attention_mask": torch.ones_like(BATCH["input_ids"])}
    mixed = model.generate(**batch, adapter_names=names, **options)
    for i, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                expected = model.generate(**batch, **options)
        else:
            model.set_adapter(name)
            expected = model.generate(**batch, **options)
        assert torch.equal(mixed[i], expected[i])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_row_in_a_mixed_batch_is_rounded_as_it_is_alone(dtype):
    model = wrap(tiny_llama().to(dtype), target_modules=["q_proj"], r=4)
    randomise(model, size=0.3)
    with torch.no_grad():
        expected = model.eval()(**BATCH).logits
        mixed = model(**BATCH, adapter_names=["default"] * len(BATCH["input_ids"])).logits
    # In float32 the row alone may have its update added to the weight, which rounds differently.
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0 if dtype == torch.bfloat16 else 1e-6)
