"""Deep LoRA in transformers' Trainer and in TRL's trainers, which are used as they come."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.optim import AdamW
from transformers import (
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
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
from models import adapter_state, batches, layers, same_tensors, tiny_llama, wrap

pytestmark = pytest.mark.filterwarnings(  # the names that transformers below 5 and TRL have for it
    "ignore:`gradient_checkpointing.*` is deprecated:FutureWarning"
)

CONFIG = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
CHECKPOINTING = [
    pytest.param({"gradient_checkpointing": False}, id="none"),
    pytest.param(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}, id="saved hooks"
    ),
    pytest.param(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, id="reentrant"
    ),
]  # fmt: skip


def settings(folder, **options):
    return {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, "bf16": False,
        "dataloader_pin_memory": False, "learning_rate": 1e-2, "adam_epsilon": 1e-6, "max_grad_norm": 0, "seed": 5,
        **options,
    }  # fmt: skip


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def llama(dtype=torch.float32):
    return tiny_llama(attention_dropout=0.1).to(dtype)  # dropout, so that a lost random state shows


def rows(count):
    made = [batches("tiny", 1, 1, 8, seed)[0] for seed in range(count)]
    return [{key: value[0] for key, value in batch.items()} for batch in made]


def run(folder, model=None, resume=None, callback=None, train_rows=16, **options):
    torch.manual_seed(1)
    trainer = Trainer(
        wrap(llama(), **CONFIG) if model is None else model,
        TrainingArguments(**settings(folder, **options)),
        train_dataset=rows(train_rows),
        eval_dataset=rows(4),
        callbacks=[callback or corefold.BasesCallback(num_batches=3)],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"), gradient_checkpointing=False)


@pytest.mark.parametrize("checkpointing", CHECKPOINTING[1:])
def test_gradient_checkpointing_changes_no_loss(tmp_path, plain_run, checkpointing):
    trainer = run(tmp_path, **checkpointing)
    assert losses(trainer) == pytest.approx(losses(plain_run), rel=1e-6)
    torch.testing.assert_close(
        adapter_state(trainer.model), adapter_state(plain_run.model), rtol=1e-5, atol=1e-6
    )


def test_two_halves_of_a_batch_make_one_step(tmp_path):
    def trained(name, **options):
        model = wrap(tiny_llama(), **CONFIG)
        corefold.initialize_bases(model, batches("tiny"), progress=False)
        # Adam's first steps are g / (|g| + eps): with a small eps they would blow up the rounding of a near zero.
        return run(tmp_path / name, model, adam_epsilon=1e-2, **options)

    whole = trained("whole")
    halves = trained("halves", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert losses(halves) == pytest.approx(losses(whole), rel=1e-6)
    torch.testing.assert_close(adapter_state(halves.model), adapter_state(whole.model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("checkpointing", CHECKPOINTING[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_gives_the_same_losses_bit_for_bit(tmp_path, dtype, checkpointing):
    # Three batches an epoch and six asked for, so that the bases use up the dataloader; saved within an epoch.
    options = {
        "train_rows": 12, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "save_strategy": "steps", "save_steps": 4, **checkpointing,
    }  # fmt: skip

    def started(folder, **more):
        callback = corefold.BasesCallback(num_batches=9)
        model = wrap(llama(dtype), **CONFIG)
        return run(folder, model, callback=callback, **options, **more), callback

    whole, callback = started(tmp_path)
    assert callback.gradient_values
    again, callback = started(tmp_path / "again", resume=str(tmp_path / "checkpoint-4"))
    assert not callback.gradient_values, "bases were set again on resuming"
    assert losses(again) == losses(whole)
    assert len(losses(whole)) == 6
    assert same_tensors(adapter_state(again.model), adapter_state(whole.model))


@pytest.mark.parametrize("autocast", [False, True])
def test_factors_gradients_and_optimizer_stay_float32(tmp_path, autocast):
    seen = []

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.extend(p.grad.dtype for p in model.parameters() if p.grad is not None)

    model = wrap(llama(torch.bfloat16), **CONFIG)
    trainer = Trainer(
        model,
        TrainingArguments(**settings(tmp_path, max_steps=2, bf16=autocast, bf16_full_eval=True)),
        train_dataset=rows(8),
        eval_dataset=rows(4),
        callbacks=[corefold.BasesCallback(), Gradients()],
    )
    trainer.evaluate()  # casts the whole model to bfloat16, as bf16_full_eval asks
    trainer.train()
    assert {*seen} == {torch.float32}
    assert {tensor.dtype for tensor in adapter_state(model).values()} == {torch.float32}
    states = [state for state in trainer.optimizer.state.values() if state]
    assert len(states) == len(layers(model))
    assert {state[name].dtype for state in states for name in ("exp_avg", "exp_avg_sq")} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if "deeplora" not in n} == {torch.bfloat16}


def test_evaluation_before_training_is_that_of_the_base(tmp_path):
    base, arguments = llama(), TrainingArguments(**settings(tmp_path, eval_on_start=True, max_steps=1))
    of_base = Trainer(copy.deepcopy(base), arguments, eval_dataset=rows(4)).evaluate()["eval_loss"]
    trainer = Trainer(
        wrap(base, **CONFIG), arguments, train_dataset=rows(8), eval_dataset=rows(4),
        callbacks=[corefold.BasesCallback()],
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] == of_base
    trainer.train()
    on_start = next(
        entry for entry in trainer.state.log_history if "eval_loss" in entry and entry["step"] == 0
    )
    assert on_start["eval_loss"] == of_base  # new bases, and still nothing changed


def test_the_best_checkpoint_comes_back(tmp_path):
    class Worse(TrainerCallback):
        """Says that the model was best after two steps."""

        def on_evaluate(self, args, state, control, metrics, model=None, **kwargs):
            metrics["eval_loss"] = abs(state.global_step - 2)
            if state.global_step == 2:
                self.best = adapter_state(model)

    spy = Worse()
    model = wrap(llama(), **CONFIG)
    trainer = Trainer(
        model,
        TrainingArguments(
            **settings(
                tmp_path, save_strategy="steps", eval_strategy="steps", save_steps=1, eval_steps=1, save_total_limit=2,
                load_best_model_at_end=True,
            )
        ),
        train_dataset=rows(16), eval_dataset=rows(4), callbacks=[corefold.BasesCallback(), spy],
    )  # fmt: skip
    trainer.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-6"}
    assert same_tensors(adapter_state(model), spy.best)
    assert model.peft_config["default"].initialized


def test_bases_at_the_learning_rate_of_the_core_warn(tmp_path):
    def started(ratio, grouped=False):
        model = wrap(llama(), **CONFIG, basis_lr_ratio=ratio)
        optimizer = AdamW(corefold.param_groups(model, lr=1e-2)) if grouped else None
        trainer = Trainer(
            model,
            TrainingArguments(**settings(tmp_path, max_steps=1, warmup_steps=1)),
            train_dataset=rows(8), callbacks=[corefold.BasesCallback()], optimizers=(optimizer, None),
        )  # fmt: skip
        trainer.train()

    with pytest.warns(UserWarning, match=r"not at 0\.1 times that .*corefold\.param_groups"):
        started(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        started(0.1, grouped=True)
        started(1.0)
        started(0.0)


# TRL


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, 50))]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def said(stream, least, most=None):
    return " ".join(f"w{stream.randrange(3, 50)}" for _ in range(stream.randint(least, most or least)))


def texts(count=32):
    stream = random.Random(0)
    return Dataset.from_list([{"text": said(stream, 4, 9)} for _ in range(count)])


def preferences(count=32):
    stream = random.Random(0)
    return Dataset.from_list(
        [
            {"prompt": said(stream, 3) + " ", "chosen": said(stream, 2, 4), "rejected": said(stream, 3, 5)}
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
    assert trainer.args.gradient_checkpointing  # TRL's own default
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
        base.is_loaded_in_4bit = True  # all that TRL looks at before it casts what trains to bfloat16
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
    """Notes what a trainer is like before its first step."""

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
    # A wrapped model has a second adapter, "ref", that the loss switches to; else the loss switches the only one off.
    callback, spy = corefold.BasesCallback(num_batches=2), AtStart()
    trainer = dpo(tmp_path, tokenizer, callback, spy, wrapped=wrapped, bases="spectral", **checkpointing)
    callback.loss_fn = trainer.compute_loss
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    data = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(2), strict=False)]
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(0.693147, abs=1e-6)  # nothing preferred yet
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
def test_a_trainer_with_its_own_loss_is_asked_for_it(tmp_path, tokenizer, kind):
    trainer = dpo(tmp_path, tokenizer) if kind == "dpo" else reward(tmp_path, tokenizer)
    trainer.add_callback(corefold.BasesCallback())
    with pytest.raises(ValueError, match=r"callback\.loss_fn = trainer\.compute_loss"):
        trainer.train()


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
