"""Each command with a real model, MiniLM."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from command import corefold, start, write_csv


def test_finetune_fills_the_folder(finished):
    for name in (
        "adapter_model.safetensors", "adapter_config.json", "README.md", "head.safetensors", "tokenizer.json",
        "task.json", "manifest.json", "metrics.json", "config.yaml", "history.json", "report.html",
        "lora/adapter_model.safetensors", "lora/adapter_config.json", "lora/README.md",
    ):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    assert not (finished / ".checkpoints").exists()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["baseline"]["accuracy"] == 0.5
    assert metrics["after"]["accuracy"] > 0.9 > metrics["before"]["accuracy"] - 0.3
    assert metrics["after"]["loss"] < metrics["before"]["loss"]


@pytest.mark.usefixtures("unrendered")
def test_the_written_settings_rerun_the_run(finished, tmp_path):
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    assert settings["task"] == "classification"
    assert settings["head"] == "mean"
    assert settings["weight_decay"] == 3
    assert settings["lr"] == pytest.approx(0.05 / (2 * 5) ** 0.5)  # rank 2, five epochs
    outcome = corefold("finetune", "--config", finished / "config.yaml", "-o", tmp_path / "again")
    assert outcome.code == 0, outcome.err
    again, first = (json.loads((out / "metrics.json").read_text()) for out in (tmp_path / "again", finished))
    assert again["after"] == first["after"]
    assert again["train_loss"] == first["train_loss"]
    assert (tmp_path / "again/adapter_model.safetensors").read_bytes() == (
        finished / "adapter_model.safetensors"
    ).read_bytes()


def test_predict_and_evaluate_agree_with_training(finished, reviews, tmp_path):
    outcome = corefold("evaluate", finished, reviews, "--json", tmp_path / "scores.json")
    assert outcome.code == 0, outcome.err
    scores = json.loads((tmp_path / "scores.json").read_text())
    after = json.loads((finished / "metrics.json").read_text())["after"]
    assert scores["accuracy"] == after["accuracy"]
    assert scores["f1_macro"] == pytest.approx(after["f1_macro"])
    assert corefold("predict", finished, reviews, "-o", tmp_path / "p.csv").code == 0
    predicted = pd.read_csv(tmp_path / "p.csv")
    assert list(predicted.columns) == ["text", "label", "prediction", "probability"]
    assert (predicted["prediction"] == predicted["label"]).mean() == scores["accuracy"]
    assert predicted["probability"].between(0.5, 1).all()


def test_predict_needs_no_label_and_writes_every_format(finished, tmp_path):
    table = write_csv(tmp_path / "new.csv", ["text"], [["a joy"], ["a mess"]])
    for ending, read in ((".jsonl", lambda p: pd.read_json(p, lines=True)), (".parquet", pd.read_parquet)):
        assert corefold("predict", finished, table, "-o", tmp_path / f"p{ending}").code == 0
        assert read(tmp_path / f"p{ending}")["prediction"].tolist() == ["pos", "neg"]


def test_inspect_shows_every_layer_and_draws_a_page(finished, tmp_path):
    outcome = corefold("inspect", finished, "--plot", tmp_path / "p.html")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("384 x 384") == 24
    assert outcome.out.count("1536 x 384") == 6
    assert "36 layers" in outcome.out
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 2
    lora = corefold("inspect", finished / "lora")
    assert lora.code == 0, lora.err
    assert lora.out.count("384 x 384") == 24


def test_inspect_counts_every_byte(finished):
    from corefold.cli.run_report import updates_of

    tensors = load_file(finished / "adapter_model.safetensors")
    assert sum(u.bytes for u in updates_of(finished)) == sum(
        t.numel() * t.element_size() for t in tensors.values()
    )


def test_export_and_merge_say_what_the_folder_is_for(finished, tmp_path):
    """`finetune/portable/test_portable.py` loads such folders by other tools."""
    for command, words in (("export", "LoRA of 36 layers"), ("merge", "from rounding: 0.0e+00")):
        outcome = corefold(command, finished, "-o", tmp_path / command)
        assert outcome.code == 0, outcome.err
        assert words in outcome.out
        assert "pipeline has no head on mean-pooled tokens" in outcome.out
        modules = json.loads((tmp_path / command / "modules.json").read_text())
        assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense"]
    assert not (tmp_path / "export/model.safetensors").exists()
    assert not (tmp_path / "merge/adapter_config.json").exists()


def test_a_tolerance_makes_the_export_smaller(finished, tmp_path):
    sizes = []
    for tolerance in (0, 0.1, 0.8):  # the lesser of two directions is at most 0.71 of their norm
        out = tmp_path / str(tolerance)
        outcome = corefold("export", finished, "-o", out, "--tolerance", tolerance)
        assert outcome.code == 0, outcome.err
        tensors = load_file(out / "adapter_model.safetensors")
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
        assert f"{sizes[-1]:,} bytes ({sizes[0] - sizes[-1]:,} saved)" in outcome.out
    assert sizes[0] >= sizes[1] >= sizes[2] < sizes[0]


@pytest.mark.usefixtures("unrendered")
def test_two_embeddings_and_a_cosine_for_regression(minilm_dir, tmp_path):
    rows = [("a man eats", "a man is eating", 5), ("a dog runs", "a car stops", 0.5), ("it rains", "rain falls", 4),
            ("she sings", "he sleeps", 1), ("a cat sits", "a cat is sitting", 4.5), ("snow", "a hot day", 0)]  # fmt: skip
    table = write_csv(tmp_path / "pairs.csv", ["a", "b", "score"], rows * 3)
    outcome = corefold(
        "finetune", "--model", minilm_dir, "--train", table, "--eval", table, "--text", "a", "--text-pair", "b",
        "--label", "score", "--steps", 8, "--batch-size", 6, "--width", 16, "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    task = json.loads((tmp_path / "out/task.json").read_text())
    assert (task["kind"], task["pair"], task["head"]) == ("regression", "separate", "cosine")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["after"]["mse"] < metrics["before"]["mse"]
    assert corefold("predict", tmp_path / "out", table, "-o", tmp_path / "p.csv").code == 0
    predicted = pd.read_csv(tmp_path / "p.csv")
    assert predicted["prediction"].corr(predicted["score"]) == pytest.approx(
        metrics["after"]["pearson"], abs=1e-5
    )
    joint = corefold(
        "finetune",
        "--config",
        tmp_path / "out/config.yaml",
        "--pair",
        "joint",
        "--steps",
        2,
        "-o",
        tmp_path / "joint",
    )
    assert joint.code == 0, joint.err
    assert json.loads((tmp_path / "joint/task.json").read_text())["head"] == "mean"


@pytest.mark.usefixtures("unrendered")
def test_lora_is_a_method_too(two_layers_dir, reviews, tmp_path):
    outcome = corefold(
        "finetune", "--model", two_layers_dir, "--train", reviews, "--text", "text", "--label", "label", "--method", "lora",
        "--steps", 4, "--samples", 16, "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["peft_type"] == "LORA"
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["rows"] == {"train": 16, "eval": 6}  # a fifth of 32 held out, 16 of the rest drawn


def test_a_head_on_frozen_embeddings(two_layers_dir, reviews, tmp_path):
    outcome = corefold(
        "finetune", "--model", two_layers_dir, "--train", reviews, "--eval", reviews, "--text", "text", "--label", "label",
        "--method", "embeddings", "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "s a step" not in outcome.out
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["steps"] is None
    assert "Learning curves" not in (tmp_path / "out/report.html").read_text()
    assert corefold("predict", tmp_path / "out", reviews, "-o", tmp_path / "new.csv").code == 0
    table = pd.read_csv(tmp_path / "new.csv")
    assert (table["prediction"] == table["label"]).mean() > 0.9


@pytest.mark.usefixtures("unrendered")
def test_the_models_own_head(two_layers_dir, reviews, tmp_path):
    outcome = corefold(
        "finetune", "--model", two_layers_dir, "--train", reviews, "--eval", reviews, "--text", "text", "--label", "label",
        "--head", "own", "--steps", 10, "--width", 16, "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert corefold("merge", tmp_path / "out", "-o", tmp_path / "merged").code == 0
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    table = pd.read_csv(reviews)
    with torch.no_grad():
        logits = merged(**tokenizer(table["text"].tolist(), padding=True, return_tensors="pt")).logits
    named = [merged.config.id2label[i] for i in logits.argmax(-1).tolist()]
    after = json.loads((tmp_path / "out/metrics.json").read_text())["after"]
    assert (pd.Series(named) == table["label"]).mean() == after["accuracy"]
    # the merged model has a head of its own for these classes, which is chosen without being asked
    again = corefold(
        "finetune", "--model", tmp_path / "merged", "--train", reviews, "--eval", reviews, "--text", "text",
        "--label", "label", "--steps", 1, "-o", tmp_path / "again",
    )  # fmt: skip
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again/task.json").read_text())["head"] == "own"
    assert (
        json.loads((tmp_path / "again/metrics.json").read_text())["before"]["accuracy"] == after["accuracy"]
    )


def test_a_killed_run_resumes_to_the_same_metrics(finished, tmp_path):
    settings = ["--config", finished / "config.yaml", "--checkpoint-every", 5]
    process = start("finetune", *settings, "-o", tmp_path / "killed")
    saved = tmp_path / "killed/.checkpoints/checkpoint-10/trainer_state.json"
    deadline = time.monotonic() + 180
    while not saved.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    _, errors = process.communicate()
    assert saved.exists(), errors
    assert not (tmp_path / "killed/metrics.json").exists()
    assert corefold("evaluate", tmp_path / "killed", "x.csv").code == 2
    outcome = corefold("finetune", "--resume", "-o", tmp_path / "killed")
    assert outcome.code == 0, outcome.err
    resumed, whole = (
        json.loads((out / "metrics.json").read_text()) for out in (tmp_path / "killed", finished)
    )
    for part in ("before", "after", "train_loss", "baseline", "adapter"):
        assert resumed[part] == whole[part], part
    assert (tmp_path / "killed/adapter_model.safetensors").read_bytes() == (
        finished / "adapter_model.safetensors"
    ).read_bytes()
    again = corefold("finetune", "--resume", "-o", tmp_path / "killed")
    assert again.code == 0
    assert "finished" in again.out


def test_version_and_short_help():
    assert corefold("--version").out.strip() == "0.1.0"
    assert "finetune" in corefold("-h").out
    assert Path(sys.prefix, "bin", "corefold").exists()
