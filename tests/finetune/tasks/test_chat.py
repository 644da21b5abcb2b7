"""Conversations: which tokens are learned, by templates with and without marks, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from corefold.finetune import InputError, Task
from corefold.finetune.data import Columns
from corefold.finetune.encoding import IGNORED
from corefold.finetune.tasks.chat import Chat, training_template

TASK = Task("chat", "m", "lm", Columns("messages"), max_length=200)
TALK = [
    {"role": "user", "content": "Who wrote Emma?"},
    {"role": "assistant", "content": "Jane Austen."},
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "In 1815."},
]
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}U: {{ m.content }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
)
FORGETFUL = (  # drops the assistant's earlier turns, as templates of reasoning models drop their thoughts
    "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}{{ m.role }}: {{ m.content }}\n{% endif %}"
    "{% endfor %}"
)


@pytest.fixture
def tokenizer(smollm2_dir):
    return AutoTokenizer.from_pretrained(smollm2_dir)


def rows(*talks):
    return pd.DataFrame({"messages": pd.Series(talks, dtype=object)})


def learned(tokenizer, row):
    """The texts of each stretch of tokens with labels."""
    parts, last = [], None
    for place, label in enumerate(row["labels"]):
        if label == IGNORED:
            continue
        if last != place - 1:
            parts.append([])
        parts[-1].append(label)
        last = place
    return [tokenizer.decode(part) for part in parts]


def test_the_assistant_s_turns_are_learned_by_prefixes(tokenizer):
    assert training_template(tokenizer) is None  # so SmolLM2's template takes the way of prefixes
    (row,) = Chat().encode(TASK, tokenizer, rows(TALK), "t")
    assert (
        row["input_ids"] == tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=True)["input_ids"]
    )
    assert [text.strip() for text in learned(tokenizer, row)] == [
        "Jane Austen.<|im_end|>",
        "In 1815.<|im_end|>",
    ]


def test_a_template_with_marks_says_itself_what_is_learned(tokenizer):
    tokenizer.chat_template = MARKED
    (row,) = Chat().encode(TASK, tokenizer, rows(TALK), "t")
    assert [text.strip() for text in learned(tokenizer, row)] == [
        "Jane Austen.<|im_end|>",
        "In 1815.<|im_end|>",
    ]


def test_prompts_end_before_the_last_answer_or_at_the_end(tokenizer):
    prompts = Chat().encode_prompts(TASK, tokenizer, rows(TALK, TALK[:3]))
    assert prompts[0] == prompts[1]
    assert tokenizer.decode(prompts[0]["input_ids"]).endswith("When?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("form", [lambda talk: talk, json.dumps, np.array], ids=["list", "json", "parquet"])
def test_cells_of_every_format_are_read(form):
    (cell,) = Chat().clean_texts(rows(form(TALK))["messages"], "t")
    assert cell == TALK


def test_keys_that_other_messages_have_are_left_out():
    talk = [{**message, "tool_calls": None} for message in TALK]
    assert Chat().clean_texts(rows(talk)["messages"], "t")[0] == TALK


@pytest.mark.parametrize(
    "cell", ["hello", [], [1, 2], [{"content": "no role"}], "[broken", [TALK[0], "text"]], ids=str
)
def test_cells_without_a_conversation_are_refused_by_their_row(cell):
    with pytest.raises(
        InputError,
        match=r"t\.jsonl, row 2: column 'messages' holds no conversation of texts; expected a list",
    ):
        Chat().clean_texts(rows(TALK, cell)["messages"], "t.jsonl")


def test_a_conversation_whose_answers_are_cut_away_is_refused(tokenizer):
    from dataclasses import replace

    with pytest.raises(InputError, match=r"row 1: no turn of the assistant lies within the first 10 tokens"):
        Chat().encode(replace(TASK, max_length=10), tokenizer, rows(TALK), "t")
    with pytest.raises(InputError, match=r"row 2: the conversation has no turn of the assistant"):
        Chat().encode(TASK, tokenizer, rows(TALK, TALK[:1]), "t")


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(InputError, match="writes turn 2 of the conversation differently when others follow"):
        Chat().encode(TASK, tokenizer, rows(TALK), "t")


@pytest.mark.parametrize(
    "marks",
    [
        ("", ""),
        ("{% generation %}", "{% endgeneration %}"),
        ("{%- generation -%}", "{%- endgeneration -%}"),
        ("{%generation%}", "{%endgeneration%}"),
    ],
    ids=lambda marks: marks[0] or "none",
)
def test_a_template_that_refuses_a_conversation_says_so_in_one_line(tokenizer, marks):
    marked = MARKED.replace("{% generation %}", marks[0]).replace("{% endgeneration %}", marks[1])
    tokenizer.chat_template = (
        "{% if messages[1:] and messages[1].role == 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}"
        + marked
    )
    assert (training_template(tokenizer) is None) == (not marks[0])
    refused = rows([TALK[0], *TALK[:2]], TALK)
    words = "row 1: the chat template of .* refuses the conversation: roles must alternate"
    with pytest.raises(InputError, match=words):
        Chat().encode_prompts(TASK, tokenizer, refused)
    with pytest.raises(InputError, match=f"t, {words}"):
        Chat().encode(TASK, tokenizer, refused, "t")


def test_of_several_templates_the_default_is_used(tokenizer):
    tokenizer.chat_template = {"default": MARKED, "tool_use": FORGETFUL}
    assert training_template(tokenizer) == MARKED


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template"):
        Chat().prepare_tokenizer(tokenizer)


def test_contents_in_parts_and_calls_without_content_are_read():
    talk = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Who wrote "}, {"type": "text", "text": "Emma?"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"name": "search"}]},
    ]
    (cell,) = Chat().clean_texts(rows(talk)["messages"], "t")
    assert [message["content"] for message in cell] == ["Who wrote Emma?", ""]


@pytest.mark.parametrize("content", [None, 3, [{"type": "image_url", "image_url": "x"}]], ids=str)
def test_messages_without_text_are_refused(content):
    with pytest.raises(InputError, match="row 1: column 'messages' holds no conversation of texts"):
        Chat().clean_texts(rows([{"role": "user", "content": content}])["messages"], "t")
