"""The number of tokens that a model has positions for, read from its own tables."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

TABLE = re.compile(
    r"wpe|position(s?)_embed(ding)?s?|embed_positions?"
)  # names that architectures give such tables


def table_positions(model: nn.Module) -> int | None:
    """The tokens for which a model's tables of absolute positions have rows; None where it has no such table.

    Some tables begin with rows that no token uses: RoBERTa counts from the row after the padding token's, OPT and BART
    from the third.
    """
    counts = [
        table.num_embeddings - (getattr(table, "offset", 0) or 0) - _rows_up_to_padding(table)
        for table in _tables(model)
    ]
    return min(counts, default=None)


def _tables(model: nn.Module) -> list[nn.Embedding]:
    return [
        table
        for name, table in model.named_modules()
        if isinstance(table, nn.Embedding) and TABLE.fullmatch(name.rpartition(".")[2])
    ]


def _padding_of_tables(model: nn.Module) -> int | None:
    """The token after whose number a table of positions begins; None where it begins with the first row."""
    tokens = (table.padding_idx for table in _tables(model))
    return next((token for token in tokens if token is not None), None)


def _rows_up_to_padding(table: nn.Embedding) -> int:
    return 0 if table.padding_idx is None else table.padding_idx + 1


@dataclass(frozen=True)
class Positions:
    """The tokens that a checkpoint takes.

    Attributes:
        table: rows of its table of absolute positions that tokens use; None where it has no table.
        counted_from: the number of the padding token, where the table begins behind the row of that number.
        configured: `max_position_embeddings` of its configuration, which transformers maps GPT-2's `n_positions` to.
    """

    table: int | None = None
    counted_from: int | None = None
    configured: int | None = None

    @property
    def most(self) -> int | None:
        """The most tokens of an input; None where nothing says."""
        return min((count for count in (self.table, self.configured) if count), default=None)


@lru_cache(maxsize=64)
def checkpoint_positions(model: str, revision: str | None = None) -> Positions:
    """The positions of a checkpoint, which is laid out without memory for its weights.

    Nothing is known of a gguf file, and of a checkpoint that transformers cannot lay out without running its code.
    """
    if model.endswith(".gguf"):
        return Positions()
    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layout = AutoModel.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        return Positions()
    configured = getattr(config, "max_position_embeddings", None)
    return Positions(
        table_positions(layout),
        _padding_of_tables(layout),
        configured if isinstance(configured, int) and configured > 0 else None,
    )
