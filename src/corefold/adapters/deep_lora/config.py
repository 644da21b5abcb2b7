"""The configuration of a Deep LoRA adapter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

from torch import Tensor

from corefold.adapters.deep_lora.recipe import SHORT_RUN_RANK, SHORT_RUN_WIDTH
from corefold.adapters.deep_lora.saved import saved_updates
from corefold.adapters.host.config import AdapterConfig, SavedUpdate
from corefold.core import Bases


@dataclass
class DeepLoraConfig(AdapterConfig):
    """Configuration of Deep LoRA, used like `peft.LoraConfig`.

    Each targeted weight W (out x in) becomes `W + left @ core @ right.T`, with frozen bases of `width` columns read off
    the gradient and a core of rank `r` that trains: `P Q^T` (width x r each), or for `width=None` the paper's
    `W_L ... W_1 - init_scale**depth * I` (r x r each). It is W exactly until training moves the factors. Call
    `corefold.initialize_bases` after wrapping, or train with `corefold.BasesCallback`: random bases learn less.
    `corefold.recipe` chooses `r`, `width` and the rates for a number of rows and steps.

    Args:
        r: rank of the update, as LoRA has it; a layer with a smaller side gets that side.
        width: columns of the bases, at least the rank; a layer with a smaller side gets that side, and its core is
            square if its rank is no less. None: `r` in every layer, so that all cores are square.
        depth: number of core factors (L in the paper); 2 unless the core is square.
        init_scale: each factor of a square core starts at init_scale * I (epsilon in the paper, 1e-3 there; 0.1 here
            because under Adam a small start leaves the core without a gradient once the head has fitted). A pair core
            starts at P = 0 and a random Q with orthonormal columns.
        bases: where `initialize_bases` takes the bases from: `"fisher"`, the directions in which the gradients of
            single samples have most energy (`corefold.core.MomentSketch`, `paired_bases`); `"gradient"`, the paper's,
            `"spectral"` or `"random"`, see `corefold.core.bases_from_singular_vectors`.
        basis_lr_ratio: learning rate of the bases over that of the core (gamma in the paper); 0 freezes them.
        initialized: set by `initialize_bases`; tells that the bases came from data.

    The settings of every method (`target_modules`, `rank_pattern`, `modules_to_save`, ...) are those of
    `corefold.adapters.host.AdapterConfig`, and mean what they mean for `peft.LoraConfig`.
    """

    method: ClassVar[str] = "deeplora"
    title: ClassVar[str] = "Deep LoRA"

    r: int = SHORT_RUN_RANK
    width: int | None = SHORT_RUN_WIDTH
    depth: int = 2
    init_scale: float = 0.1
    bases: Bases = "fisher"
    basis_lr_ratio: float = 0.0
    initialized: bool = False

    _warned = False  # This is no field, so that it is never saved.

    def __post_init__(self) -> None:
        # A file holds the bare name; everybody else has PEFT's member, or none.
        is_saved = type(self.peft_type) is str
        super().__post_init__()
        if self.width is not None and self.width <= 0:
            raise ValueError(f"width, the columns of the bases, must be at least 1 or None; got {self.width}")
        # Version 0.1.0 saved adapters of a larger rank; their layers have square cores of that rank.
        rank = max([self.r, *self.rank_pattern.values()])
        if self.width is not None and rank > self.width and not is_saved:
            raise ValueError(
                f"bases of {self.width} columns have no room for rank {rank}; give width={rank} or more, or width=None "
                "for square cores"
            )
        if self.width is not None and self.depth != 2:
            raise ValueError(
                f"a core in bases of a width of their own has two factors; got depth={self.depth} and "
                f"width={self.width}. For a square core of any depth give width=None"
            )
        if self.depth < 1:
            raise ValueError(f"depth is the number of core factors, at least 1; got {self.depth}")
        if not self.init_scale > 0:
            raise ValueError(
                f"init_scale must be positive: a core of zeros never moves; got {self.init_scale}"
            )
        if self.basis_lr_ratio < 0:
            raise ValueError(
                f"basis_lr_ratio must be 0 (frozen bases) or positive; got {self.basis_lr_ratio}"
            )
        if self.bases not in get_args(Bases):
            raise ValueError(f"bases must be one of {', '.join(get_args(Bases))}; got {self.bases!r}")

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

    def description(self) -> str:
        return f"rank {self.r}, width {self.width or self.r}, depth {self.depth}"

    def saved_updates(self, state: Mapping[str, Tensor]) -> dict[str, SavedUpdate]:
        return saved_updates(state, self.depth, self.init_scale)

    def warn_before_training(self) -> None:
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
