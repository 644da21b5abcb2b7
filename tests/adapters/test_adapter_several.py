from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel

from corefold import DeepLoraConfig
from models import adapter_state, inputs, layers, load, logits, randomise, same_tensors, tiny_llama, wrap

BATCH = {"input_ids": inputs("tiny", rows=5)["input_ids"]}


@pytest.fixture
def model():
    """Two adapters that overlap on q_proj, of different width and depth, both in general position."""
    model = wrap(tiny_llama(), adapter_name="one", target_modules=["q_proj", "up_proj"], r=4, depth=3)
    model.add_adapter(
        "two", DeepLoraConfig(target_modules=["q_proj", "o_proj"], r=6, depth=2, init_scale=0.3)
    )
    randomise(model, size=0.3)
    return model.eval()


def alone(model, name):
    if name == "__base__":
        with model.disable_adapter():
            return logits(model, BATCH)
    model.set_adapter(name)
    return logits(model, BATCH)


def test_set_adapter_switches(model):
    one, two, base = (alone(model, name) for name in ("one", "two", "__base__"))
    assert not any(torch.equal(a, b) for a, b in [(one, two), (one, base), (two, base)])
    assert torch.equal(alone(model, "one"), one)
    assert torch.equal(base, logits(tiny_llama(), BATCH))
    model.set_adapter("two")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("deeplora_factors.two" in name for name in trained)


def test_two_active_adapters_add_up(model):
    model.base_model.set_adapter(["one", "two"])
    for layer in layers(model).values():
        x = torch.randn(3, layer.in_features)
        expected = layer.base_layer(x)
        for name in ("one", "two"):
            if name in layer.deeplora_factors:
                expected = expected + x @ layer.get_delta_weight(name).mT
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
    assert len([1 for layer in layers(model).values() if len(layer.deeplora_factors) == 2]) == 2


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


def test_mixed_batch_gives_each_row_its_adapter(model):
    names = ["two", "one", "__base__", "two", "one"]
    rows = {name: alone(model, name) for name in {*names}}
    model.set_adapter("one")
    mixed = logits(model, BATCH, adapter_names=names)
    for i, name in enumerate(names):
        torch.testing.assert_close(mixed[i], rows[name][i], atol=1e-5, rtol=0)
        others = {*names} - {name}
        assert all((mixed[i] - rows[other][i]).abs().max() > 1e-3 for other in others)
    assert torch.equal(logits(model, BATCH), rows["one"])  # and no hook is left behind


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


def test_unknown_names(model):
    with pytest.raises(ValueError, match="three"):
        model.set_adapter("three")
    with pytest.raises((ValueError, KeyError), match="three"):
        model.delete_adapter("three")


def test_beside_another_method(llama):
    model = wrap(llama, adapter_name="mine", target_modules=["q_proj"])
    state = adapter_state(model, "mine")
    with pytest.raises(ValueError, match=r"[Cc]annot combine|same type|mixed|peft_type|PEFT"):
        model.add_adapter("plain", LoraConfig(target_modules=["q_proj"]))
    assert same_tensors(adapter_state(model, "mine"), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_row_in_a_mixed_batch_is_rounded_as_it_is_alone(dtype):
    model = wrap(tiny_llama().to(dtype), target_modules=["q_proj"], r=4)
    randomise(model, size=0.3)
    with torch.no_grad():
        expected = model.eval()(**BATCH).logits
        mixed = model(**BATCH, adapter_names=["default"] * len(BATCH["input_ids"])).logits
    # In float32 the row alone may have its update in the weight, which rounds otherwise.
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0 if dtype == torch.bfloat16 else 1e-6)


def test_gates_made_while_evaluating_serve_a_compiled_training_step():
    """Switching adapters off inside `torch.inference_mode` is how a trained model is compared with its base."""
    model = wrap(tiny_llama(), target_modules=["q_proj"], r=4)
    with torch.inference_mode(), model.disable_adapter():
        logits(model, BATCH)
    for layer in layers(model).values():
        assert not layer.gates["default"].is_inference()
        assert layer.gates["default"] == 1
