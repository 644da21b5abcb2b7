"""What a checkpoint's files say about it, before its weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from corefold.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder, a .gguf file or on the hub, by its config.json.

    Attributes:
        model: the folder, file or name.
        config: the content of config.json, empty where there is none (gguf).
    """

    model: str
    config: Mapping[str, Any]

    @classmethod
    def read(cls, model: str) -> Checkpoint:
        """Read config.json of a model.

        Raises:
            InputError: no such model, or the file is no JSON.
        """
        path = checkpoint_file(model, "config.json")
        if path is None:
            return cls(model, {})
        try:
            return cls(model, json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"the model {model} cannot be loaded: {path} is not JSON") from error

    @property
    def architectures(self) -> str:
        """The names of the classes that it was saved from, with blanks between them."""
        return " ".join(self.config.get("architectures") or [])

    @property
    def is_language_model(self) -> bool:
        """Whether it is a causal language model."""
        is_gguf = self.model.endswith(".gguf")
        return is_gguf or "ForCausalLM" in self.architectures or "LMHeadModel" in self.architectures

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it is a sequence-to-sequence model."""
        return bool(self.config.get("is_encoder_decoder"))

    @property
    def is_sentence_encoder(self) -> bool:
        """Whether it has the files of a sentence-transformers model."""
        names = ("modules.json", "1_Pooling/config.json")
        return any(checkpoint_file(self.model, name) for name in names)

    @property
    def has_classifier(self) -> bool:
        """Whether it was saved with a sequence classification head."""
        return "ForSequenceClassification" in self.architectures

    @property
    def outputs(self) -> list[str]:
        """The names of its head's outputs, in their order."""
        names: Mapping[str, str] = self.config.get("id2label") or {"0": ""}
        return [str(name) for _, name in sorted(names.items(), key=lambda pair: int(pair[0]))]

    def longest_input(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The most tokens that the model has positions for."""
        positions = self.config.get("max_position_embeddings") or tokenizer.model_max_length
        return min(positions, tokenizer.model_max_length)


def checkpoint_file(model: str, name: str) -> str | None:
    """The path of a file of a checkpoint, fetched from the hub if need be; None where it has no such file."""
    if Path(model).suffix == ".gguf":
        return None
    try:
        return cached_file(
            model,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise InputError(
            f"the model {model} cannot be loaded: {str(error).strip().splitlines()[0]}"
        ) from error
