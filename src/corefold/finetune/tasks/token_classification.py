"""A tag for each word of a text: names, places, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.encoding import IGNORED
from corefold.finetune.task import Task
from corefold.finetune.tasks.classification import class_names, in_order_of_head, names_of_outputs
from corefold.finetune.tasks.kind import OutputKind, first_output, settings_of_task
from corefold.finetune.tasks.text_head import require_label
from corefold.tables.columns import row_number
from corefold.tables.lists import list_cells

OUTSIDE = "O"  # the tag of a word that belongs to no entity
ENTITY_MARKS = ("B-", "I-", "E-", "S-", "L-", "U-")  # of IOB, BIOES and BILOU
AS_BIOES = {"L-": "E-", "U-": "S-"}  # seqeval tells entities apart by the marks of BIOES, not by BILOU's
NO_TYPE = "_"  # seqeval's name of the type of a tag that is a mark alone
OVERLAP_SHARE = 0.25  # of a window, which repeats words of the one before as context


class TokenClassification(OutputKind):
    """A tag for each word; kept outputs and labels are (windows, tokens), with a number at the first token of a word.

    A text that is longer than the longest input is read in windows that overlap, so that each word gets a tag.
    """

    name = "token-classification"
    main_score = "f1"
    placeholder = ("nothing",)
    head_architecture = "ForTokenClassification"

    def clean(self, table: pd.DataFrame, columns: Columns, source: str) -> pd.DataFrame:
        """Words and tags as tuples.

        Raises:
            InputError: a cell that is no list, a text without words, or another number of tags than of words.
        """
        if columns.text_pair is not None:
            raise InputError("token-classification reads one list of words; leave out --text-pair")
        cleaned = super().clean(table, columns, source)
        words = cleaned[columns.text]
        tags = words if columns.label is None else cleaned[columns.label]
        for place, (row, its_tags) in enumerate(zip(words, tags, strict=True)):
            if len(row) != len(its_tags) or not row:
                raise InputError(
                    f"{source}, row {row_number(words, place)}: {len(row)} words in {columns.text!r} and "
                    f"{len(its_tags)} tags in {columns.label!r}; expected a tag for each of one or more words"
                    if row
                    else f"{source}, row {row_number(words, place)}: no words in {columns.text!r}"
                )
        return cleaned

    def clean_texts(self, texts: pd.Series, source: str) -> pd.Series:
        """Tuples of words."""
        return list_cells(texts, source, '["Ada", "writes"]')

    def clean_labels(self, labels: pd.Series, source: str) -> pd.Series:
        """Tuples of tags."""
        return list_cells(labels, source, '["B-person", "O"]')

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run.

        Raises:
            InputError: no label column, fewer than two tags, or a head on mean-pooled tokens.
        """
        tags = train[require_label(columns, self.name)]
        if config.head == "mean":
            raise InputError("token-classification needs a head on each token; leave out --head mean")
        classes = class_names(pd.Series([*chain.from_iterable(tags)], dtype=object), config.train)
        return Task(
            kind=self.name,
            head="own",
            classes=in_order_of_head(classes, checkpoint),
            **settings_of_task(config, columns),
        )

    def model_class(self, task: Task) -> tuple[Any, dict[str, Any]]:
        """A model with a head on each token."""
        settings = {"num_labels": task.outputs, "ignore_mismatched_sizes": True, **names_of_outputs(task)}
        return AutoModelForTokenClassification, settings

    def peft_task_type(self, task: Task) -> str:
        """PEFT's name of the kind of task."""
        return "TOKEN_CLS"

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let a tokenizer that tells words apart by their blanks put one before each word.

        Raises:
            InputError: a tokenizer that does not know the words of its tokens.
        """
        if not tokenizer.is_fast:
            raise InputError(
                f"token-classification needs to know the word of each token, which the tokenizer of "
                f"{tokenizer.name_or_path} does not; use a model with a fast tokenizer (tokenizer.json)"
            )
        backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        splitters = backend.pre_tokenizer
        for splitter in splitters if isinstance(splitters, pre_tokenizers.Sequence) else [splitters]:
            if isinstance(splitter, pre_tokenizers.ByteLevel):
                splitter.add_prefix_space = True
                # Some classes of transformers make the splitter anew when the tokenizer is loaded, from this setting.
                tokenizer.init_kwargs["add_prefix_space"] = True

    def encode(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
    ) -> list[dict[str, Any]]:
        """Windows of words as token ids, with a label at the first token of each word that no window before has.

        Without tags each label is 0: it marks the places of the answers.
        """
        index = {name: i for i, name in enumerate(task.classes)}
        words, rows = table[task.columns.text], []
        tags = table[task.columns.label] if task.columns.label in table.columns else None
        for place, row in enumerate(words):
            names = [] if tags is None else tags.iloc[place]
            if unseen := [name for name in names if name not in index]:
                raise InputError(
                    f"{source}, row {row_number(words, place)}: tag {unseen[0]!r} never occurs in the training data"
                )
            targets = [0] * len(row) if tags is None else [index[name] for name in names]
            rows += _windows(tokenizer, row, targets, task.max_length)
        return rows

    def kept_outputs(self, outputs: Any, labels: Tensor) -> Tensor:
        """The number of the likeliest tag at the places that have a label, IGNORED elsewhere."""
        best = first_output(outputs).argmax(-1)
        return torch.where(labels == IGNORED, IGNORED, best)

    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Precision, recall and F1 of whole entities, by seqeval, and the share of words with the right tag.

        Where the tags mark no entities, as parts of speech, the three are means over tags (macro).
        """
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support

        true, predicted = _entity_tags(task, labels, labels), _entity_tags(task, outputs, labels)
        flat = [*chain.from_iterable(true)], [*chain.from_iterable(predicted)]
        if _marks_entities(task):
            from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as entity_scores

            found: Any = entity_scores(true, predicted, average="micro", zero_division=0)  # type: ignore[arg-type]
        else:
            found = precision_recall_fscore_support(*flat, average="macro", zero_division=0)  # type: ignore[arg-type]
        named = dict(zip(("precision", "recall", "f1"), map(float, found[:3]), strict=True))
        return named | {"accuracy": float(accuracy_score(*flat))}

    def report(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Precision, recall, F1 and number of the entities of each type; nothing where the tags mark none."""
        if not _marks_entities(task):
            return {}
        from seqeval.metrics import classification_report

        true, predicted = _entity_tags(task, labels, labels), _entity_tags(task, outputs, labels)
        found: Any = classification_report(true, predicted, output_dict=True, zero_division=0)  # type: ignore[arg-type]
        keys = {"precision": "precision", "recall": "recall", "f1": "f1-score", "rows": "support"}
        return {
            "classes": [
                {
                    "class": name,
                    **{ours: float(found.get(name, {}).get(key, 0)) for ours, key in keys.items()},
                }
                | {"rows": int(found.get(name, {}).get("support", 0))}
                for name in _entity_types(task)
            ]
        }

    def class_rows(self, task: Task, labels: Sequence[Any]) -> dict[str, int]:
        """The number of entities of each type."""
        if not _marks_entities(task):
            return {}
        from seqeval.metrics.sequence_labeling import get_entities

        counts = dict.fromkeys(_entity_types(task), 0)
        for row in labels:
            numbers = np.asarray(row)[None]
            for name, _, _ in get_entities(_entity_tags(task, numbers, numbers)[0]):
                counts[name] += 1
        return counts

    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """The scores of the most frequent tag for every word."""
        train, held_out = (
            np.concatenate([np.asarray(row) for row in part]) for part in (train_labels, eval_labels)
        )
        majority = np.bincount(train[train != IGNORED]).argmax()
        labels = held_out[held_out != IGNORED][None]
        return self.scores(task, np.full_like(labels, majority), labels)

    def predictions(self, task: Task, outputs: np.ndarray) -> dict[str, Sequence[Any]]:
        """The tags of each window."""
        return {"prediction": _names(task, outputs, outputs)}

    def predictions_of(
        self, task: Task, table: pd.DataFrame, outputs: np.ndarray
    ) -> dict[str, Sequence[Any]]:
        """The tags of each text, one a word: every word has one place in all windows, in the order of the words."""
        tags = iter(task.classes[int(number)] for number in outputs[outputs != IGNORED])
        return {"prediction": [[next(tags) for _ in row] for row in table[task.columns.text]]}


def _windows(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], targets: Sequence[int], longest: int
) -> list[dict[str, Any]]:
    free = longest - tokenizer.num_special_tokens_to_add()

    def split(row: Sequence[str]) -> Any:
        return tokenizer(
            [*row],
            is_split_into_words=True,
            truncation=True,
            max_length=longest,
            stride=int(OVERLAP_SHARE * free),
            return_overflowing_tokens=True,
        )

    batch = split(words)
    count = len(batch["input_ids"])
    seen: set[int | None] = {word for window in range(count) for word in batch.word_ids(window)}
    if silent := {*range(len(words))} - seen:
        # A word without any token, such as a control character, still needs a place for its tag.
        unknown = str(tokenizer.unk_token or "?")
        batch = split([unknown if place in silent else word for place, word in enumerate(words)])
        count = len(batch["input_ids"])
    rows: list[dict[str, Any]] = []
    done: set[int | None] = {None}
    for window in range(count):
        labels = []
        for word in batch.word_ids(window):
            labels.append(IGNORED if word in done else targets[word])
            done.add(word)
        fields = {name: batch[name][window] for name in tokenizer.model_input_names if name in batch}
        rows.append({**fields, "labels": labels})
    return rows


def _names(task: Task, numbers: np.ndarray, labels: np.ndarray) -> list[list[str]]:
    """The tags at the places that have a label, a list for each window."""
    return [
        [task.classes[int(number)] for number in row[places]]
        for row, places in zip(numbers, labels != IGNORED, strict=True)
    ]


def _entity_tags(task: Task, numbers: np.ndarray, labels: np.ndarray) -> list[list[str]]:
    """The tags as seqeval reads entities in them: the last word of an entity and one of a single word as in BIOES."""
    marks = AS_BIOES if _marks_entities(task) else {}
    return [[marks.get(tag[:2], tag[:2]) + tag[2:] for tag in tags] for tags in _names(task, numbers, labels)]


def _entity_types(task: Task) -> list[str]:
    return sorted({name.partition("-")[2] or NO_TYPE for name in task.classes if name != OUTSIDE})


def _marks_entities(task: Task) -> bool:
    return all(name == OUTSIDE or name.startswith(ENTITY_MARKS) for name in task.classes)
