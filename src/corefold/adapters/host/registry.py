"""PEFT's table of methods, and how to get into it."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import register_peft_method

from corefold.adapters.host.config import AdapterConfig
from corefold.adapters.host.internals import peft_type
from corefold.adapters.host.tuner import AdapterTuner


def register(name: str, config: type[AdapterConfig], model: type[AdapterTuner]) -> None:
    """Make a method known to PEFT; does nothing if PEFT knows one of that name already.

    Args:
        name: in lower case, such as "deeplora"; `config.method` must be the same.
        config: the class of its configurations.
        model: the class of its tuner; its `prefix` must be the name and an underscore.

    Raises:
        ValueError: a name, a `config.method` and a `model.prefix` that differ.
    """
    if not name == config.method == model.prefix.removesuffix("_"):
        raise ValueError(
            f"a method has one name; got {name!r}, method {config.method!r} and prefix {model.prefix!r}"
        )
    if peft_type(name) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config, model_cls=model)
