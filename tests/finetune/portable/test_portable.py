"""Runs give the same answers in stock PEFT, transformers' pipeline, sentence-transformers and SetFit as in corefold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corefold.finetune.loading import load_tokenizer
from corefold.finetune.merging import merge
from corefold.finetune.portable.adapter import complete_run, export
from corefold.finetune.portable.own_head import has_own_head, loading_arguments
from finetune.portable.runs import Case, answers, make_run

SCRIPT = Path(__file__).with_name("load_without_corefold.py")
OWN = [
    *(Case(family) for family in ("bert", "roberta", "t5", "qwen3", "gemma3")),
    Case("distilbert", classes=2, pair="joint"),
    *(Case(family, classes=0) for family in ("roberta", "modernbert", "llama")),
    Case("bert", classes=0, method="lora"),
    Case("modernbert", kind="multi-label"),
    Case("odd-roberta"),
]
POOLED = [
    Case("minilm", "mean"),
    Case("bert", "mean", classes=2, pair="joint"),
    Case("modernbert", "mean", dtype="bfloat16"),
    Case("roberta", "mean", classes=0),
    Case("bert", "mean", pair="separate"),
    Case("bert", "cosine", classes=0, pair="separate"),
    Case("distilbert", "mean", method="lora", pooling="cls"),
    Case("bert", "mean", kind="multi-label"),
    Case("bert16", "mean"),
]
WRITING = [
    Case("bertner", kind="token-classification"),
    Case("llama16", "lm", classes=0, kind="causal-lm"),
    Case("llama16", "lm", classes=0, kind="chat"),
    Case("t5", "lm", classes=0, kind="seq2seq", method="lora"),
]
ON_A_BASE = ("bert-own-3", "qwen3-own-3")
BARE_HEADS = ("llama",)  # Their head has no bias to hold a shift.


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By case: corefold's answers, the lines told, and by folder (lora, merged, run) what other tools answered."""
    work = tmp_path_factory.mktemp("portable")
    known, plan = {}, []
    for case in (*OWN, *POOLED, *WRITING):
        run, out = make_run(case, work)
        lora, merged = work / f"{case}-lora", work / f"{case}-merged"
        lines: dict[str, list[str]] = {"lora": [], "merged": []}
        native = answers(run)
        arguments = loading_arguments(run.task, run.tokenizer) if has_own_head(run.task) else {}
        export(out, lora, None, lines["lora"].append)
        complete_run(out, lora, run.tokenizer)
        merge(run, merged, tell=lines["merged"].append)
        folders = {"lora": lora, "merged": merged} | ({"run": out} if case.method == "lora" else {})
        for name, folder in folders.items():
            calls: dict[str, list[Any]] = {"card": []}
            if case in OWN and not case.pair and name == "merged":
                calls |= {"pipeline": [{}]}
            if name == "lora" and str(case) in ON_A_BASE:
                calls |= {"pipeline": [arguments], "peft": [arguments]}
            if name == "lora" and str(case) == "minilm-mean-3" and find_spec("setfit"):
                calls |= {"setfit": []}
            plan.append({"folder": str(folder), "calls": calls})
        known[str(case)] = {"native": native, "lines": lines, "folders": folders}
    done = subprocess.run(
        [sys.executable, SCRIPT], input=json.dumps(plan), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for each in known.values():
        each["found"] = {name: found[str(folder)] for name, folder in each["folders"].items()}
    return known


def answers_of(values: dict[str, Any], call: str) -> np.ndarray:
    assert f"{call} failed" not in values, values[f"{call} failed"]
    if call != "card":
        return np.array(values[call])
    return np.array(values.get("card probabilities") or values["card numbers"])


@pytest.mark.parametrize("case", [*OWN, *POOLED], ids=str)
def test_the_code_of_every_card_gives_predicts_answers(case, portable):
    known = portable[str(case)]
    native = known["native"]
    assert np.abs(native[0] - native[1]).max() > 1e-3, "both texts look alike"
    # The last bits of bfloat16 depend on whether the update is a side branch or part of the weight.
    tolerance = 1e-5 if case.dtype == "float32" else 0.02
    for name, values in known["found"].items():
        got = answers_of(values, "card")
        expected = native[: len(got)]  # Cards of two embeddings show one pair.
        np.testing.assert_allclose(got, expected, atol=tolerance, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", WRITING, ids=str)
def test_the_code_of_every_card_gives_predicts_tags_and_texts(case, portable):
    known = portable[str(case)]
    native = known["native"]
    assert len({str(answer) for answer in native}) == 2, "both texts look alike"
    for name, values in known["found"].items():
        assert "card failed" not in values, values["card failed"]
        if case.kind == "token-classification":
            assert values["card tags"] == native.tolist()
        else:
            assert values["card text"].strip() == native[0], name
            assert name == "merged" or values["card dtype"] == f"torch.{case.dtype}"


@pytest.mark.parametrize("case", [case for case in OWN if not case.pair], ids=str)
def test_pipelines_give_predicts_answers(case, portable):
    known = portable[str(case)]
    missing = 69.5 if case.family in BARE_HEADS and not case.classes else 0
    for name in ("lora", "merged") if str(case) in ON_A_BASE else ("merged",):
        got = answers_of(known["found"][name], "pipeline").reshape(known["native"].shape)
        np.testing.assert_allclose(got + missing, known["native"], atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ON_A_BASE)
def test_stock_peft_on_a_base_that_knows_the_classes(name, portable):
    got = answers_of(portable[name]["found"]["lora"], "peft")
    probabilities = torch.tensor(got).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, portable[name]["native"], atol=1e-5)


@pytest.mark.parametrize("case", [case for case in POOLED if case.head == "mean" and case.classes], ids=str)
def test_encode_returns_logits(case, portable):
    for name, values in portable[str(case)]["found"].items():
        logits = torch.tensor(values["card logits"])
        got = (logits.sigmoid() if case.kind == "multi-label" else logits.softmax(-1)).numpy()
        tolerance = 1e-5 if case.dtype == "float32" else 0.02
        np.testing.assert_allclose(
            got, portable[str(case)]["native"][: len(got)], atol=tolerance, err_msg=name
        )


def test_setfit_names_the_classes_and_writes_the_same_files(portable):
    pytest.importorskip("setfit", reason="SetFit is not installed")
    known = portable["minilm-mean-3"]
    names = answers_of(known["found"]["lora"], "setfit")
    assert list(names) == [("bad", "so-so", "1")[i] for i in known["native"].argmax(1)]
    folder = known["folders"]["lora"]
    ours, theirs = (
        json.loads(Path(f"{folder}{end}", "config_setfit.json").read_text()) for end in ("", "-by-setfit")
    )
    assert ours == theirs
    written = {path.name for path in Path(f"{folder}-by-setfit").iterdir()} - {"config.json"}
    assert written == {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("case", OWN, ids=str)
def test_the_merged_configuration_says_what_servers_ask(case, portable):
    """vLLM reads the class, the number of labels, the activation (by the type of problem) and, with pads, their id."""
    config = json.loads((portable[str(case)]["folders"]["merged"] / "config.json").read_text())
    families = {
        "bert": "Bert", "roberta": "Roberta", "odd-roberta": "Roberta", "modernbert": "ModernBert", "distilbert": "DistilBert", "t5": "T5",
        "qwen3": "Qwen3", "gemma3": "Gemma3Text", "llama": "Llama",
    }  # fmt: skip
    assert config["architectures"] == [f"{families[case.family]}ForSequenceClassification"]
    assert isinstance(config["pad_token_id"], int)
    if case.classes:
        names = ("bad", "so-so", "1")[: case.classes]
        kind = "multi" if case.kind == "multi-label" else "single"
        assert config["problem_type"] == f"{kind}_label_classification"
        assert config["id2label"] == {str(i): name for i, name in enumerate(names)}
        assert config["label2id"] == {name: i for i, name in enumerate(names)}
    else:
        assert config["problem_type"] == "regression"
        assert [*config["id2label"]] == ["0"]


def test_what_does_not_fit_is_told_and_stands_in_the_card(portable):
    expected = {
        "bert-own-3": ("load it with num_labels=3", None),
        "llama-own-numbers": ("numbers are 69.5 + output", "numbers are 69.5 + output"),
        "roberta-own-numbers": ("num_labels=1", None),
        "bertner-own-3-token-classification": ("num_labels=3", None),
        "minilm-mean-3": ("pipeline has no head on mean-pooled", "pipeline has no head on mean-pooled"),
        "roberta-mean-numbers": ("SetFit has heads for classes only", "SetFit has heads for classes only"),
        "bert-mean-3-separate": ("no module joins two", "no module joins two"),
        "bert-cosine-numbers-separate": ("numbers are 69.5 + 7.25 * cosine", "69.5 + 7.25 * cosine"),
    }
    for case, words in expected.items():
        for name, word in zip(("lora", "merged"), words, strict=True):
            lines = portable[case]["lines"][name]
            if word is None:
                assert not lines
                continue
            (line,) = (line for line in lines if word in line)
            card = (portable[case]["folders"][name] / "README.md").read_text()
            assert f"- {line}\n" in card
            assert "\n" not in line


def test_a_run_loads_after_an_import_of_corefold(portable):
    """Its own adapter is Deep LoRA: PEFT, and all that build on it, know it once corefold is imported."""
    from huggingface_hub import ModelCard

    cases = (
        "minilm-mean-3",
        "roberta-own-numbers",
        "bert-cosine-numbers-separate",
        str(WRITING[0]),
        str(WRITING[1]),
    )
    for case in cases:
        out = str(portable[case]["folders"]["lora"]).removesuffix("-lora") + "-run"
        text = ModelCard.load(f"{out}/README.md").text
        values: dict[str, Any] = {}
        code = text.rsplit("```python\n", 1)[1].split("```")[0]
        assert code.startswith("import corefold")
        exec(code.replace("PATH_TO_THIS_FOLDER", out), values)
        native = portable[case]["native"]
        if "tags" in values:
            assert values["tags"] == native.tolist()
            continue
        if "written" in values:
            assert values["text"].strip() == native[0]
            continue
        got = values.get("probabilities", values.get("numbers"))
        np.testing.assert_allclose(torch.as_tensor(got).numpy(), native[: len(got)], atol=1e-5, rtol=1e-5)


def test_an_adapter_of_a_gguf_file_is_told_to_be_merged(portable, tmp_path):
    out, lines = tmp_path / "run", []
    shutil.copytree(str(portable["bert-mean-2-joint"]["folders"]["lora"]).removesuffix("-lora") + "-run", out)
    task = json.loads((out / "task.json").read_text())
    (out / "task.json").write_text(json.dumps({**task, "model": "model.gguf"}))
    (out / "manifest.json").unlink()  # It has the digest of the task as it was.
    export(out, tmp_path / "lora", None, lines.append)
    complete_run(out, tmp_path / "lora", load_tokenizer(str(out)))
    assert len(lines) == 1
    assert "is a gguf file" in lines[0]
    assert not (tmp_path / "lora/modules.json").exists()
