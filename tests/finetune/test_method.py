"""Settings are decided once, leave nothing open, and decide the same run when they are read again."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from corefold.finetune import InputError, RunConfig, Task, load_settings
from corefold.finetune.data import Columns
from corefold.finetune.method import OF_TRAINING, decide, record_decisions, value_or
from corefold.finetune.methods import METHODS

TASK = Task("classification", "m", "mean", Columns("text", label="label"), classes=("a", "b"))
COSINE = Task("regression", "m", "cosine", Columns("a", "b", "label"), pair="separate")


OFF = {"exclude_modules", "from_run", "patience", "class_weight"}  # None switches these off


@pytest.mark.parametrize("task", [TASK, COSINE], ids=["mean", "cosine"])
@pytest.mark.parametrize("name", METHODS)
def test_nothing_stays_open(name, task):
    if (name, task.head) in (("head", "cosine"), ("embeddings", "cosine"), ("untouched", "mean")):
        with pytest.raises(InputError, match=name):
            decide(RunConfig(), task, 100, METHODS[name])
        return
    settings = decide(RunConfig(), task, 100, METHODS[name])
    open_fields = {each.name for each in fields(settings) if getattr(settings, each.name) is None}
    assert open_fields <= {"own", *OFF}
    assert (settings.lr > 0) == METHODS[name].trains
    assert (settings.steps, settings.checkpoint_every, settings.head_lr) == (100, 10, 1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_given_stays(name):
    given = {
        "rank": 7,
        "lr": 0.25,
        "weight_decay": 0.0,
        "head_lr": 0.5,
        "steps": 3,
        "checkpoint_every": 2,
        "seed": 9,
    }
    if name == "untouched":
        return
    settings = decide(RunConfig(**given), TASK, 100, METHODS[name])
    assert {option: getattr(settings, option) for option in given} == given


@pytest.mark.parametrize(
    "given", [{}, {"width": 0, "depth": 3}, {"steps": 300}, {"rank": 200}, {"method": "lora"}]
)
@pytest.mark.parametrize("task", [TASK, COSINE], ids=["mean", "cosine"])
def test_recorded_decisions_decide_the_same_run(given, task, tmp_path):
    config = RunConfig(model="m", train="t", **given)
    method = METHODS[config.method]
    settings = decide(config, task, 100, method)
    recorded = record_decisions(config, task, settings)
    open_options = {name for name, value in asdict(recorded).items() if value is None}
    usual = {"eval", "text_pair", "pair", "head", "samples", "eval_samples", "width"}
    assert open_options <= usual | OFF | {"revision", "encoding", "delimiter", "folds"}
    assert (recorded.width is None) == (config.method == "lora")
    recorded.save(tmp_path / "config.yaml")
    again = RunConfig(**load_settings(tmp_path / "config.yaml"))
    assert again == recorded
    assert decide(again, task, 100, method) == settings
    assert record_decisions(again, task, settings) == recorded


def test_what_nothing_trains_has_no_settings_of_training():
    config = RunConfig(model="m", train="t", method="embeddings")
    recorded = record_decisions(config, TASK, decide(config, TASK, 100, METHODS["embeddings"]))
    assert {name for name in OF_TRAINING if getattr(recorded, name) is not None} == set()


def test_a_head_alone_trains_at_the_head_s_rate():
    assert decide(RunConfig(), TASK, 100, METHODS["head"]).lr == 1e-2
    assert decide(RunConfig(head_lr=0.3), TASK, 100, METHODS["head"]).lr == 0.3
    assert decide(RunConfig(head_lr=0.3, lr=0.1), TASK, 100, METHODS["head"]).lr == 0.1


def test_a_value_of_zero_is_a_value():
    assert value_or(0.0, 3.0) == 0.0
    assert value_or(None, 3.0) == 3.0
