"""Going on from a finished run."""

from __future__ import annotations

import json

import pytest
import torch

from command import write_csv
from corefold.finetune import InputError, RunConfig, finetune, load_run
from corefold.finetune.continuing import continued


def test_adapter_and_head_start_where_the_run_ended(trained, sources, tmp_path):
    config = RunConfig(
        train=sources["mean"]["train"], eval=sources["mean"]["train"], from_run=str(trained), steps=2
    )
    result = finetune(config, tmp_path / "on", progress=False)
    ended = json.loads((trained / "metrics.json").read_text())["after"]
    assert result.metrics["before"] == pytest.approx(ended)
    assert result.metrics["after"]["loss"] != pytest.approx(ended["loss"])
    assert (result.config.rank, result.config.width, result.task.classes) == (2, 8, ("neg", "pos"))
    first, second = (load_run(folder).adapted.state_dict() for folder in (trained, tmp_path / "on"))
    bases = [name for name in first if "deeplora_left" in name]
    assert bases
    assert all(torch.equal(first[name], second[name]) for name in bases)  # frozen, and not found anew


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 3}, "keeps --rank 2, which its adapter was made for; got 3"),
        ({"method": "lora"}, "keeps --method deep-lora"),
        ({"model": "another"}, "keeps --model"),
    ],
)
def test_what_the_adapter_fixes_cannot_be_changed(trained, settings, words):
    if "method" in settings:
        settings = {"method": "lora"}
    with pytest.raises(InputError, match=words):
        continued(RunConfig(train="t.csv", from_run=str(trained), **settings))


def test_a_new_class_is_refused(trained, tmp_path):
    table = write_csv(tmp_path / "t.csv", ["text", "label"], [("a", "pos"), ("b", "mixed")] * 4)
    config = RunConfig(train=str(table), eval=str(table), from_run=str(trained))
    with pytest.raises(InputError, match=r"class 'mixed' is none of those that .* learned"):
        finetune(config, tmp_path / "on", progress=False)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"not the folder of a finished corefold finetune \(no config.yaml\)"
    ):
        continued(RunConfig(from_run=str(tmp_path)))


def test_a_run_is_no_model(trained, run_config, tmp_path):
    with pytest.raises(
        InputError, match="is the folder of a run, not a model; train its adapter on with --from"
    ):
        finetune(run_config(model=str(trained)), tmp_path / "out", progress=False)


def test_a_setting_that_equals_a_default_counts_as_given(trained):
    kept = continued(RunConfig(train="t.csv", from_run=str(trained)))
    assert (kept.max_length, kept.threshold, kept.separator) == (16, 0.5, "\n")
    given = {"max_length": 256, "threshold": 0.5, "separator": "\n"}
    other = continued(RunConfig(train="t.csv", from_run=str(trained), **given))
    assert {name: getattr(other, name) for name in given} == given
