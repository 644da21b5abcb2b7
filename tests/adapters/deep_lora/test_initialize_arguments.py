"""Batches, losses and adapters that `initialize_bases` takes, and those that it refuses."""

from __future__ import annotations

import copy

import pytest
import torch

import corefold
from adapters.dense_gradients import R, adapted_minilm, initialize, wrap
from models import adapter_state, batches, layers, randomise, same_tensors, tiny_llama


@pytest.fixture
def data():
    return batches("minilm", rows=8)


@pytest.fixture
def model():
    return adapted_minilm()


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


def test_a_layer_that_the_loss_ignores_is_named_and_gets_random_bases(minilm, data):
    alone = wrap(copy.deepcopy(minilm), r=R, target_modules=["query"])
    model = wrap(minilm, r=R, target_modules=["query", "pooler.dense"])
    with pytest.warns(UserWarning, match=r"1 layer\(s\), and their bases are random: .*bert.pooler.dense; "):
        initialize(model, data, loss_fn=pooler_ignored)
    for layer in layers(model).values():
        for basis in (layer.deeplora_left["default"], layer.deeplora_right["default"]):
            torch.testing.assert_close(basis.mT @ basis, torch.eye(R), atol=1e-5, rtol=0)
    assert model.peft_config["default"].initialized
    # The layers that the loss reaches get the bases that they get without the other.
    initialize(alone, data, loss_fn=pooler_ignored)
    first, same = (next(iter(layers(each).values())).deeplora_left["default"] for each in (model, alone))
    assert torch.equal(first, same)


def test_a_loss_that_reaches_no_layer_is_refused(minilm, data):
    model = wrap(minilm, r=R, target_modules=["pooler.dense"])
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


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda model, batch: model(**batch).loss * float("inf"), "loss of batch 1 is inf"),
        (lambda model, batch: None, "one number"),
        (lambda model, batch: 3.0, "one number"),
        (lambda model, batch: model(**batch).logits, "one number"),
        (lambda model, batch: model(**batch).loss.detach(), "does not depend on 30 adapted"),
    ],
)
def test_bad_losses(model, data, loss_fn, message):
    with pytest.raises(ValueError, match=message):
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


def test_an_offloaded_adapter_is_refused(tmp_path):
    from accelerate import cpu_offload

    model = wrap(tiny_llama())
    cpu_offload(model, execution_device="cpu")
    with pytest.raises(ValueError, match="initialize_bases before accelerate offloads"):
        corefold.initialize_bases(model, batches("tiny"), progress=False)
    with pytest.raises(ValueError, match="export before accelerate offloads"):
        corefold.export_lora(model, tmp_path)
