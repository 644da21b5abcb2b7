"""Options and config.yaml: one flat list, checked and converted."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import asdict, fields

import pytest
import yaml

from corefold.finetune import InputError, RunConfig, load_settings
from corefold.finetune.config import SETTINGS_OF_0_1_0, DeepLoraOptions, SharedOptions


def test_options_of_all_methods_lie_beside_each_other():
    names = [each.name for each in fields(RunConfig)]
    assert names == [each.name for part in (SharedOptions, DeepLoraOptions) for each in fields(part)]
    assert all(each.metadata["help"] for each in fields(RunConfig))


def test_a_file_gives_the_settings_that_were_saved(tmp_path):
    config = RunConfig(model="m", train="Größe.csv", rank=3, lr=1e-5, width=0, depth=3, separator="\t")
    config.save(tmp_path / "config.yaml")
    assert RunConfig(**load_settings(tmp_path / "config.yaml")) == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8")) == asdict(config)


def test_numbers_in_any_form_are_converted():
    config = RunConfig(lr="1e-3", steps="20", rank=4.0, tolerance="0.5")  # type: ignore[arg-type]
    assert (config.lr, config.steps, config.rank, config.tolerance) == (1e-3, 20, 4, 0.5)
    assert isinstance(config.rank, int)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rank": 2.5}, "--rank must be of type int; got 2.5"),
        ({"rank": True}, "--rank must be of type int; got True"),
        ({"lr": float("inf")}, "--lr must be positive"),
        ({"method": "untouched"}, "--method must be one of deep-lora, lora, lora-ga, .*; got 'untouched'"),
        ({"bases": "svd"}, "--bases must be one of fisher"),
        ({"tolerance": 1}, "--tolerance is a relative error"),
        ({"seed": -1}, "--seed must lie between 0"),
        ({"model": None}, "--model must be of type str; got None"),
        ({"depth": 3, "width": 8}, "--depth 3 needs a square core: add --width 0; got --width 8"),
        ({"eval_samples": 0}, "--eval-samples must be at least 1"),
    ],
)
def test_bad_values_are_refused_by_their_option(given, words):
    with pytest.raises(InputError, match=words):
        RunConfig(**given)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rnak: 2", "unknown setting 'rnak'; known: bases, basis_lr_ratio"),
        (b"[1, 2]", "must hold settings, one 'name: value' a line"),
        (b"a: [", "is not YAML"),
        (b"\xff\xfe", "is not YAML"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content, words):
    (tmp_path / "settings.yaml").write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_settings(tmp_path / "settings.yaml")


def test_only_open_options_are_filled():
    filled = RunConfig(rank=3).filled({"rank": 5, "lr": 0.1})
    assert (filled.rank, filled.lr) == (3, 0.1)


def test_a_finished_run_of_a_rank_above_its_width_had_square_cores(tmp_path):
    path = tmp_path / "config.yaml"
    every_setting = dataclasses.asdict(RunConfig(model="m", train="t.csv")) | {"rank": 200, "width": 112}
    path.write_text(yaml.safe_dump(every_setting))
    assert RunConfig(**load_settings(path)).width == 0
    old = {name: value for name, value in every_setting.items() if name in SETTINGS_OF_0_1_0}
    path.write_text(yaml.safe_dump(old))
    assert load_settings(path)["width"] == 0
    path.write_text("rank: 200\nwidth: 112\n")  # A user's own mistake is refused later.
    assert load_settings(path) == {"rank": 200, "width": 112}


def test_the_help_tells_the_defaults_of_lora():
    """Help must not import PEFT, and so cannot take the numbers from the method itself."""
    from corefold.finetune.peers import LORA

    help_texts = {each.name: each.metadata["help"] for each in dataclasses.fields(RunConfig)}
    decision = LORA.decide(RunConfig(model="m", train="t.csv"), None, 64, 100)
    for name in ("rank", "lr", "weight_decay"):
        (number,) = re.findall(r"([\d.e-]+) for lora", help_texts[name])
        assert float(number) == getattr(decision, name)
