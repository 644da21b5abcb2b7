"""Deep LoRA's place in PEFT's table of methods."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType, register_peft_method

NAME = "DEEPLORA"
Member = TypeVar("Member", bound=Enum)


def register() -> None:
    """Add Deep LoRA to PEFT; does nothing if PEFT knows a method of that name already.

    PEFT (0.20, 0.21) accepts only methods whose name is in its `PeftType` enum and has no public way to add one.
    transformers and PEFT read `peft_type.value`, so a plain string will not do.
    """
    from corefold.adapters.config import DeepLoraConfig
    from corefold.adapters.model import DeepLoraModel

    member = enum_member(PeftType, NAME)
    if member not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME.lower(), config_cls=DeepLoraConfig, model_cls=DeepLoraModel)


def enum_member(enum: type[Member], name: str) -> Member:
    """The member `name` of a string enum, added with the value `name` if the enum lacks it."""
    if name in enum.__members__:
        return enum[name]
    member = str.__new__(enum, name)  # type: ignore[type-var]
    member._name_ = member._value_ = name
    member.__objclass__ = enum
    member._sort_order_ = len(enum._member_names_)
    enum._member_names_.append(name)
    enum._member_map_[name] = member
    enum._value2member_map_[name] = member
    type.__setattr__(enum, name, member)
    return member
