"""The configuration of a Deep LoRA adapter."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from peft.utils.peft_types import PeftType

from corefold.adapters.card import write_card
from corefold.adapters.registry import NAME, enum_member
from corefold.core import Bases


@dataclass
class DeepLoraConfig(PeftConfig):
    """Configuration of Deep LoRA, used like `peft.LoraConfig`.

    Each targeted weight W (out x in) becomes `W + left @ core @ right.T`, with frozen bases of `width` columns read off
    the gradient and a core of rank `r` that trains: `P Q^T` (width x r each), or for `width=None` the paper's
    `W_L ... W_1 - init_scale**depth * I` (r x r each). It is W exactly until training moves the factors. Call
    `corefold.initialize_bases` after wrapping, or train with `corefold.BasesCallback`: random bases learn less.

    Args:
        r: rank of the update, as LoRA has it; a layer with a smaller side gets that side.
        width: columns of the bases; a layer with a smaller side gets that side, and one of a rank that is no less a
            square core. None: `r` in every layer.
        depth: number of core factors (L in the paper); 2 unless the core is square.
        init_scale: each factor of a square core starts at init_scale * I (epsilon in the paper, 1e-3 there; 0.1 here
            because under Adam a small start leaves the core without a gradient once the head has fitted). A narrow
            core starts at P = 0 and a random Q with orthonormal columns.
        bases: where `initialize_bases` takes the bases from: `"fisher"`, the directions in which the gradients of
            single samples have most energy (`corefold.core.MomentSketch`, `paired_bases`); `"gradient"`, the paper's,
            `"spectral"` or `"random"`, see `corefold.core.bases_from_singular_vectors`.
        basis_lr_ratio: learning rate of the bases over that of the core (gamma in the paper); 0 freezes them.
        target_modules: names of the layers, a regular expression, or "all-linear"; by default PEFT's choice for
            LoRA on the same model.
        exclude_modules: names, or a regular expression, of layers left alone.
        layers_to_transform: indices of the blocks adapted; default all.
        layers_pattern: name of the list of blocks, for models where PEFT cannot tell.
        rank_pattern: ranks for some layers, by name or regular expression, in place of r.
        modules_to_save: layers trained and saved in full, a new classifier for instance.
        trainable_token_indices: rows of the token embedding, or of several by name, trained in full and saved alone:
            for tokens added to the vocabulary.
        bias: "none", "all" or "deeplora_only": which biases train.
        fan_in_fan_out: set by wrapping; tells that some layer is transformers' Conv1D, as PEFT's LoRA must be told.
        init_weights: False starts from random factors instead of the identity; for tests.
        initialized: set by `initialize_bases`; tells that the bases came from data.
    """

    r: int = 2
    width: int | None = 112
    depth: int = 2
    init_scale: float = 0.1
    bases: Bases = "fisher"
    basis_lr_ratio: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    bias: Literal["none", "all", "deeplora_only"] = "none"
    fan_in_fan_out: bool = False
    init_weights: bool = True
    initialized: bool = False

    _warned = False  # not a field: never saved

    def __new__(cls, *args: object, **settings: object) -> Self:
        # PEFT itself drops settings that it does not know, and would load another adapter than was saved.
        if unknown := sorted({*settings} - {known.name for known in fields(cls)}):
            raise TypeError(
                f"Deep LoRA has no setting {', '.join(unknown)}; if a newer version saved this adapter, "
                "pip install --upgrade corefold peft"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._used = False
        self._given: dict[str, Any] = {}
        self.peft_type = enum_member(PeftType, NAME)
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        for name, width in {"r": self.r, **self.rank_pattern}.items():
            if width <= 0:
                raise ValueError(
                    f"`r` should be a positive integer value but the value passed is {width} (for {name!r})"
                )
        if self.width is not None and self.width <= 0:
            raise ValueError(f"width, the columns of the bases, must be at least 1 or None; got {self.width}")
        if self.width is not None and self.depth != 2:
            raise ValueError(
                f"a core in bases of a width of their own has two factors; got depth={self.depth} and "
                f"width={self.width}. For a square core of any depth give width=None"
            )
        if self.depth < 1:
            raise ValueError(f"depth is the number of core factors, at least 1; got {self.depth}")
        if not self.init_scale > 0:
            raise ValueError(
                f"init_scale must be positive: a chain of zeros never moves; got {self.init_scale}"
            )
        if self.basis_lr_ratio < 0:
            raise ValueError(
                f"basis_lr_ratio must be 0 (frozen bases) or positive; got {self.basis_lr_ratio}"
            )
        if self.bases not in get_args(Bases):
            raise ValueError(f"bases must be one of {', '.join(get_args(Bases))}; got {self.bases!r}")
        if self.bias != "none" and not hasattr(BaseTuner, "_get_learnable_bias_state_dict"):
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

    @classmethod
    def paper(cls, **settings: Any) -> Self:
        """The method as its authors run it (Yaras et al. 2024, compressed): their width, start, bases and ratio.

        They train the cores with AdamW at 1e-2 and Adam's eps 1e-6, without decay, at a constant rate.
        """
        return cls(
            **{
                "r": 8,
                "width": None,
                "depth": 3,
                "init_scale": 1e-3,
                "bases": "gradient",
                "basis_lr_ratio": 1e-2,
                **settings,
            }
        )

    def for_an_adapter(self) -> Self:
        """This configuration, as PEFT expects, for a loaded adapter and the first made of it; else a copy as given."""
        own = replace(self, **self._given) if self._used and not self.inference_mode else self
        own._used = True
        return own

    def decide(self, **values: Any) -> None:
        """Set what data or training decides; other adapters made of this configuration do not get it."""
        for name, value in values.items():
            self._given.setdefault(name, getattr(self, name))
            setattr(self, name, value)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: object) -> None:
        """Save the configuration and, beside it, a model card that says how to load the adapter."""
        _warn_of_pickle(Path(save_directory))
        super().save_pretrained(str(save_directory), **kwargs)
        write_card(save_directory, self)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, subfolder: str | None = None, **kwargs: Any
    ) -> Any:
        """As PEFT's own."""
        _warn_of_pickle(Path(pretrained_model_name_or_path, subfolder or ""))
        return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)

    def warn_if_bases_are_random(self) -> None:
        """Warn, once, that the adapter trains on random bases though bases from data were asked for."""
        if self.initialized or self._warned or self.bases == "random" or not self.init_weights:
            return
        self._warned = True
        warnings.warn(
            "this Deep LoRA adapter trains with random bases, which barely learns: call "
            "corefold.initialize_bases(model, dataloader) before training, give Trainer a "
            'corefold.BasesCallback(), or ask for them with DeepLoraConfig(bases="random")',
            stacklevel=2,
        )


def _warn_of_pickle(folder: Path) -> None:
    # PEFT writes one if asked for it (safe_serialization=False), and reads it, with torch's weights_only.
    if Path(folder, WEIGHTS_NAME).exists() and not Path(folder, SAFETENSORS_WEIGHTS_NAME).exists():
        warnings.warn(
            f"{folder} has {WEIGHTS_NAME}, a pickle; save the adapter as {SAFETENSORS_WEIGHTS_NAME}, PEFT's default, "
            "which corefold's own commands want",
            stacklevel=3,
        )
