"""The common part of all methods' configurations."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from torch import Tensor

from corefold.adapters.host.internals import peft_type, saves_biases
from corefold.adapters.host.model_card import write_card
from corefold.core import Update


@dataclass(frozen=True)
class SavedUpdate:
    """A layer's update as a saved adapter holds it.

    Attributes:
        update: the update, (out, in).
        kernel: size of a convolution's kernel; () for other layers. `in` counts channels times kernel.
        embedding: whether the layer is an embedding: its table is the update transposed.
    """

    update: Update
    kernel: tuple[int, ...] = ()
    embedding: bool = False


@dataclass
class AdapterConfig(PeftConfig):
    """The settings that every method has, as `peft.LoraConfig` has them.

    A method sets `method` (the name by which PEFT knows it, in lower case) and `title`, and adds settings of its own.
    The tuner copies the configuration for each adapter, so that what data or wrapping decides (a rank pattern, for
    instance) is written into that adapter's copy and never into the object that the user made.

    Args:
        r: rank of the update.
        target_modules: names of the layers, a regular expression, or "all-linear"; by default PEFT's choice for
            LoRA on the same model.
        exclude_modules: names, or a regular expression, of layers left alone.
        layers_to_transform: indices of the blocks adapted; default all.
        layers_pattern: name of the list of blocks, for models where PEFT cannot tell.
        rank_pattern: ranks for some layers, by name or regular expression, in place of r.
        modules_to_save: layers trained and saved in full, a new classifier for instance.
        trainable_token_indices: rows of the token embedding, or of several by name, trained in full and saved alone:
            for tokens added to the vocabulary.
        bias: "none", "all" or METHOD_only: which biases train.
        fan_in_fan_out: set by wrapping; tells that some layer is transformers' Conv1D, as PEFT's LoRA must be told.
        init_weights: False starts from random factors instead of a zero update; for tests.
    """

    method: ClassVar[str] = ""
    title: ClassVar[str] = ""

    r: int = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    bias: str = "none"
    fan_in_fan_out: bool = False
    init_weights: bool = True

    def __new__(cls, *args: object, **settings: object) -> Self:
        # PEFT itself drops settings that it does not know, and would load another adapter than was saved.
        if unknown := sorted({*settings} - {known.name for known in fields(cls)}):
            raise TypeError(
                f"{cls.title} has no setting {', '.join(unknown)}; if a newer version saved this adapter, "
                "pip install --upgrade corefold peft"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type(self.method)
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            if rank <= 0:
                raise ValueError(
                    f"`r` should be a positive integer value but the value passed is {rank} (for {name!r})"
                )
        choices = ("none", "all", f"{self.method}_only")
        if self.bias not in choices:
            raise ValueError(f"bias must be one of {', '.join(choices)}; got {self.bias!r}")
        if self.bias != "none" and not saves_biases():
            raise ValueError(
                f"PEFT 0.20 does not save trained biases (bias={self.bias!r}); upgrade PEFT to 0.21"
            )
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("`layers_to_transform` cannot be used when `target_modules` is a str.")
        if isinstance(self.target_modules, str) and self.layers_pattern is not None:
            raise ValueError("`layers_pattern` cannot be used when `target_modules` is a str.")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(
                "When `layers_pattern` is specified, `layers_to_transform` must also be specified."
            )

    def description(self) -> str:
        """The settings that tell two adapters of this method apart, in a few words, for the model card."""
        return f"rank {self.r}"

    def saved_updates(self, state: Mapping[str, Tensor]) -> dict[str, SavedUpdate]:
        """The update of each layer of a saved adapter, by module name, from the state dict that PEFT saves.

        Raises:
            ValueError: no layer, a missing tensor or shapes that do not fit together (the tensor is named), or a method
                whose updates a plain LoRA cannot hold.
        """
        raise ValueError(f"{self.title} has no plain LoRA that equals it; merge the adapter instead")

    def warn_before_training(self) -> None:
        """Called when a layer with this adapter runs in training: the place to warn of a start that learns nothing."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: object) -> None:
        """Save the configuration and, beside it, a model card that says how to load the adapter."""
        _warn_of_pickle(Path(save_directory))
        super().save_pretrained(str(save_directory), **kwargs)
        import_line = f"import corefold  # makes {self.title} known to PEFT\n"
        write_card(save_directory, self, self.title, _how_to_load(self), preamble=import_line)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, subfolder: str | None = None, **kwargs: Any
    ) -> Any:
        """As PEFT's own."""
        _warn_of_pickle(Path(pretrained_model_name_or_path, subfolder or ""))
        return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)


def _how_to_load(config: AdapterConfig) -> str:
    return (
        f"{config.title}, {config.description()}.\n"
        f"`import corefold` must run before loading; without it PEFT stops at `KeyError: '{config.method.upper()}'`. "
        'For\ntools that do not know corefold, write a plain LoRA with `corefold.export_lora(model, "out-lora")`.'
    )


def _warn_of_pickle(folder: Path) -> None:
    # PEFT writes one if asked for it (safe_serialization=False), and reads it, with torch's weights_only.
    if Path(folder, WEIGHTS_NAME).exists() and not Path(folder, SAFETENSORS_WEIGHTS_NAME).exists():
        warnings.warn(
            f"{folder} has {WEIGHTS_NAME}, a pickle; save the adapter as {SAFETENSORS_WEIGHTS_NAME}, PEFT's default, "
            "which corefold's own commands want",
            stacklevel=3,
        )
