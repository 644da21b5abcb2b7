"""A merged run computes what the run computed, and its head speaks in the units of the labels."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from command import write_csv
from corefold.finetune import InputError, finetune, load_run, merge
from corefold.finetune.portable.adapter import export


@pytest.fixture(scope="module")
def regression(run_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    rows = [(f"text number {i}", 10.0 + 3.5 * (i % 5)) for i in range(20)]
    table = str(write_csv(folder / "numbers.csv", ["text", "label"], rows))
    config = run_config(train=table, eval=table, task="regression", method="lora", rank=2)
    finetune(config, folder / "out", progress=False)
    return folder / "out"


def test_a_merged_encoder_with_its_head_answers_as_the_run(regression, tmp_path):
    run = load_run(regression)
    tokens = run.tokenizer(["a joy", "a film"], return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = run.task.shift + run.task.scale * run.model(dict(tokens)).logits
    assert merge(run, tmp_path / "merged") is None, "PEFT does not measure the error of a LoRA"
    encoder = AutoModel.from_pretrained(tmp_path / "merged").eval()
    dense = load_file(tmp_path / "merged/2_Dense/model.safetensors")
    with torch.no_grad():
        hidden = encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        answers = mean @ dense["linear.weight"].mT + dense["linear.bias"]
    torch.testing.assert_close(answers.reshape(-1), expected.reshape(-1), rtol=1e-4, atol=1e-3)
    modules = json.loads((tmp_path / "merged/modules.json").read_text())
    assert [each["path"] for each in modules] == ["", "1_Pooling", "2_Dense"]


def test_deep_lora_tells_the_error_of_rounding(trained, tmp_path):
    error = merge(load_run(trained), tmp_path / "merged")
    assert error is not None
    assert 0 <= error < 1e-6


def test_a_failed_merge_or_export_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("corefold.finetune.portable.setfit.write", fail)
    for write in (lambda out: merge(load_run(trained), out), lambda out: export(trained, out, None)):
        with pytest.raises(OSError, match="no space left"):
            write(tmp_path / "out")
        assert not [*tmp_path.iterdir()]


def test_an_old_head_does_not_outlive_its_run(regression, trained, tmp_path):
    """A classifier's folder is written over by a regression, which SetFit has no head for."""
    export(trained, tmp_path / "out", None)
    assert (tmp_path / "out/model_head.pkl").exists()
    export(regression, tmp_path / "out", None)
    assert not (tmp_path / "out/model_head.pkl").exists()
    assert "SetFitModel" not in (tmp_path / "out/README.md").read_text()


def test_a_folder_that_is_not_empty_is_kept(trained, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        merge(load_run(trained), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
