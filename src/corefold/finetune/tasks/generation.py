"""Tasks whose answer is a text: scores of tokens, and prompts that a model continues."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from corefold.finetune.encoding import IGNORED
from corefold.finetune.evaluation.intervals import Intervals, bootstrap_intervals, row_weights
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import TaskKind
from corefold.tables.columns import require_scalars, text_cells


class GenerationKind(TaskKind):
    """A kind of task whose answer is a text; kept outputs and labels are (rows, tokens, 2) and (rows, tokens).

    Attributes:
        padding_side: where batches are padded while the model writes.
        shares_positions: whether an answer stands behind its prompt, in the same table of positions.
        judges_texts: whether `evaluate` lets the model write, and scores the texts too.
    """

    main_score = "perplexity"
    lower_is_better = True
    padding_side: ClassVar[Literal["left", "right"]] = "left"
    shares_positions: ClassVar[bool] = True
    judges_texts: ClassVar[bool] = False

    @abstractmethod
    def encode_prompts(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame
    ) -> list[dict[str, Any]]:
        """The inputs that the model continues or answers."""

    @abstractmethod
    def new_tokens(self, written: Tensor, batch: dict[str, Any]) -> Tensor:
        """The part of the tokens from `generate` that is the answer."""

    def clean_labels(self, labels: pd.Series, source: str) -> pd.Series:
        """Texts."""
        require_scalars(labels, source)
        return text_cells(labels, source)

    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Mean loss a token (nats), perplexity and token accuracy, from `token_scores`."""
        kept = labels != IGNORED
        loss, hit = (outputs[..., part][kept].mean(dtype=np.float64) for part in (0, 1))
        return {"token_loss": float(loss), "perplexity": float(np.exp(loss)), "token_accuracy": float(hit)}

    def intervals(self, task: Task, outputs: np.ndarray, labels: np.ndarray, seed: int) -> Intervals:
        """The bootstrap's intervals over rows: the tokens of a row are drawn together."""
        kept = labels != IGNORED
        loss, hits = (np.where(kept, outputs[..., part], 0).sum(1, dtype=float) for part in (0, 1))
        tokens = kept.sum(1)

        def resampled(places: np.ndarray) -> dict[str, np.ndarray]:
            weights = row_weights(places)
            mean = weights @ loss / (weights @ tokens)
            return {
                "token_loss": mean,
                "perplexity": np.exp(mean),
                "token_accuracy": weights @ hits / (weights @ tokens),
            }

        return bootstrap_intervals(len(labels), resampled, seed)

    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """Texts have none."""
        return {}


def token_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """For each token its loss and whether it was the likeliest, (rows, tokens, 2); any number where a label is IGNORED.

    Trainer keeps these numbers instead of the logits, which hold one number for each word of the vocabulary.

    Args:
        logits: (rows, tokens, words), of the same places as the labels.
        labels: (rows, tokens).
    """
    targets = labels.clamp(min=0)
    log_p = logits.float().log_softmax(-1)
    loss = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    hit = (log_p.argmax(-1) == targets).float()
    return torch.stack([loss, hit], -1)


def text_scores(written: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """The share of texts that are right to the letter, and the mean F1 of their words (SQuAD's, Rajpurkar et al. 2016).

    Blanks around texts do not count; the F1 takes words between blanks, in any order, upper case as lower case.
    """
    pairs = [(a.strip(), b.strip()) for a, b in zip(written, true, strict=True)]
    return {
        "exact_match": sum(a == b for a, b in pairs) / len(pairs),
        "word_f1": sum(_word_f1(a.lower().split(), b.lower().split()) for a, b in pairs) / len(pairs),
    }


def _word_f1(a: list[str], b: list[str]) -> float:
    if not a and not b:
        return 1.0
    return 2 * sum((Counter(a) & Counter(b)).values()) / (len(a) + len(b))
