"""What a checkpoint's files say about it, before its weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from corefold.errors import InputError, reason
from corefold.finetune.positions import checkpoint_positions

POOLING = "1_Pooling/config.json"
# sentence-transformers' modes of pooling, by the names that its older files have for them.
OLDER_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
USED_MODULES = ("Transformer", "Pooling", "Normalize")  # Each cosine is of normalized embeddings anyway.


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder, a .gguf file or on the hub, by its config.json.

    Attributes:
        model: the folder, file or name.
        config: the content of config.json, empty where there is none (gguf).
        revision: branch, tag or commit on the hub.
    """

    model: str
    config: Mapping[str, Any]
    revision: str | None = None

    @classmethod
    def read(cls, model: str, revision: str | None = None) -> Checkpoint:
        """Read config.json of a model.

        Raises:
            InputError: no such model, an adapter or a run in its place, or the file is no JSON.
        """
        _refuse_adapter(model)
        return cls(model, cls(model, {}, revision)._json("config.json") or {}, revision)

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
        return any(checkpoint_file(self.model, name, self.revision) for name in ("modules.json", POOLING))

    @property
    def pooling(self) -> str:
        """How sentence-transformers pools its tokens; "mean" where its files do not say, or join several modes."""
        settings: Any = self._json(POOLING) or {}
        modes = settings.get("pooling_mode") or [
            mode for name, mode in OLDER_POOLING.items() if settings.get(name) is True
        ]
        modes = [modes] if isinstance(modes, str) else modes
        return modes[0] if len(modes) == 1 and modes[0] in OLDER_POOLING.values() else "mean"

    @property
    def unused_modules(self) -> list[str]:
        """The modules of sentence-transformers that follow its pooling and are not read."""
        kinds = [
            str(module.get("type", "")).rpartition(".")[2] for module in self._json("modules.json") or []
        ]
        return [kind for kind in kinds if kind not in USED_MODULES]

    def _json(self, name: str) -> Any:
        path = checkpoint_file(self.model, name, self.revision)
        if path is None:
            return None
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"the model {self.model} cannot be loaded: {path} is not JSON") from error

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
        """The most tokens that the model has positions for and that its tokenizer makes."""
        most = checkpoint_positions(self.model, self.revision).most
        return min(most or tokenizer.model_max_length, tokenizer.model_max_length)


def checkpoint_file(model: str, name: str, revision: str | None = None) -> str | None:
    """The path of a file of a checkpoint, fetched from the hub if need be; None where it has no such file."""
    if Path(model).suffix == ".gguf":
        return None
    try:
        return cached_file(
            model,
            name,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise InputError(f"the model {model} cannot be loaded: {reason(error)}") from error


def _refuse_adapter(model: str) -> None:
    """Raise InputError for the folder of an adapter, whose base transformers would load with the adapter inside it."""
    folder = Path(model)
    if (folder / "task.json").exists() and (folder / "adapter_config.json").exists():
        raise InputError(
            f"{model} is the folder of a run, not a model; train its adapter on with --from {model}, or fold it into "
            f"its base first: corefold merge {model} -o MERGED, then --model MERGED"
        )
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{model} is the folder of an adapter, not a model; name its base model, or fold the adapter into it first "
            "(merge_and_unload of PEFT)"
        )
