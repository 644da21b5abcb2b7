"""Floor 1: methods on PEFT. Importing this package registers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import peft as _peft  # noqa: F401
except ImportError as error:
    raise ImportError(
        'Deep LoRA needs PEFT and transformers; install them with: pip install "corefold[peft]"'
    ) from error

from corefold.adapters.deep_lora.bases_report import BasesReport
from corefold.adapters.deep_lora.config import DeepLoraConfig
from corefold.adapters.deep_lora.initialize import initialize_bases
from corefold.adapters.deep_lora.layer import (
    DeepLoraConv,
    DeepLoraEmbedding,
    DeepLoraLayer,
    DeepLoraLinear,
    DeepLoraMultiheadAttention,
)
from corefold.adapters.deep_lora.model import DeepLoraModel
from corefold.adapters.deep_lora.param_groups import param_groups
from corefold.adapters.deep_lora.recipe import Recipe, recipe
from corefold.adapters.host import register
from corefold.adapters.lora_export import LoraExport, export_lora, saved_updates, to_lora

if TYPE_CHECKING:
    from corefold.adapters.deep_lora.callback import BasesCallback

register("deeplora", DeepLoraConfig, DeepLoraModel)


def __getattr__(name: str) -> Any:
    # transformers imports PEFT, and PEFT this package, halfway through its own Trainer: the callback comes later.
    if name != "BasesCallback":
        raise AttributeError(f"module 'corefold.adapters' has no attribute {name!r}")
    from corefold.adapters.deep_lora.callback import BasesCallback

    return BasesCallback


__all__ = [
    "BasesCallback",
    "BasesReport",
    "DeepLoraConfig",
    "DeepLoraConv",
    "DeepLoraEmbedding",
    "DeepLoraLayer",
    "DeepLoraLinear",
    "DeepLoraModel",
    "DeepLoraMultiheadAttention",
    "LoraExport",
    "Recipe",
    "export_lora",
    "initialize_bases",
    "param_groups",
    "recipe",
    "saved_updates",
    "to_lora",
]
