"""Every method that a run can keep: what is loaded answers as what was trained, with stock tools too."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from command import corefold, refused
from corefold.finetune import InputError, evaluate, finetune, load_run, merge, predict
from corefold.finetune.config import KeptMethod
from corefold.finetune.encoding import Collator
from corefold.finetune.folder import LORA, Run, save_model
from corefold.finetune.methods import METHODS

OTHERS = [name for name in get_args(KeptMethod) if name not in ("deep-lora", "lora")]
CASES = [*((name, "mean") for name in OTHERS), *((name, "own") for name in OTHERS if name != "embeddings")]


@torch.no_grad()
def logits(model, data):
    return model.eval()(**Collator(data.tokenizer)(data.eval)).logits


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_loaded_run_answers_as_the_trained_model(prepared, tmp_path, name, kind):
    method = METHODS[name]
    fit = prepared(
        name, kind, steps=12, **({"lr": 1e-2} if name in ("pissa", "lora-ga", "dora", "eva") else {})
    )
    untrained = logits(fit.model, fit.data)
    initial = tmp_path / "start/initial" if method.changes_base else None
    if initial:
        fit.adapted.save_pretrained(str(initial))
    fit.train()
    trained = logits(fit.model, fit.data)
    assert (trained - untrained).abs().max() > 1e-3
    task = replace(fit.data.task, kept=method.keeps)
    save_model(tmp_path / "run", Run(task, fit.adapted, fit.model, fit.data.tokenizer), initial)
    run = load_run(tmp_path / "run")
    torch.testing.assert_close(logits(run.model, fit.data), trained, atol=1e-5, rtol=1e-4)
    if name in ("pissa", "lora-ga", "eva", "dora", "lora-one"):  # stock PEFT loads it on the untouched base
        settings = {"num_labels": 2} if kind == "own" else {}
        base = (AutoModelForSequenceClassification if kind == "own" else AutoModel).from_pretrained(
            task.model, **settings
        )
        stock = PeftModel.from_pretrained(base, str(tmp_path / "run")).state_dict()
        ours = run.adapted.state_dict()
        assert all(torch.equal(stock[key], ours[key]) for key in ours if "original_module" not in key)
    merge(run, tmp_path / "merged")
    if kind == "own":
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(logits(plain, fit.data), trained, atol=1e-5, rtol=1e-4)


def test_a_start_that_was_taken_out_of_the_base_is_subtracted(run_config, tmp_path):
    out = tmp_path / "out"
    result = finetune(run_config("own", method="pissa", rank=3, steps=2), out, progress=False)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    shapes = {len(t) for key, t in load_file(out / "adapter_model.safetensors").items() if "lora_A" in key}
    assert shapes == {6}
    scores = evaluate(load_run(out), result.config.eval, progress=False)
    assert scores["accuracy"] == result.metrics["after"]["accuracy"]
    assert (out / LORA / "adapter_model.safetensors").read_bytes() == (
        out / "adapter_model.safetensors"
    ).read_bytes()
    assert not (out / ".checkpoints").exists()


@pytest.mark.parametrize(
    ("method", "files", "missing"),
    [
        ("full", ["model.safetensors", "config.json", "head.safetensors"], ["adapter_config.json", "lora"]),
        ("head", ["head.safetensors"], ["model.safetensors", "adapter_config.json", "lora"]),
        ("adalora", ["adapter_model.safetensors", "head.safetensors"], ["lora"]),
    ],
)
def test_the_command_line_keeps_it(tiny, reviews, tmp_path, method, files, missing):
    out = tmp_path / "out"
    outcome = corefold(
        "finetune", "--model", tiny, "--train", reviews, "--eval", reviews, "--text", "text", "--label", "label",
        "--method", method, "--steps", 10, "--max-length", 16, "-o", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "as plain LoRA" not in outcome.out
    assert all((out / name).exists() for name in (*files, "report.html"))
    assert not any((out / name).exists() for name in missing)
    answers = predict(load_run(out), str(reviews), progress=False)["prediction"]
    labels = predict(load_run(out), str(reviews), progress=False)["label"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert (answers == labels).mean() == metrics["after"]["accuracy"]
    (out / files[-1]).write_bytes((out / files[-1]).read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_run(out)
    again = ("finetune", "--train", reviews, "--eval", reviews, "-o", tmp_path / "b")
    refused(corefold(*again, "--from", out), "--from", "fold it into a model")


def test_a_run_of_adalora_cannot_resume(run_config, tmp_path):
    with pytest.raises(InputError, match="PEFT keeps no state of the ranks of adalora"):
        finetune(run_config(method="adalora"), tmp_path / "out", resume=True, progress=False)


def test_a_dora_is_not_shown_as_lora(run_config, tmp_path):
    out = tmp_path / "out"
    finetune(run_config(method="dora", steps=1), out, progress=False)
    assert not (out / LORA).exists()
    refused(corefold("inspect", out), "a DoRA adapter")
