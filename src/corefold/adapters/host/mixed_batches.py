"""Batches whose rows name their adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from corefold.adapters.host.layer import AdapterLayer


@contextmanager
def rows_name_adapters(model: nn.Module, arguments: dict[str, Any]) -> Iterator[None]:
    """Hand `adapter_names`, if it is among the model's keyword arguments, to every layer that differs by adapter.

    Raises:
        ValueError: in training, or for an adapter that no layer has.
    """
    names = arguments.get("adapter_names")
    if names is None:
        yield
        return
    if model.training:
        raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
    layers = [module for module in model.modules() if isinstance(module, AdapterLayer)]
    if unknown := {*names} - {name for layer in layers for name in layer.r} - {"__base__"}:
        raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")
    beams = arguments.get("num_beams")
    beams = beams if isinstance(beams, int) else 1
    # Heads trained in full (modules_to_save) also differ from adapter to adapter.
    heads = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    hook = partial(_add_names, names, beams)
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in (*layers, *heads)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_names(
    names: list[str], beams: int, module: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    rows = len(args[0] if args else next(iter(kwargs.values())))
    if rows == len(names) * beams:  # Beam search repeats each row, though not for an encoder.
        names = [name for name in names for _ in range(beams)]
    if rows != len(names):
        raise ValueError(
            "Length of `adapter_names` should be the same as the number of inputs, but got "
            f"{len(names)} and {rows} respectively."
        )
    return args, {**kwargs, "adapter_names": names}
