"""A sum of ranks, spread over the layers by the energy of their gradients."""

from __future__ import annotations

import re
from collections.abc import Mapping

from corefold.adapters.deep_lora.adapted_layers import AdaptedLayers
from corefold.adapters.host.distributed import gathered
from corefold.core import GradientSketch, widths_by_energy

MAX_RANK_OVER_AVERAGE = 2
"""No layer gets more than this many times the average rank."""


def largest_ranks(layers: AdaptedLayers, budget: int) -> dict[str, int]:
    """The largest rank that each layer may get.

    Raises:
        ValueError: a budget that is too small, or comes after FSDP2 has taken the parameters.
    """
    for layer, adapter in layers.values():
        if hasattr(layer.deeplora_left[adapter], "device_mesh"):
            raise ValueError("rank_budget makes new parameters; call initialize_bases before fully_shard")
    sides = {name: min(layer.left_rows, layer.right_rows) for name, (layer, _) in layers.items()}
    least = sum(min(2, side) for side in sides.values())
    if not isinstance(budget, int) or budget < least:
        raise ValueError(
            f"rank_budget for {len(layers)} layers must be a whole number from {least} up; got {budget}"
        )
    average = -(-budget // len(layers))
    return {name: min(side, MAX_RANK_OVER_AVERAGE * average) for name, side in sides.items()}


def spread_ranks(
    layers: AdaptedLayers, sketches: Mapping[str, GradientSketch], budget: int, largest: Mapping[str, int]
) -> None:
    """Give the layers ranks that sum to `budget` at most, and write them into the adapter's `rank_pattern`."""
    spectra = [sketch.values for sketch in sketches.values()]
    # One process decides, because the others' rounding might differ.
    chosen = gathered(widths_by_energy(spectra, budget, [largest[name] for name in sketches]))[0]
    ranks = dict(zip(layers, chosen, strict=True))
    for name in layers:  # An attention and its output projection have one rank in the configuration.
        if (inner := f"{name}.base_layer.out_proj") in ranks:
            ranks[name] = ranks[inner] = (ranks[name] + ranks[inner]) // 2
    config = next(layer.configs[adapter] for layer, adapter in layers.values())
    for name, (layer, adapter) in layers.items():
        if ranks[name] != layer.r[adapter]:
            layer.build(adapter, ranks[name], config)
    config.rank_pattern = {
        f"^{re.escape(layers[name][0].key)}": rank
        for name, rank in ranks.items()
        if rank != config.r and ".base_layer." not in name
    }
