"""Conversations: a language model learns the assistant's turns, by TRL's SFTTrainer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase, Trainer

from corefold.errors import InputError, reason
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.encoding import IGNORED
from corefold.finetune.task import Task
from corefold.finetune.tasks.causal_lm import CausalLm
from corefold.tables.columns import row_number

MARKS = re.compile(r"\{%[-+]?\s*generation\b")  # around an assistant's turn in a template
EXAMPLE = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
Message = dict[str, Any]


class Chat(CausalLm):
    """A list of messages a row, through the tokenizer's chat template; the loss is on the assistant's messages."""

    name = "chat"
    placeholder = ({"role": "user", "content": "nothing"},)

    def clean_texts(self, texts: pd.Series, source: str) -> pd.Series:
        """Lists of messages.

        Raises:
            InputError: a cell that is no list of messages with roles.
        """
        cells = []
        for place, cell in enumerate(texts.tolist()):
            messages = _messages(cell)
            if not messages:
                raise InputError(
                    f"{source}, row {row_number(texts, place)}: column {texts.name!r} holds no conversation of "
                    f"texts; expected a list such as {EXAMPLE}, in csv the same as JSON"
                )
            cells.append(messages)
        return pd.Series(cells, index=texts.index, name=texts.name, dtype=object)

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run.

        Raises:
            InputError: the model is no causal language model, or there is a column besides the conversations.
        """
        if columns.label is not None or columns.text_pair is not None:
            raise InputError(
                "chat reads one column of conversations, named by --text; leave out --label and --text-pair"
            )
        return super().make_task(config, columns, train, checkpoint)

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that there is a chat template.

        Raises:
            InputError: the tokenizer has none.
        """
        if tokenizer.chat_template is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruction-tuned model, or "
                "columns prompt and completion with --task causal-lm"
            )

    def encode(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
    ) -> list[dict[str, Any]]:
        """Conversations as token ids, with labels on the assistant's; one that is too long loses its end.

        Raises:
            InputError: a conversation without a turn of the assistant that fits, or a template that changes earlier
                turns when later ones come.
        """
        template, rows = training_template(tokenizer), []
        for place, messages in enumerate(table[task.columns.text].tolist()):
            where = f"{source}, row {row_number(table[task.columns.text], place)}"
            if all(message["role"] != "assistant" for message in messages):
                raise InputError(
                    f"{where}: the conversation has no turn of the assistant to learn; leave the row out"
                )
            ids, labels = _encoded(tokenizer, messages, template, where)
            ids, labels = ids[: task.max_length], labels[: task.max_length]
            if all(label == IGNORED for label in labels):
                raise InputError(
                    f"{where}: no turn of the assistant lies within the first {task.max_length} tokens; raise "
                    "--max-length or leave the row out"
                )
            rows.append({"input_ids": ids, "labels": labels})
        return rows

    def encode_prompts(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame
    ) -> list[dict[str, Any]]:
        """Conversations up to the assistant's last turn, which the model writes anew, or to their end."""
        rows, conversations = [], table[task.columns.text]
        for place, messages in enumerate(conversations.tolist()):
            asked = messages[:-1] if messages[-1]["role"] == "assistant" and len(messages) > 1 else messages
            where = f"row {row_number(conversations, place)}"
            ids = _apply(tokenizer, asked, where, add_generation_prompt=True)["input_ids"]
            rows.append({"input_ids": ids[-task.max_length :]})
        return rows

    def make_trainer(
        self, arguments: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, **parts: Any
    ) -> Trainer:
        """TRL's trainer, which gets conversations that are encoded already."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        # TRL's own defaults would checkpoint gradients and train in bfloat16, which the settings decide here.
        fixed = {"gradient_checkpointing": False, "bf16": False, "max_length": None}
        settings = SFTConfig(**{**arguments, **fixed, "dataset_kwargs": {"skip_prepare_dataset": True}})
        rows = {name: parts.pop(name) for name in ("train_dataset", "eval_dataset")}
        tables = {name: Dataset.from_list(part) if part else None for name, part in rows.items()}
        return SFTTrainer(args=settings, processing_class=tokenizer, **tables, **parts)


def training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A chat template that marks the assistant's turns: the tokenizer's own, or one of TRL's; None if neither does."""
    from trl.chat_template_utils import get_training_chat_template

    own = tokenizer.get_chat_template()  # A tokenizer may have several, by name.
    if MARKS.search(own):
        return own
    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        return None


def _encoded(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: str | None, where: str
) -> tuple[list[int], list[int]]:
    if template is not None:
        options = {"chat_template": template, "return_assistant_tokens_mask": True}
        found = _apply(tokenizer, messages, where, **options)
        ids, learned = found["input_ids"], found["assistant_masks"]
    else:
        ids, learned = _by_prefixes(tokenizer, messages, where)
    return ids, [token if mine else IGNORED for token, mine in zip(ids, learned, strict=True)]


def _by_prefixes(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], where: str
) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and which are the assistant's: those that a turn adds to the prompt before it."""
    ids = _apply(tokenizer, messages, where)["input_ids"]
    learned = [False] * len(ids)
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked: Any = {"add_generation_prompt": True}
        before = _apply(tokenizer, messages[:place], where, **asked)["input_ids"] if place else []
        upto = _apply(tokenizer, messages[: place + 1], where)["input_ids"]
        for shorter, longer in pairwise((before, upto, ids)):
            if longer[: len(shorter)] != shorter:
                raise InputError(
                    f"{where}: the chat template of {tokenizer.name_or_path} writes turn {place + 1} of the "
                    "conversation differently when others follow, so that the assistant's tokens cannot be told; use a "
                    "template with {% generation %} marks"
                )
        learned[len(before) : len(upto)] = [True] * (len(upto) - len(before))
    return ids, learned


def _apply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], where: str, **options: Any
) -> dict[str, list[int]]:
    """What `apply_chat_template` makes of a conversation, each field as a list.

    Raises:
        InputError: the template refuses the conversation.
    """
    try:
        found: Any = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=True, **options)
    except (
        Exception
    ) as error:  # A template may raise jinja2's errors for roles or turns that it does not take.
        raise InputError(
            f"{where}: the chat template of {tokenizer.name_or_path} refuses the conversation: {reason(error)}"
        ) from error
    return {name: list(values) for name, values in found.items()}


def _messages(cell: Any) -> list[Message] | None:
    """The messages of a cell; None if it is no list of messages."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    if not isinstance(cell, list | tuple | np.ndarray):
        return None
    messages = [dict(message) for message in cell if isinstance(message, Mapping)]
    if len(messages) < len(cell) or not all(isinstance(message.get("role"), str) for message in messages):
        return None
    # A column of parquet has the keys of all its messages in each, with None where a message lacks one.
    kept = [{name: value for name, value in message.items() if value is not None} for message in messages]
    contents = [_content(message) for message in kept]
    if None in contents:
        return None
    return [{**message, "content": content} for message, content in zip(kept, contents, strict=True)]


def _content(message: Message) -> str | None:
    """The text of a message; None if it has none. A message of tool calls alone has the empty text."""
    content = message.get("content", "" if "tool_calls" in message else None)
    if isinstance(content, list | tuple | np.ndarray):  # parts of a text, as OpenAI writes them
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(parts) else None
    return content if isinstance(content, str) else None
