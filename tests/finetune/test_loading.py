"""Base models and tokenizers: those that do not fit each other, and base models that were exchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from corefold.finetune import InputError, Task
from corefold.finetune.data import Columns
from corefold.finetune.loading import check_base, check_tokens, load_base, load_tokenizer, weights_digest

TASK = Task("classification", "m", "mean", Columns("text", label="label"), classes=("a", "b"))


def other_tokenizer(source: Path, out: Path, **changed) -> str:
    tokenizer = AutoTokenizer.from_pretrained(source)
    for name, value in changed.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(out)
    return str(out)


@pytest.fixture
def model_folder(tiny, tmp_path):
    """A function that saves the tiny model with a changed tokenizer."""

    def save(rows: int | None = None, **changed) -> str:
        model = AutoModel.from_pretrained(tiny)
        if rows is not None:
            model.resize_token_embeddings(rows)
        model.save_pretrained(tmp_path / "model")
        return other_tokenizer(tiny, tmp_path / "model", **changed)

    return save


def test_a_tokenizer_without_padding_and_end_is_refused(model_folder):
    with pytest.raises(InputError, match="neither a padding token nor an end token"):
        load_tokenizer(model_folder(pad_token=None, eos_token=None))


def test_a_padding_token_beyond_the_table_is_refused(model_folder):
    model = model_folder(rows=200, pad_token="film")
    with pytest.raises(InputError, match=r"pads with token \d+ \('film'\), and .* has 200 rows"):
        load_base(replace(TASK, model=model))


def test_tokens_beyond_the_table_are_refused_by_their_text(model_folder):
    base = load_base(replace(TASK, model=model_folder(rows=200)))
    tokenizer = load_tokenizer(base.name_or_path)
    rows = [
        {"first": {"input_ids": [101, 102]}},
        {"first": {"input_ids": [1]}, "second": {"input_ids": [3, 200]}},
    ]
    check_tokens(rows[:1], base, tokenizer, "t.csv")
    token = tokenizer.convert_ids_to_tokens(200)
    with pytest.raises(InputError) as refusal:
        check_tokens(rows, base, tokenizer, "t.csv")
    assert f"t.csv: the tokenizer makes token 200 ({token!r}), and" in str(refusal.value)
    assert "has 200 rows" in str(refusal.value)


def test_padding_stands_on_the_right_where_positions_are_counted(model_folder):
    assert load_tokenizer(model_folder(padding_side="left")).padding_side == "right"


def test_a_padded_text_gets_the_output_that_it_gets_alone(model_folder):
    model = model_folder(padding_side="left")
    base, tokenizer = load_base(replace(TASK, model=model)).eval(), load_tokenizer(model)
    batch = tokenizer(["a joy", "a dull and far too long film"], padding=True, return_tensors="pt")
    alone = tokenizer(["a joy"], return_tensors="pt")
    with torch.no_grad():
        together = base(**batch).last_hidden_state[0, : alone.input_ids.shape[1]]
        torch.testing.assert_close(together, base(**alone).last_hidden_state[0])


def test_another_base_model_is_told_from_the_right_one(tiny, tmp_path):
    base = AutoModel.from_pretrained(tiny)
    task = replace(TASK, model="here", base_digest=weights_digest(base))
    base.save_pretrained(tmp_path / "again", safe_serialization=True, max_shard_size="100KB")
    check_base(task, AutoModel.from_pretrained(tmp_path / "again"))
    other = BertModel(base.config)
    with pytest.raises(
        InputError, match="here is not the base model of this run: it has the same shapes but"
    ):
        check_base(task, other)
    with pytest.raises(InputError, match=r"tensors of other names or shapes; name the right one with --base"):
        check_base(task, BertModel(BertConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2)))
    check_base(replace(task, base_digest=""), BertModel(base.config))


def test_a_head_is_no_part_of_the_digest(tiny):
    own = replace(TASK, head="own", model=str(tiny))
    first, second = (load_base(own, seed) for seed in (0, 1))
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    assert weights_digest(first) == weights_digest(second)
    language = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30))
    assert weights_digest(language) == weights_digest(language.transformer)
