"""A text for each text: an encoder-decoder (T5, BART) reads one and writes the other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pandas as pd
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.task import Task
from corefold.finetune.tasks.generation import GenerationKind, token_scores
from corefold.finetune.tasks.kind import first_output, settings_of_task
from corefold.finetune.tasks.text_head import require_label

FIELDS = ("input_ids", "attention_mask")  # of the encoder; some tokenizers make more


class Seq2Seq(GenerationKind):
    """The text in the label column, written by the decoder from the text column, which the encoder reads."""

    name = "seq2seq"
    padding_side: ClassVar[Literal["left", "right"]] = "right"
    shares_positions = False
    judges_texts = True

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run.

        Raises:
            InputError: no label column, a second text, or a model that is no encoder-decoder.
        """
        require_label(columns, self.name)
        if columns.text_pair is not None:
            raise InputError("seq2seq reads one text; leave out --text-pair")
        if not checkpoint.is_encoder_decoder:
            raise InputError(
                f"seq2seq needs an encoder-decoder such as T5 or BART, and {config.model} is none; a language model "
                "learns the same columns with --task causal-lm"
            )
        if getattr(AutoConfig.from_pretrained(config.model), "decoder_start_token_id", None) is None:
            raise InputError(
                f"{config.model} has no decoder_start_token_id in its config.json; add the number of the token that "
                "the decoder starts from"
            )
        return Task(kind=self.name, head="lm", **settings_of_task(config, columns))

    def model_class(self, task: Task) -> tuple[Any, dict[str, Any]]:
        """An encoder-decoder with its language model head."""
        return AutoModelForSeq2SeqLM, {}

    def peft_task_type(self, task: Task) -> str:
        """PEFT's name of the kind of task."""
        return "SEQ_2_SEQ_LM"

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that targets can end, and pad on the right, since a decoder reads its targets from their start on.

        Raises:
            InputError: the tokenizer has no token for the end of a text.
        """
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has no eos_token, at which a text that is written ends; "
                "add one to its tokenizer_config.json"
            )
        tokenizer.padding_side = "right"

    def encode(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
    ) -> list[dict[str, Any]]:
        """Texts as token ids of the encoder, and targets as labels; the model makes the decoder's inputs of them."""
        rows = self.encode_prompts(task, tokenizer, table)
        if task.columns.label in table.columns:
            for row, target in zip(rows, table[task.columns.label], strict=True):
                ids = tokenizer(text_target=target, truncation=True, max_length=task.max_length).input_ids
                if ids[-1:] != [tokenizer.eos_token_id]:
                    ids = [*ids[: task.max_length - 1], tokenizer.eos_token_id]
                row["labels"] = ids
        return rows

    def encode_prompts(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame
    ) -> list[dict[str, Any]]:
        """The texts that the encoder reads; one that is too long loses its end."""
        batch = tokenizer(table[task.columns.text].tolist(), truncation=True, max_length=task.max_length)
        return [{name: batch[name][row] for name in FIELDS} for row in range(len(table))]

    def new_tokens(self, written: Tensor, batch: dict[str, Any]) -> Tensor:
        """All of them: a decoder does not repeat what the encoder reads."""
        return written

    def kept_outputs(self, outputs: Any, labels: Tensor) -> Tensor:
        """Scores of the tokens: the decoder's inputs are the labels, shifted by one place."""
        return token_scores(first_output(outputs), labels)
