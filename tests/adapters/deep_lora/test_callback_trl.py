"""Deep LoRA in TRL's trainers, which are used as they come."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

import corefold
from adapters.deep_lora.trainers import CHECKPOINTING, CONFIG, llama, losses, settings, with_old_names
from models import adapter_state, layers, same_tensors, tiny_llama

pytestmark = with_old_names


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, 50))]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def sentence(stream, least, most=None):
    return " ".join(f"w{stream.randrange(3, 50)}" for _ in range(stream.randint(least, most or least)))


def texts(count=32):
    stream = random.Random(0)
    return Dataset.from_list([{"text": sentence(stream, 4, 9)} for _ in range(count)])


def preferences(count=32):
    stream = random.Random(0)
    return Dataset.from_list(
        [
            {
                "prompt": sentence(stream, 3) + " ",
                "chosen": sentence(stream, 2, 4),
                "rejected": sentence(stream, 3, 5),
            }
            for _ in range(count)
        ]
    )


def sft(folder, tokenizer, model=None, callback=None, config=None, **options):
    return SFTTrainer(
        llama() if model is None else model,
        SFTConfig(**settings(folder, **options)),
        train_dataset=texts(),
        processing_class=tokenizer,
        peft_config=corefold.DeepLoraConfig(**{**CONFIG, **(config or {})}),
        callbacks=[callback or corefold.BasesCallback(num_batches=2)],
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": True, "max_length": 16},
        {"padding_free": True, "max_length": None},
        {"bf16": True},
        {"loss_type": "dft"},
    ],
    ids=str,
)
def test_sft_trainer_as_it_comes(tmp_path, tokenizer, options):
    callback = corefold.BasesCallback(num_batches=2)
    trainer = sft(tmp_path, tokenizer, callback=callback, **options)
    assert trainer.args.gradient_checkpointing  # This is TRL's default.
    at_start = adapter_state(trainer.model)
    trainer.train()
    assert len(callback.gradient_values) == len(layers(trainer.model)) == 6
    assert len(losses(trainer)) == 6
    assert all(torch.isfinite(torch.tensor(losses(trainer))))
    for name, tensor in adapter_state(trainer.model).items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, at_start[name])
    export = corefold.export_lora(trainer.model, tmp_path / "lora")
    assert (Path(tmp_path) / "lora" / "adapter_config.json").exists(), export


def test_sft_trainer_learns(tmp_path, tokenizer):
    (row,) = texts(1)
    trainer = sft(tmp_path, tokenizer, max_steps=20, config={"target_modules": "all-linear"})
    trainer.train_dataset = trainer.train_dataset.select([0] * 32)
    trainer.train()
    assert losses(trainer)[-1] < 0.99 * losses(trainer)[0], row


def test_sft_trainer_resumes_bit_for_bit(tmp_path, tokenizer):
    whole = sft(tmp_path, tokenizer, save_strategy="steps", save_steps=3)
    whole.train()
    callback = corefold.BasesCallback()
    again = sft(tmp_path / "again", tokenizer, callback=callback)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert not callback.gradient_values
    assert losses(again) == losses(whole)
    assert same_tensors(adapter_state(again.model), adapter_state(whole.model))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_trl_rounds_no_adapter_on_a_quantized_base(tmp_path, tokenizer, ratio):
    def started(folder, **options):
        base = llama()
        base.is_loaded_in_4bit = True  # TRL then casts trained parameters to bfloat16.
        return sft(folder, tokenizer, base, config={"basis_lr_ratio": ratio}, **options)

    whole = started(tmp_path, save_strategy="steps", save_steps=3)
    assert {tensor.dtype for tensor in adapter_state(whole.model).values()} == {torch.float32}
    whole.train()
    assert {tensor.dtype for tensor in adapter_state(whole.model).values()} == {torch.float32}
    plain = sft(tmp_path / "plain", tokenizer, config={"basis_lr_ratio": ratio})
    plain.train()
    assert losses(whole) == losses(plain)
    again = started(tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(again) == losses(whole)
    assert same_tensors(adapter_state(again.model), adapter_state(whole.model))


def dpo(folder, tokenizer, *callbacks, wrapped=False, bases="gradient", **options):
    config = corefold.DeepLoraConfig(**CONFIG, bases=bases)
    base = tiny_llama()
    return DPOTrainer(
        get_peft_model(base, config) if wrapped else base,
        args=DPOConfig(**settings(folder, **options)),
        train_dataset=preferences(),
        eval_dataset=preferences(8),
        processing_class=tokenizer,
        peft_config=None if wrapped else config,
        callbacks=[*callbacks],
    )


class AtStart(TrainerCallback):
    """Notes the state of a trainer before its first step."""

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        self.graded = [name for name, p in model.named_parameters() if p.grad is not None]
        self.trained = [name for name, p in model.named_parameters() if p.requires_grad]
        self.adapter = adapter_state(model)
        self.checkpointing = {
            module.gradient_checkpointing
            for module in model.modules()
            if hasattr(module, "gradient_checkpointing")
        }


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("wrapped", [False, True], ids=["peft_config", "wrapped"])
def test_dpo_trainer_lends_its_loss(tmp_path, tokenizer, wrapped, checkpointing):
    # In a wrapped model the loss switches to a second adapter, "ref"; otherwise it switches the only one off.
    callback, spy = corefold.BasesCallback(num_batches=2), AtStart()
    trainer = dpo(tmp_path, tokenizer, callback, spy, wrapped=wrapped, bases="spectral", **checkpointing)
    callback.loss_fn = trainer.compute_loss
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    data = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(2), strict=False)]
    trainer.train()
    # An untrained model prefers neither answer.
    assert losses(trainer)[0] == pytest.approx(0.693147, abs=1e-6)
    assert losses(trainer)[1:] != [losses(trainer)[0]] * 5
    assert spy.graded == []
    assert spy.trained == trained == [name for name in trained if "factors.default" in name]
    assert spy.checkpointing == {trainer.args.gradient_checkpointing}

    fresh = dpo(tmp_path, tokenizer, gradient_checkpointing=False)
    fresh.model.eval()
    for name, layer in layers(fresh.model).items():
        weight = layer.get_base_layer().weight.requires_grad_()
        for batch in data:
            fresh.compute_loss(fresh.model, batch).backward()
        gradient, best = weight.grad, torch.linalg.svdvals(weight.grad)[:4].norm()
        weight.requires_grad_(False)
        left, right = (spy.adapter[f"{name}.deeplora_{side}"] for side in ("left", "right"))
        assert (left.mT @ gradient).norm() > 0.999 * best
        assert (gradient @ right).norm() > 0.999 * best


def test_dpo_bases_leave_no_trace_in_the_metrics(tmp_path, tokenizer):
    trainer = dpo(tmp_path, tokenizer, max_steps=1)
    trainer.add_callback(corefold.BasesCallback(num_batches=2, loss_fn=trainer.compute_loss))
    trainer.train()
    assert not trainer._metrics["eval"]


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_a_trainer_s_own_loss_is_found(tmp_path, tokenizer, kind):
    found = []
    for lent in (True, False):
        trainer = dpo(tmp_path, tokenizer) if kind == "dpo" else reward(tmp_path, tokenizer)
        callback = corefold.BasesCallback(loss_fn=trainer.compute_loss if lent else None)
        trainer.add_callback(callback)
        trainer.train()
        found.append(callback.gradient_values)
    lent, own = found
    assert lent
    assert all(torch.equal(lent[name], own[name]) for name in lent)


def reward(folder, tokenizer):
    config = tiny_llama().config
    config.num_labels = 1
    data = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in preferences()]
    return RewardTrainer(
        LlamaForSequenceClassification(config),
        args=RewardConfig(**settings(folder, max_steps=2)),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        peft_config=corefold.DeepLoraConfig(**CONFIG, task_type="SEQ_CLS"),
    )


def kto(folder, tokenizer):
    data = [
        {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
        for row in preferences() for good in (True, False)
    ]  # fmt: skip
    return KTOTrainer(
        tiny_llama(),
        args=KTOConfig(**settings(folder, max_steps=2)),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        peft_config=corefold.DeepLoraConfig(**CONFIG, modules_to_save=["mlp"]),
    )


@pytest.mark.parametrize("make", [reward, kto])
def test_other_preference_trainers(tmp_path, tokenizer, make):
    trainer, spy = make(tmp_path, tokenizer), AtStart()
    callback = corefold.BasesCallback(num_batches=2, loss_fn=trainer.compute_loss)
    trainer.add_callback(callback)
    trainer.add_callback(spy)
    trainer.train()
    assert len(callback.gradient_values) == len(layers(trainer.model))
    assert spy.graded == []
    assert len(losses(trainer)) == 2
