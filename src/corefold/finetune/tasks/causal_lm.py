"""A text to continue: a causal language model learns whole texts, or completions of prompts."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.encoding import IGNORED
from corefold.finetune.evaluation.intervals import Intervals
from corefold.finetune.task import Task
from corefold.finetune.tasks.generation import GenerationKind, token_scores
from corefold.finetune.tasks.kind import first_output, settings_of_task


class CausalLm(GenerationKind):
    """Whole texts where there is no label column; otherwise the completions in it, with no loss on the prompts."""

    name = "causal-lm"

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run.

        Raises:
            InputError: the model is no causal language model.
        """
        if checkpoint.architectures and not checkpoint.is_language_model:
            other = "for texts add --task seq2seq, " if checkpoint.is_encoder_decoder else ""
            raise InputError(
                f"{self.name} needs a causal language model and {config.model} is a "
                f"{checkpoint.architectures.partition(' ')[0]}; {other}for classes or numbers --task classification or "
                "regression"
            )
        return Task(kind=self.name, head="lm", **settings_of_task(config, columns))

    def model_class(self, task: Task) -> tuple[Any, dict[str, Any]]:
        """A causal language model."""
        return AutoModelForCausalLM, {}

    def peft_task_type(self, task: Task) -> str:
        """PEFT's name of the kind of task."""
        return "CAUSAL_LM"

    def encode(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
    ) -> list[dict[str, Any]]:
        """Texts, or prompts and completions, as token ids and labels."""
        first = table[task.columns.text].tolist()
        if task.columns.label is None:
            return [_encode_text(task, tokenizer, text) for text in first]
        completions = table[task.columns.label].tolist()
        return [_encode_completion(task, tokenizer, *row) for row in zip(first, completions, strict=True)]

    def encode_prompts(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame
    ) -> list[dict[str, Any]]:
        """The prompts that a causal language model continues; a prompt that is too long loses its beginning."""
        separator = task.separator if task.columns.label is not None else ""
        texts = table[task.columns.text].tolist()
        return [{"input_ids": tokenizer(text + separator).input_ids[-task.max_length :]} for text in texts]

    def new_tokens(self, written: Tensor, batch: dict[str, Any]) -> Tensor:
        """The tokens behind the prompts, which are padded on the left."""
        return written[:, batch["input_ids"].shape[1] :]

    def kept_outputs(self, outputs: Any, labels: Tensor) -> Tensor:
        """Scores of the tokens, each from the place before it; the first has none."""
        scores = token_scores(first_output(outputs)[:, :-1], labels[:, 1:])
        return torch.nn.functional.pad(scores, (0, 0, 1, 0))

    def scores(self, task: Task, outputs: Any, labels: Any) -> dict[str, float]:
        """The scores of all tokens but the first of each row."""
        return super().scores(task, outputs[:, 1:], labels[:, 1:])

    def intervals(self, task: Task, outputs: Any, labels: Any, seed: int) -> Intervals:
        """Intervals of the scores of all tokens but the first of each row."""
        return super().intervals(task, outputs[:, 1:], labels[:, 1:], seed)


def _encode_text(task: Task, tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, Any]:
    ids = tokenizer(text + str(tokenizer.eos_token or "")).input_ids[: task.max_length]
    return {"input_ids": ids, "labels": list(ids)}


def _encode_completion(
    task: Task, tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str
) -> dict[str, Any]:
    """Labels are IGNORED on the prompt. A prompt that is too long loses its beginning, a completion its end."""
    before = tokenizer(prompt + task.separator).input_ids
    end = str(tokenizer.eos_token or "")
    after = tokenizer(completion + end, add_special_tokens=False).input_ids[: task.max_length]
    before = before[max(0, len(before) + len(after) - task.max_length) :]
    return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}
