from __future__ import annotations

import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.optim import SGD, AdamW
from transformers import Trainer, TrainingArguments

import corefold
from models import adapter_state, batches, layers, load, same_tensors, tiny_llama, wrap


def initialized(model, data, **options):
    corefold.initialize_bases(model, data, progress=False, **options)
    return model


def train(model, data, optimizer, steps):
    model.train()
    losses = []
    for step in range(steps):
        loss = model(**data[step % len(data)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("bases", ["gradient", "spectral"])
@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_twenty_steps_lower_the_loss(name, bases):
    data = batches(name, 1, rows=8)
    options = {"task_type": "SEQ_CLS"} if name == "minilm" else {"target_modules": "all-linear"}
    model = initialized(wrap(load(name) if name == "minilm" else tiny_llama(), bases=bases, **options), data)
    if name == "minilm":  # the chains alone, without the head
        model.base_model.model.classifier.requires_grad_(False)
    torch.manual_seed(0)  # dropout
    losses = train(model, data, AdamW(corefold.param_groups(model, lr=1e-2), eps=1e-6), 20)
    if name == "minilm":
        assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    else:  # a random Llama with a frozen head learns little, but at every step
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.99 * losses[0]


def test_frozen_bases_get_no_gradient_and_keep_every_bit(minilm):
    data = batches("minilm")
    model = initialized(wrap(minilm), data)
    before, base = (
        adapter_state(model),
        {n: p.clone() for n, p in model.named_parameters() if "deeplora" not in n},
    )
    optimizer = AdamW(corefold.param_groups(model, lr=1e-2, weight_decay=0.1))
    train(model, data, optimizer, 2)
    model(**data[0]).loss.backward()
    for name, tensor in adapter_state(model).items():
        assert torch.equal(tensor, before[name]) == ("factors" not in name)
    assert same_tensors(base, {n: p for n, p in model.named_parameters() if "deeplora" not in n})
    for layer in layers(model).values():
        assert layer.deeplora_factors["default"].grad.abs().max() > 0
        assert layer.deeplora_left["default"].grad is None
        assert layer.deeplora_right["default"].grad is None


def test_gradients_are_those_of_the_dense_update():
    model = wrap(tiny_llama().double(), target_modules="all-linear", depth=3, basis_lr_ratio=0.1)
    (layer,) = [layer for name, layer in layers(model).items() if name.endswith("1.mlp.up_proj")]
    for tensor in ("deeplora_factors", "deeplora_left", "deeplora_right"):
        nn.init.normal_(getattr(layer, tensor)["default"], std=0.5)
    x = torch.randn(3, 5, layer.in_features, dtype=torch.float64)
    parts = [getattr(layer, name)["default"] for name in layer.adapter_layer_names]
    fast = torch.autograd.grad(layer(x).sin().sum(), parts)
    weight = layer.weight + layer.get_delta_weight("default")
    dense = torch.autograd.grad(nn.functional.linear(x, weight, layer.bias).sin().sum(), parts)
    for a, b in zip(fast, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("where", ["config", "argument"])
def test_bases_train_at_lr_times_ratio(minilm, where):
    data = batches("minilm")
    model = initialized(wrap(minilm, basis_lr_ratio=0.25 if where == "config" else 0.0), data)
    groups = corefold.param_groups(
        model, lr=0.02, basis_lr_ratio=None if where == "config" else 0.25, weight_decay=0.1
    )
    by_name = {group["name"]: group for group in groups}
    assert [*by_name] == ["cores", "bases x 0.25"]
    assert (by_name["cores"]["lr"], by_name["cores"]["weight_decay"]) == (0.02, 0.1)
    assert (by_name["bases x 0.25"]["lr"], by_name["bases x 0.25"]["weight_decay"]) == (0.005, 0.0)
    assert len(by_name["bases x 0.25"]["params"]) == 2 * len(layers(model))
    assert model.peft_config["default"].basis_lr_ratio == 0.25
    before = adapter_state(model)
    model(**data[0]).loss.backward()
    grads = {
        n: getattr(layers(model)[n.rpartition(".")[0]], n.rpartition(".")[2])["default"].grad for n in before
    }
    SGD(groups, lr=9.0).step()
    for name, tensor in adapter_state(model).items():
        rate = 0.02 if "factors" in name else 0.005
        decayed = before[name] * (1 - 0.02 * 0.1 if "factors" in name else 1)
        torch.testing.assert_close(tensor, decayed - rate * grads[name], rtol=1e-5, atol=1e-8)
        assert grads[name] is not None


def test_ratio_zero_freezes_bases_again(minilm):
    model = wrap(minilm, basis_lr_ratio=0.1)
    groups = corefold.param_groups(model, lr=1e-2, basis_lr_ratio=0)
    assert [group["name"] for group in groups] == ["cores"]
    assert not any(p.requires_grad for n, p in model.named_parameters() if "left" in n or "right" in n)
    model.set_adapter("default")  # PEFT's own switch keeps them so
    assert not any(p.requires_grad for n, p in model.named_parameters() if "left" in n or "right" in n)


def test_every_trainable_parameter_is_in_one_group(minilm):
    model = wrap(minilm, task_type="SEQ_CLS", bias="deeplora_only", basis_lr_ratio=0.5)
    groups = corefold.param_groups(model, lr=1e-2, other_lr=1e-3, weight_decay=0.3)
    others = groups[-1]
    assert (others["name"], others["lr"], others["weight_decay"]) == ("others", 1e-3, 0.0)
    decaying = corefold.param_groups(model, lr=1e-2, other_weight_decay=0.1)
    assert [group["weight_decay"] for group in decaying] == [0.0, 0.0, 0.1]
    assert len(others["params"]) == 12 + 2  # biases, and the head's weight and bias
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert {*grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_head_trains_at_a_rate_of_its_own(minilm):
    model = wrap(minilm, task_type="SEQ_CLS")
    assert corefold.param_groups(model, lr=0.02)[-1]["lr"] == corefold.recipe(rows=16).head_lr == 1e-3
    assert corefold.param_groups(model, lr=0.02, other_lr=0.0)[-1]["lr"] == 0.0


def test_param_groups_needs_an_adapter_that_trains(minilm, llama):
    with pytest.raises(ValueError, match="DeepLoraConfig"):
        corefold.param_groups(minilm, lr=1e-2)
    with pytest.raises(ValueError, match="DeepLoraConfig"):
        corefold.param_groups(get_peft_model(minilm, LoraConfig(target_modules=["query"])), lr=1e-2)
    with pytest.raises(ValueError, match="DeepLoraConfig"):
        corefold.param_groups(wrap(llama, inference_mode=True), lr=1e-2)
    with pytest.raises(ValueError, match="basis_lr_ratio"):
        corefold.param_groups(wrap(load("minilm")), lr=1e-2, basis_lr_ratio=-1)


def caught(model, batch):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model(**batch)
    return [str(warning.message) for warning in seen if "random bases" in str(warning.message)]


def test_training_on_bases_that_nobody_set_warns_once(llama):
    (batch,) = batches("tiny", 1)
    model = wrap(llama).train()
    with torch.no_grad():
        assert not caught(model, batch)
    (message,) = caught(model, batch)
    assert "corefold.initialize_bases(model, dataloader)" in message
    assert "corefold.BasesCallback()" in message
    assert not caught(model, batch)
    model.add_adapter("second", corefold.DeepLoraConfig(target_modules=["q_proj"], r=3))
    model.set_adapter("second")
    assert len(caught(model, batch)) == 1
    assert not caught(model, batch)


def test_no_warning_where_there_is_no_reason(llama, tmp_path):
    data = batches("tiny", 1)
    assert not caught(wrap(llama), data[0])  # in evaluation mode
    assert not caught(wrap(tiny_llama(), bases="random").train(), data[0])
    model = initialized(wrap(tiny_llama()).train(), data)
    assert not caught(model, data[0])
    model.save_pretrained(tmp_path)
    assert not caught(PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True).train(), data[0])


class Rows(torch.utils.data.Dataset):
    def __init__(self, count):
        made = [batches("minilm", 1, 1, 6, seed)[0] for seed in range(count)]
        self.rows = [{key: value[0] for key, value in batch.items()} for batch in made]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def run(folder, resume=None, steps=6, **config):
    torch.manual_seed(1)
    model = wrap(load("minilm"), task_type="SEQ_CLS", target_modules=["query", "output.dense"], **config)
    seen = []

    def loss_fn(model, batch):
        seen.append({key: value.clone() for key, value in batch.items()})
        return model(**batch).loss

    callback = corefold.BasesCallback(num_batches=2, loss_fn=loss_fn)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, logging_steps=1, save_steps=3,
        report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, learning_rate=1e-2, seed=5,
    )  # fmt: skip
    optimizer = AdamW(corefold.param_groups(model, lr=1e-2), eps=1e-6)
    trainer = Trainer(
        model, arguments, train_dataset=Rows(16), optimizers=(optimizer, None), callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=resume)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer, callback, seen, losses


def trainable(model):
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if p.requires_grad or "deeplora" in name
    }


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_trainer_with_callback_resumes_bit_for_bit(tmp_path, ratio):
    whole, callback, seen, losses = run(tmp_path, basis_lr_ratio=ratio)
    assert len(losses) == 6
    assert len(seen) == 2
    assert len(callback.gradient_values) == len(layers(whole.model)) == 18
    assert whole.model.peft_config["default"].initialized

    again, callback, seen, rest = run(
        tmp_path / "again", resume=str(tmp_path / "checkpoint-3"), basis_lr_ratio=ratio
    )
    assert not seen, "bases were set again on resuming"
    assert not callback.gradient_values
    assert rest == losses
    assert same_tensors(trainable(again.model), trainable(whole.model))
    assert again.model.peft_config["default"].initialized  # or what it saves would say otherwise


def test_callback_takes_its_bases_from_the_training_batches(tmp_path):
    trainer, _, seen, _ = run(tmp_path, steps=1)
    reference = wrap(load("minilm"), task_type="SEQ_CLS", target_modules=["query", "output.dense"])
    initialized(reference, seen, num_batches=2)
    bases = {n: t for n, t in adapter_state(reference).items() if "factors" not in n}
    assert same_tensors(bases, {n: t for n, t in adapter_state(trainer.model).items() if "factors" not in n})


def test_training_on_keeps_what_was_learned(tmp_path):
    # A second train(), or a loaded adapter: new bases would throw the chains back to their start.
    trainer, _, seen, _ = run(tmp_path, steps=2)
    learned = adapter_state(trainer.model)
    trainer.optimizer = SGD(corefold.param_groups(trainer.model, lr=0.0, other_lr=0.0))
    trainer.train()
    assert len(seen) == 2
    assert same_tensors(adapter_state(trainer.model), learned)
