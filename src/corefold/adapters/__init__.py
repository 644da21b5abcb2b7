"""Floor 1: Deep LoRA as a PEFT method. Importing this package registers it with PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import peft as _peft  # noqa: F401
except ImportError as error:
    raise ImportError(
        'Deep LoRA needs PEFT and transformers; install them with: pip install "corefold[peft]"'
    ) from error

from corefold.adapters.bases import initialize_bases
from corefold.adapters.config import DeepLoraConfig
from corefold.adapters.export import LoraExport, chains_of, export_lora, to_lora
from corefold.adapters.layer import DeepLoraLayer
from corefold.adapters.leaves import (
    DeepLoraConv,
    DeepLoraEmbedding,
    DeepLoraLinear,
    DeepLoraMultiheadAttention,
)
from corefold.adapters.model import DeepLoraModel
from corefold.adapters.optim import param_groups
from corefold.adapters.recipe import Recipe, recipe
from corefold.adapters.registry import register

if TYPE_CHECKING:
    from corefold.adapters.callback import BasesCallback

register()


def __getattr__(name: str) -> Any:
    # transformers imports PEFT, and PEFT this package, halfway through its own Trainer: the callback comes later.
    if name != "BasesCallback":
        raise AttributeError(f"module 'corefold.adapters' has no attribute {name!r}")
    from corefold.adapters.callback import BasesCallback

    return BasesCallback


__all__ = [
    "BasesCallback",
    "DeepLoraConfig",
    "DeepLoraConv",
    "DeepLoraEmbedding",
    "DeepLoraLayer",
    "DeepLoraLinear",
    "DeepLoraModel",
    "DeepLoraMultiheadAttention",
    "LoraExport",
    "Recipe",
    "chains_of",
    "export_lora",
    "initialize_bases",
    "param_groups",
    "recipe",
    "to_lora",
]
