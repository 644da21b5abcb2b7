"""`BasesCallback` in transformers' Trainer on a real model: where the bases come from, and resuming."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD, AdamW
from transformers import Trainer, TrainingArguments

import corefold
from adapters.deep_lora.test_param_groups import initialized
from models import adapter_state, batches, layers, load, same_tensors, wrap


class Rows(torch.utils.data.Dataset):
    def __init__(self, count):
        examples = [batches("minilm", 1, 1, 6, seed)[0] for seed in range(count)]
        self.rows = [{key: value[0] for key, value in batch.items()} for batch in examples]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def run(folder, resume=None, steps=6, **config):
    torch.manual_seed(1)
    model = wrap(load("minilm"), task_type="SEQ_CLS", target_modules=["query", "output.dense"], **config)
    used = []

    def loss_fn(model, batch):
        used.append({key: value.clone() for key, value in batch.items()})
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
    return trainer, callback, used, losses


def trainable(model):
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if p.requires_grad or "deeplora" in name
    }


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_trainer_with_callback_resumes_bit_for_bit(tmp_path, ratio):
    whole, callback, used, losses = run(tmp_path, basis_lr_ratio=ratio)
    assert len(losses) == 6
    assert len(used) == 2
    assert len(callback.gradient_values) == len(layers(whole.model)) == 18
    assert whole.model.peft_config["default"].initialized

    again, callback, used, rest = run(
        tmp_path / "again", resume=str(tmp_path / "checkpoint-3"), basis_lr_ratio=ratio
    )
    assert not used, "bases were set again on resuming"
    assert not callback.gradient_values
    assert rest == losses
    assert same_tensors(trainable(again.model), trainable(whole.model))
    assert again.model.peft_config["default"].initialized  # The adapter saves it.


def test_callback_takes_its_bases_from_the_training_batches(tmp_path):
    trainer, _, used, _ = run(tmp_path, steps=1)
    reference = wrap(load("minilm"), task_type="SEQ_CLS", target_modules=["query", "output.dense"])
    initialized(reference, used, num_batches=2)
    bases = {n: t for n, t in adapter_state(reference).items() if "factors" not in n}
    assert same_tensors(bases, {n: t for n, t in adapter_state(trainer.model).items() if "factors" not in n})


def test_training_on_keeps_what_was_learned(tmp_path):
    # A second train() must not set new bases, which would throw the cores back to their start.
    trainer, _, used, _ = run(tmp_path, steps=2)
    learned = adapter_state(trainer.model)
    trainer.optimizer = SGD(corefold.param_groups(trainer.model, lr=0.0, other_lr=0.0))
    trainer.train()
    assert len(used) == 2
    assert same_tensors(adapter_state(trainer.model), learned)
