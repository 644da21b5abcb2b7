"""Every kind of task by its name, and the choice among them: `corefold.finetune.config` has the list of names."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig, TaskName
from corefold.finetune.data import CHAT, MATCHES, Columns, choose_task
from corefold.finetune.task import Task
from corefold.finetune.tasks.causal_lm import CausalLm
from corefold.finetune.tasks.chat import Chat
from corefold.finetune.tasks.classification import Classification
from corefold.finetune.tasks.embedding import Embedding
from corefold.finetune.tasks.generation import GenerationKind
from corefold.finetune.tasks.kind import OutputKind
from corefold.finetune.tasks.multi_label import MultiLabel
from corefold.finetune.tasks.regression import Regression
from corefold.finetune.tasks.seq2seq import Seq2Seq
from corefold.finetune.tasks.token_classification import TokenClassification
from corefold.tables.lists import holds_lists, holds_messages

Kind = OutputKind | GenerationKind
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Classification(),
        MultiLabel(),
        TokenClassification(),
        Regression(),
        CausalLm(),
        Chat(),
        Seq2Seq(),
        Embedding(),
    )
}


def kind_of(task: Task) -> Kind:
    """The kind of a task."""
    return KINDS[task.kind]


def choose_kind(
    config: RunConfig, table: pd.DataFrame, columns: Columns, notes: list[str] | None = None
) -> TaskName:
    """The kind that the settings name, or the one that model, columns and labels suggest; `notes` gets a guess.

    Raises:
        InputError: no column of labels, or one whose cells suggest nothing.
    """
    if config.task is None and config.text is None and columns.text_pair == MATCHES.text_pair:
        return _noted(
            notes, "embedding", f"{columns.text_pair!r} holds the texts that match {columns.text!r}"
        )
    if (
        config.task is None
        and columns.label is None
        and (columns.text == CHAT or holds_lists(table[columns.text]))
    ):
        return _noted(notes, "chat", f"{columns.text!r} holds lists of messages")
    if config.task is None and columns.label is not None and holds_messages(table[columns.text]):
        raise InputError(
            f"{config.train}: column {columns.text!r} holds lists of messages; chat learns whole conversations from "
            "one column, so join prompt and answer in it and leave out --label"
        )
    if config.task is None and columns.label is not None and holds_lists(table[columns.label]):
        if holds_lists(table[columns.text]):
            return _noted(notes, "token-classification", f"{columns.text!r} holds lists of words")
        return _noted(notes, "multi-label", f"{columns.label!r} holds lists of labels")
    found: list[str] = []
    kind = choose_task(
        config,
        table,
        columns,
        lambda: Checkpoint.read(config.model, config.revision).is_language_model,
        found,
    )
    guessed_text = config.task is None and kind == "causal-lm" and config.model
    if guessed_text and Checkpoint.read(config.model, config.revision).is_encoder_decoder:
        return _noted(notes, "seq2seq", f"an encoder-decoder writes the texts in {columns.label!r}")
    if notes is not None:
        notes += found
    return kind


def _noted(notes: list[str] | None, kind: TaskName, reason: str) -> TaskName:
    if notes is not None:
        notes.append(f"task {kind}: {reason}; --task changes that")
    return kind


def make_task(config: RunConfig, kind: TaskName, columns: Columns, train: pd.DataFrame) -> Task:
    """The task of a run; the checkpoint and the training rows decide what the settings leave open.

    Args:
        config: the settings.
        kind: the name of the kind of task.
        columns: the columns of the tables that are read.
        train: all training rows, cleaned; they say which classes there are and the range of numbers.

    Raises:
        InputError: model, settings and rows do not make such a task.
    """
    checkpoint = Checkpoint.read(config.model, config.revision)
    task = KINDS[kind].make_task(config, columns, train, checkpoint)
    return replace(task, pooling=checkpoint.pooling) if task.head in ("mean", "cosine") else task


def comes_whole(task: Task) -> bool:
    """Whether the checkpoint can do the task without training: it needs no head, or was saved with one."""
    if task.head in ("cosine", "lm"):
        return True
    checkpoint = Checkpoint.read(task.model, task.revision)
    return task.head == "own" and kind_of(task).head_architecture in checkpoint.architectures
