"""The folder of a run: checked before use, and the checkpoint from which a run continues."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from corefold.finetune import InputError
from corefold.finetune.folder import (
    check_adapter,
    check_apart,
    last_checkpoint,
    read_json,
    stored_or_computed,
)
from corefold.tables.atomic import write_json


def test_a_run_is_not_written_over_itself(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="must name another folder"):
        check_apart(tmp_path / "out", tmp_path / "out/../out")
    check_apart(tmp_path / "out", tmp_path / "other")


def test_json_is_read_as_it_was_written_and_refused_if_cut(tmp_path):
    value = {"names": ["Größe"], "number": 1.5, "nothing": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "a.json").write_text('{"names": [')
    with pytest.raises(InputError, match=r"a\.json is cut or broken"):
        read_json(tmp_path / "a.json")


def test_a_value_is_computed_once(tmp_path):
    values = iter([{"loss": 1.5}, {"loss": 2.5}])
    found = [stored_or_computed(tmp_path / "deep/before.json", lambda: next(values)) for _ in range(3)]
    assert found == [{"loss": 1.5}] * 3


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: (out / "adapter_config.json").unlink(), "holds no adapter"),
        (lambda out: shutil.rmtree(out), "no such folder"),
        (lambda out: (out / "task.json").unlink(), r"task\.json is missing"),
        (lambda out: (out / "task.json").write_text("{}"), "SHA-256 differs"),
        (lambda out: (out / "manifest.json").write_text("[]"), r"manifest\.json is cut or broken"),
    ],
)
def test_a_damaged_folder_is_refused(trained, tmp_path, damage, words):
    out = shutil.copytree(trained, tmp_path / "out")
    check_adapter(out)
    damage(out)
    with pytest.raises(InputError, match=words):
        check_adapter(out)


def test_a_checkpoint_that_was_cut_is_passed_over(tmp_path):
    for step in (5, 10, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"step": step}, folder / name)
        (folder / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path, 101) == tmp_path / "checkpoint-100"
    # Trainer would train the last step twice.
    assert last_checkpoint(tmp_path, 100) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-100/trainer_state.json").write_text('{"epoch": 1')
    assert last_checkpoint(tmp_path, 101) == tmp_path / "checkpoint-10"
    stopped = {"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": True}}}}
    write_json(tmp_path / "checkpoint-100/trainer_state.json", stopped)  # training stopped early there
    assert last_checkpoint(tmp_path, 101) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10/optimizer.pt").unlink()
    assert last_checkpoint(tmp_path, 101) == tmp_path / "checkpoint-5"
    shutil.rmtree(tmp_path / "checkpoint-5")
    assert last_checkpoint(tmp_path, 101) is None


def test_the_manifest_covers_the_files_that_a_run_depends_on(trained):
    manifest = json.loads((trained / "manifest.json").read_text())
    assert {*manifest} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "head.safetensors",
        "task.json",
    }
