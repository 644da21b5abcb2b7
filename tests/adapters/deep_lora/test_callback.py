"""Deep LoRA in transformers' Trainer, which is used as it comes."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch.optim import AdamW
from transformers import Trainer, TrainerCallback, TrainingArguments

import corefold
from adapters.deep_lora.trainers import CHECKPOINTING, CONFIG, llama, losses, settings, with_old_names
from models import adapter_state, batches, layers, same_tensors, tiny_llama, wrap

pytestmark = with_old_names


def rows(count):
    examples = [batches("tiny", 1, 1, 8, seed)[0] for seed in range(count)]
    return [{key: value[0] for key, value in batch.items()} for batch in examples]


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
        # Adam's first steps are g / (|g| + eps), which with a small eps would magnify the rounding of a g near zero.
        return run(tmp_path / name, model, adam_epsilon=1e-2, **options)

    whole = trained("whole")
    halves = trained("halves", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert losses(halves) == pytest.approx(losses(whole), rel=1e-6)
    torch.testing.assert_close(adapter_state(halves.model), adapter_state(whole.model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("checkpointing", CHECKPOINTING[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_gives_the_same_losses_bit_for_bit(tmp_path, dtype, checkpointing):
    # The bases ask for more batches than an epoch has, and the checkpoint is saved within an epoch.
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
    dtypes = []

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            dtypes.extend(p.grad.dtype for p in model.parameters() if p.grad is not None)

    model = wrap(llama(torch.bfloat16), **CONFIG)
    trainer = Trainer(
        model,
        TrainingArguments(**settings(tmp_path, max_steps=2, bf16=autocast, bf16_full_eval=True)),
        train_dataset=rows(8),
        eval_dataset=rows(4),
        callbacks=[corefold.BasesCallback(), Gradients()],
    )
    trainer.evaluate()  # bf16_full_eval casts the whole model to bfloat16.
    trainer.train()
    assert {*dtypes} == {torch.float32}
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
    assert on_start["eval_loss"] == of_base  # Fresh bases change no output.


def test_the_best_checkpoint_comes_back(tmp_path):
    class Worse(TrainerCallback):
        """Claims that the model was best after two steps."""

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
