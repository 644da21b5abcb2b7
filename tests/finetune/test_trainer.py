"""transformers' Trainer gets the settings of the run."""

from __future__ import annotations

import pytest
import torch

from command import write_csv
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


@pytest.mark.parametrize("kind", ["mean", "own"])
def test_rare_classes_weigh_more_in_training_and_in_the_loss_of_the_bases(
    prepared, tmp_path, kind, monkeypatch
):
    from corefold.adapters.deep_lora import callback

    rows = [(f"text {n}", "rare" if n < 4 else "usual") for n in range(20)]
    table = str(write_csv(tmp_path / "t.csv", ["text", "label"], rows))
    run = prepared("deep-lora", kind, train=table, eval=table, class_weight="balanced", steps=2)
    run.model.eval()
    batch = run.trainer.data_collator([run.data.train[0], run.data.train[-1]])
    logits = run.model(**batch).logits
    each = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
    expected = (20 / (2 * 4) * each[0] + 20 / (2 * 16) * each[1]) / 2
    assert run.trainer.compute_loss(run.model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-5)
    initialize, losses = callback.initialize_bases, []
    monkeypatch.setattr(
        callback,
        "initialize_bases",
        lambda *args, **options: losses.append(options["loss_fn"]) or initialize(*args, **options),
    )
    run.train()
    assert losses == [run.trainer.compute_loss]
    assert run.trainer.state.global_step == 2
