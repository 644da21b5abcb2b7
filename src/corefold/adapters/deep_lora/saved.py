"""Deep LoRA adapters as PEFT saves them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from corefold.adapters.host.config import SavedUpdate
from corefold.core import DeepCore, PairCore, start_product

FACTORS, LEFT, RIGHT, EMBEDDING = "deeplora_factors", "deeplora_left", "deeplora_right", "deeplora_embedding"
PARTS = (FACTORS, LEFT, RIGHT, EMBEDDING)


def saved_updates(state: Mapping[str, Tensor], depth: int, init_scale: float) -> dict[str, SavedUpdate]:
    """The update of each layer of a saved adapter, by the layer's name in the state dict.

    Raises:
        ValueError: no layer, a missing tensor or shapes that do not fit together; the tensor is named.
    """
    names = sorted({key.rpartition(".")[0] for key in state if key.endswith(PARTS)})
    if not names:
        raise ValueError("the adapter holds no Deep LoRA layer")
    return {name: _saved_update(state, name, depth, init_scale) for name in names}


def _saved_update(state: Mapping[str, Tensor], name: str, depth: int, init_scale: float) -> SavedUpdate:
    embedding = f"{name}.{EMBEDDING}" in state
    parts = (FACTORS, LEFT, EMBEDDING if embedding else RIGHT)
    for part in parts:
        if f"{name}.{part}" not in state:
            raise ValueError(f"tensor {name}.{part} is missing from the adapter")
    factors, left, right = (state[f"{name}.{part}"] for part in parts)
    width = left.shape[-1]
    square = factors.shape[-2:] == (width, width)
    fits = factors.shape[:-1] == (depth if square else 2, width) and factors.shape[-1] <= width
    if not fits or {left.shape[1:], right.shape[-1:]} != {(width,)}:
        raise ValueError(
            f"{name}: factors {tuple(factors.shape)}, left {tuple(left.shape)}, right {tuple(right.shape)} "
            f"do not make a core of depth {depth} in two bases"
        )
    flat, kernel = right.flatten(0, -2), () if embedding else tuple(right.shape[1:-1])
    if not square:
        return SavedUpdate(PairCore(left, factors, flat), kernel, embedding)
    start = start_product(init_scale, depth, factors.dtype)
    return SavedUpdate(DeepCore(left, factors, flat, start), kernel, embedding)
