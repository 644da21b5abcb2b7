"""Train small cores, fold them into big weights: low-rank learning with deep, compressible factorizations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corefold._registration import register_with_peft
from corefold._when_imported import when_imported
from corefold.core import DeepCore, PairCore

if TYPE_CHECKING:
    from corefold.adapters import (
        BasesCallback,
        DeepLoraConfig,
        DeepLoraModel,
        Recipe,
        export_lora,
        initialize_bases,
        param_groups,
        recipe,
    )
    from corefold.completion import DeepMatrixCompletion

__version__ = "0.1.0"
__all__ = [
    "BasesCallback",
    "DeepCore",
    "DeepLoraConfig",
    "DeepLoraModel",
    "DeepMatrixCompletion",
    "PairCore",
    "Recipe",
    "export_lora",
    "initialize_bases",
    "param_groups",
    "recipe",
]


def __getattr__(name: str) -> Any:
    # PEFT brings transformers with it, and completion numba and scikit-learn. Importing them takes seconds, so each
    # package waits for the first name that needs it.
    if name not in __all__:
        raise AttributeError(f"module 'corefold' has no attribute {name!r}")
    package = "completion" if name == "DeepMatrixCompletion" else "adapters"
    return getattr(import_module(f"corefold.{package}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# PEFT finds a saved adapter's class in a table. The table must hold Deep LoRA whichever of the two is imported first.
when_imported("peft", register_with_peft)
