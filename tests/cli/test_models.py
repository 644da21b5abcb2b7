"""Other families of models, tiny and random, through the command line: their heads, poolers and positions."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from command import Outcome, corefold, write_csv

pytestmark = pytest.mark.usefixtures("unrendered")
SMALL = {"vocab_size": 30522, "pad_token_id": 0}


def _bert_like(family: str, labels: dict[int, str] | None) -> PreTrainedModel:
    import transformers as t

    named = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}} if labels else {}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    configs = {
        "Albert": lambda: t.AlbertConfig(embedding_size=16, **small, **SMALL, **named),
        "DistilBert": lambda: t.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **SMALL, **named),
        "Roberta": lambda: t.RobertaConfig(max_position_embeddings=66, **small, **SMALL, **named),
        "Electra": lambda: t.ElectraConfig(embedding_size=16, **small, **SMALL, **named),
        "Bart": lambda: t.BartConfig(
            d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=64, decoder_ffn_dim=64, eos_token_id=102, bos_token_id=101, **SMALL, **named,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    kind = "ForSequenceClassification" if labels else "Model"
    return getattr(t, family + kind)(configs[family]())


@pytest.fixture
def checkpoint(minilm_dir: Path, tmp_path: Path):
    """A function that saves a tiny model with MiniLM's tokenizer and returns its folder."""

    def save(model: PreTrainedModel) -> Path:
        folder = tmp_path / "model"
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(minilm_dir).save_pretrained(folder)
        return folder

    return save


def finetune(model: Path, table: Path, out: Path, *more: object) -> Outcome:
    return corefold(
        "finetune", "--model", model, "--train", table, "--eval", table, "--text", "text", "--label", "label",
        "--steps", 2, "--rank", 4, "-o", out, *more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, "deep-lora") for family in ("Albert", "DistilBert", "Roberta", "Electra", "Bart")),
        ("Bart", "lora"),
    ],
)
def test_own_heads(checkpoint, reviews, tmp_path, family, method):
    model = checkpoint(_bert_like(family, {0: "POS", 1: "NEG"}))
    outcome = finetune(model, reviews, tmp_path / "out", "--method", method)
    assert outcome.code == 0, outcome.err
    task = json.loads((tmp_path / "out/task.json").read_text())
    assert task["head"] == "own"
    assert task["classes"] == ["pos", "neg"]  # in the order of the checkpoint's head
    assert corefold("merge", tmp_path / "out", "-o", tmp_path / "merged").code == 0
    assert corefold("evaluate", tmp_path / "out", reviews).code == 0


@pytest.mark.parametrize("family", ["Albert", "DistilBert", "Roberta"])
def test_mean_pooling(checkpoint, reviews, tmp_path, family):
    outcome = finetune(checkpoint(_bert_like(family, None)), reviews, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/task.json").read_text())["head"] == "mean"


def test_texts_longer_than_the_model_has_positions_are_cut(checkpoint, tmp_path):
    rows = [("word " * 100 + text, label) for text, label in (("good", 1), ("bad", 0)) * 4]
    table = write_csv(tmp_path / "long.csv", ["text", "label"], rows)
    model = checkpoint(_bert_like("Roberta", None))
    AutoTokenizer.from_pretrained(model, model_max_length=64).save_pretrained(model)
    outcome = finetune(model, table, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out/task.json").read_text())["max_length"] == 64


def test_an_encoder_is_no_language_model(minilm_dir, reviews, tmp_path):
    outcome = finetune(minilm_dir, reviews, tmp_path / "out", "--task", "causal-lm")
    assert outcome.code == 2
    assert "causal language model" in outcome.err


def test_mean_pooling_refuses_an_encoder_decoder(checkpoint, reviews, tmp_path):
    outcome = finetune(checkpoint(_bert_like("Bart", None)), reviews, tmp_path / "out")
    assert outcome.code == 2
    assert "encoder-decoder" in outcome.err


def test_prompt_and_completion(language_model, tmp_path):
    table = write_csv(
        tmp_path / "t.csv", ["prompt", "completion"], [("name: Blue Spice", "Blue Spice is a pub.")] * 6
    )
    outcome = corefold(
        "finetune", "--model", language_model, "--train", table, "--eval", table, "--task", "causal-lm",
        "--steps", 30, "--rank", 4, "--lr", 0.05, "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "weight_decay: 0.0\n" in (tmp_path / "out/config.yaml").read_text()  # no head
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["after"]["perplexity"] < metrics["before"]["perplexity"]
    assert metrics["after"]["loss"] == pytest.approx(metrics["after"]["token_loss"], rel=1e-4)
    assert (
        corefold("predict", tmp_path / "out", table, "-o", tmp_path / "p.csv", "--max-new-tokens", 3).code
        == 0
    )
    assert len(pd.read_csv(tmp_path / "p.csv", keep_default_na=False)["prediction"]) == 6
    assert corefold("evaluate", tmp_path / "out", table).code == 0
    assert corefold("merge", tmp_path / "out", "-o", tmp_path / "merged").code == 0


def test_plain_text_is_continued_and_not_ended(language_model, tmp_path):
    from corefold.finetune import load_run
    from corefold.finetune.tasks.causal_lm import CausalLm

    table = write_csv(tmp_path / "t.csv", ["text"], [("to be or not to be",)] * 5)
    outcome = corefold(
        "finetune", "--model", language_model, "--train", table, "--eval", table, "--text", "text",
        "--task", "causal-lm", "--steps", 2, "--rank", 4, "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    run = load_run(tmp_path / "out")
    trained = CausalLm().encode(run.task, run.tokenizer, pd.read_csv(table), "t")[0]["input_ids"]
    prompt = CausalLm().encode_prompts(run.task, run.tokenizer, pd.read_csv(table))[0]["input_ids"]
    assert trained == [*prompt, run.tokenizer.eos_token_id]


def test_a_completion_is_learned_and_its_prompt_is_not(language_model):
    from corefold.finetune.data import Columns
    from corefold.finetune.encoding import IGNORED
    from corefold.finetune.task import Task
    from corefold.finetune.tasks.causal_lm import CausalLm

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    task = Task("causal-lm", str(language_model), "lm", Columns("a", label="b"), max_length=8)
    (row,) = CausalLm().encode(
        task, tokenizer, pd.DataFrame({"a": ["one two three four five six seven"], "b": ["eight"]}), "t"
    )
    after = [*tokenizer("eight", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert len(row["input_ids"]) == 8
    assert row["input_ids"][-len(after) :] == after
    assert row["labels"] == [IGNORED] * (8 - len(after)) + after
