"""transformers' Trainer gets the settings of the run."""

from __future__ import annotations

import pytest

from corefold.finetune import InputError
from corefold.finetune.callbacks import ProgressBar
from corefold.finetune.trainer import CURVE_ROWS, _sample, prepare


def test_the_decided_settings_reach_trainer(prepared, tmp_path):
    run = prepared("lora", steps=50, batch_size=4, seed=7, lr=0.25, checkpoint_every=9)
    arguments = run.trainer.args
    assert (arguments.max_steps, arguments.per_device_train_batch_size, arguments.seed) == (50, 4, 7)
    assert (arguments.warmup_steps, arguments.max_grad_norm) == (5, 0.0)
    assert (arguments.eval_strategy, arguments.save_strategy) == ("no", "no")
    kept = prepare(run.data, tmp_path / "kept", progress=True, keep=True)
    arguments = kept.trainer.args
    assert (arguments.eval_strategy, arguments.eval_steps) == ("steps", 10)
    assert (arguments.save_strategy, arguments.save_steps) == ("steps", 9)
    assert any(isinstance(each, ProgressBar) for each in kept.trainer.callback_handler.callbacks)
    assert [group["lr"] for group in kept.trainer.optimizer.param_groups] == [0.25, 1e-3]


def test_a_method_that_trains_nothing_takes_no_time(prepared):
    run = prepared("untouched", "cosine")
    assert run.trainable_parameters() == 0
    assert run.train() == 0.0
    assert run.timer.median() is None
    assert {*run.evaluate()} == {"loss", "pearson", "spearman", "mse"}


def test_an_unknown_tracker_is_refused_by_its_option(prepared):
    with pytest.raises(InputError, match="--tracker nosuch"):
        prepared("lora", tracker="nosuch")


def test_learning_curves_see_some_rows_drawn_by_the_seed():
    rows = [{"labels": i} for i in range(CURVE_ROWS + 5)]
    assert _sample(rows[:3], CURVE_ROWS, 0) == rows[:3]
    some = _sample(rows, CURVE_ROWS, 1)
    assert len(some) == CURVE_ROWS
    assert some == _sample(rows, CURVE_ROWS, 1) != _sample(rows, CURVE_ROWS, 2)
