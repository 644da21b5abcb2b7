"""A text a text, on tiny random T5 and BART: what is learned, what is written, and what is refused."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from command import corefold, refused, write_csv
from corefold.finetune import InputError, RunConfig, evaluate, load_run, merge, predict
from corefold.finetune import finetune as tune
from corefold.finetune.data import Columns
from corefold.finetune.run_data import read_tables
from corefold.finetune.tasks.generation import text_scores
from corefold.finetune.tasks.kinds import choose_kind

WORDS = [
    "<pad>",
    "</s>",
    "<unk>",
    *["one", "two", "three", "four", "five", "six", "seven", "eight"],
    *["uno", "dos", "tres"],
]
ROWS = [
    ("one two three", "uno dos tres"),
    ("three one", "tres uno"),
    ("two", "dos"),
    ("one one", "uno uno"),
] * 2
SIDES = {"vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def _t5() -> torch.nn.Module:
    sides = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(**sides, **SIDES))


def _bart() -> torch.nn.Module:
    layers = {
        f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")
    }
    sides = {
        "d_model": 32,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 40,
        "dropout": 0.0,
    }
    return BartForConditionalGeneration(
        BartConfig(**sides, **layers, forced_eos_token_id=1, bos_token_id=1, **SIDES)
    )


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    """T5 and BART with a tokenizer of whole words that ends texts, and one that does not end them."""
    folder = tmp_path_factory.mktemp("models")
    for family, make in (("t5", _t5), ("bart", _bart)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make().save_pretrained(folder / family)
        words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if family == "t5":
            words.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
        named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 32}
        PreTrainedTokenizerFast(tokenizer_object=words, **named).save_pretrained(folder / family)
    return folder


@pytest.fixture
def rows(tmp_path):
    return write_csv(tmp_path / "t.csv", ["source", "target"], ROWS)


def finetune(model, rows, out, *more):
    return corefold(
        "finetune", "--model", model, "--train", rows, "--eval", rows, "--text", "source", "--label", "target", "--task",
        "seq2seq", "-o", out, *more,
    )  # fmt: skip


@pytest.mark.parametrize(("family", "method"), [("t5", "lora"), ("bart", "lora"), ("t5", "deep-lora")])
def test_a_run_learns_writes_and_merges(models_dir, rows, tmp_path, family, method):
    rates = {"lora": {"rank": 8, "steps": 30, "lr": 0.03}, "deep-lora": {"width": 4, "steps": 4}}
    out, settings = tmp_path / "out", {"method": method, **rates[method]}
    config = RunConfig(
        model=str(models_dir / family), train=str(rows), eval=str(rows), text="source", label="target", task="seq2seq",
        **settings,
    )  # fmt: skip
    metrics = tune(config, out, progress=False).metrics
    before, after = metrics["before"], metrics["after"]
    assert after["perplexity"] < before["perplexity"] * (0.9 if method == "lora" else 1.0)
    run = load_run(out)
    written = predict(run, str(rows), batch_size=3, progress=False)["prediction"].tolist()
    assert predict(run, str(rows), batch_size=1, progress=False)["prediction"].tolist() == written
    scores = evaluate(run, str(rows), progress=False)
    assert scores["perplexity"] == pytest.approx(after["perplexity"], rel=1e-4)
    assert scores["exact_match"] == sum(a == b for a, (_, b) in zip(written, ROWS, strict=True)) / len(ROWS)
    merge(run, tmp_path / "merged")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    batch = tokenizer([source for source, _ in ROWS], padding=True, return_tensors="pt")
    fields = {name: batch[name] for name in ("input_ids", "attention_mask")}
    stock = model.generate(**fields, max_new_tokens=64, do_sample=False)
    assert [text.strip() for text in tokenizer.batch_decode(stock, skip_special_tokens=True)] == written


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_perplexity_is_that_of_the_loss(models_dir, rows, tmp_path, family):
    out = tmp_path / "out"
    assert finetune(models_dir / family, rows, out, "--method", "lora", "--steps", 1).code == 0
    model = AutoModelForSeq2SeqLM.from_pretrained(models_dir / family)
    tokenizer = AutoTokenizer.from_pretrained(models_dir / family)
    losses = []
    for source, target in ROWS[:4]:
        labels = torch.tensor([[WORDS.index(word) for word in target.split()] + [1]])
        with torch.no_grad():
            loss = model(tokenizer(source, return_tensors="pt").input_ids, labels=labels).loss
        losses += [loss] * labels.numel()
    before = json.loads((out / "metrics.json").read_text())["before"]
    assert before["token_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_a_tokenizer_that_pads_on_the_left_changes_no_score(models_dir, rows, tmp_path):
    model = AutoModelForSeq2SeqLM.from_pretrained(models_dir / "t5")
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "t5", padding_side="left")
    model.save_pretrained(tmp_path / "left")
    tokenizer.save_pretrained(tmp_path / "left")
    scores = {}
    for name, source in (("left", tmp_path / "left"), ("right", models_dir / "t5")):
        config = RunConfig(
            model=str(source), train=str(rows), eval=str(rows), text="source", label="target", task="seq2seq",
            method="lora", steps=2, lr=0.03,
        )  # fmt: skip
        scores[name] = tune(config, tmp_path / f"out-{name}", progress=False).metrics
    assert scores["left"]["after"] == pytest.approx(scores["right"]["after"], rel=1e-5)
    tokenizer.save_pretrained(tmp_path / "out-left")  # as runs of older versions have it
    manifest = tmp_path / "out-left/manifest.json"
    assert "tokenizer.json" not in json.loads(manifest.read_text())
    run = load_run(tmp_path / "out-left")
    losses = [evaluate(run, str(rows), batch_size=size, progress=False)["token_loss"] for size in (1, 7)]
    assert losses == pytest.approx([scores["left"]["after"]["token_loss"]] * 2, rel=1e-5)


def test_texts_are_scored_as_a_whole_and_by_their_words():
    found = text_scores(["a b", " c", "d d e", ""], ["A b", "c ", "d f", ""])
    assert found == {"exact_match": 0.5, "word_f1": pytest.approx((1 + 1 + 2 / 5 + 1) / 4)}


def test_free_texts_and_an_encoder_decoder_suggest_it(models_dir):
    table = pd.DataFrame({"source": map(str, range(60)), "target": [f"text {i}" for i in range(60)]})
    notes: list[str] = []
    config = RunConfig(model=str(models_dir / "t5"))
    assert choose_kind(config, table, Columns("source", label="target"), notes) == "seq2seq"
    assert "--task changes that" in notes[0]


def test_models_that_cannot_are_refused(models_dir, rows, tiny, tmp_path):
    refused(
        finetune(tiny, rows, tmp_path / "a"),
        "needs an encoder-decoder such as T5 or BART",
        "--task causal-lm",
    )
    folder = tmp_path / "model"
    AutoModelForSeq2SeqLM.from_pretrained(models_dir / "t5").save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)
    refused(finetune(folder, rows, tmp_path / "b"), "has no eos_token")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": None}))
    with pytest.raises(InputError, match="no decoder_start_token_id"):
        read_tables(
            RunConfig(model=str(folder), train=str(rows), text="source", label="target", task="seq2seq")
        )


def test_compare_trains_it_by_methods_that_read_the_inputs(models_dir, tmp_path):
    longer = [(source, f"{target} {target} dos") for source, target in ROWS]
    rows = write_csv(tmp_path / "t.csv", ["source", "target"], longer)
    outcome = corefold(
        "compare", "--model", models_dir / "t5", "--train", rows, "--eval", rows, "--text", "source", "--label", "target",
        "--task", "seq2seq", "--methods", "lora,eva,lora-ga", "--ranks", 2, "--seeds", 1, "--steps", 2, "--jobs", 1,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    cells = [json.loads(line) for line in (tmp_path / "out/cells.jsonl").read_text().splitlines()]
    assert [cell["error"] for cell in cells] == [None] * 3
    assert {cell["main"] for cell in cells} == {"perplexity"}
