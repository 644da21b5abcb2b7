"""Checks of the wrappers in `internals`, each noted under the names that it is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import get_peft_model
from torch import nn

from corefold import DeepLoraConfig

Check = Callable[[Path], None]
CHECKS: dict[str, Check] = {}


def contract(*names: str) -> Callable[[Check], Check]:
    """Note a check under the names in `internals` that it is about."""

    def note(check: Check) -> Check:
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return note


def hold(name: str, folder: Path) -> None:
    try:
        CHECKS[name](folder)
    except Exception as error:
        raise AssertionError(
            f"A library no longer behaves as corefold.adapters.host.internals.{name} expects. Adapt {name} in "
            "src/corefold/adapters/host/internals.py, the only place that uses these private names, until its "
            f"docstring is true again. The failure was {error!r}"
        ) from error


def adapted(base: nn.Module) -> Any:
    """A model of one layer with an adapter, and that layer."""
    config = DeepLoraConfig(r=2, width=None, bases="random", target_modules=["0"])
    model = get_peft_model(nn.Sequential(base), config)
    return model, model.base_model.model[0]
