"""Callbacks without a Trainer around them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from corefold.finetune import InputError
from corefold.finetune.callbacks import ProgressBar, StepTimer, StopAtNonFiniteLoss


def test_the_timer_takes_the_median_of_the_steps(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    timer = StepTimer()
    assert timer.median() is None
    for _ in range(3):
        timer.on_step_begin()
        timer.on_step_end()
    assert timer.median() == 2.0


def test_a_loss_that_is_not_finite_stops_the_run():
    state = SimpleNamespace(global_step=7)
    StopAtNonFiniteLoss().on_log(None, state, None, {"loss": 1.0})
    StopAtNonFiniteLoss().on_log(None, state, None, {"eval_loss": float("nan")})
    for loss in (float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"loss is {loss} after 7 steps; lower --lr"):
            StopAtNonFiniteLoss().on_log(None, state, None, {"loss": loss})


def test_the_bar_shows_the_last_losses():
    bar, shown = ProgressBar(), {}
    bar.training_bar = SimpleNamespace(set_postfix=shown.update)
    for logs in ({"loss": 2.0, "grad_norm": 1.0}, {"eval_loss": 3.0}, {"loss": 1.0}):
        bar.on_log(None, None, None, logs)
    assert shown == {"loss": 1.0, "eval_loss": 3.0}
