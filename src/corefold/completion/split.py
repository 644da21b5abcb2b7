"""Which observed entries are held out; the draw depends on an entry's place alone, not on the process that has it."""

from __future__ import annotations

import torch

from corefold.completion.observed import Observed


def split(observed: Observed, share: float, seed: int, offset: int = 0) -> tuple[Observed, Observed]:
    """The entries to fit, and about `share` of all to hold out.

    Args:
        observed: the rows from number `offset` on of the whole matrix.
        share: 0 to 1.
        seed: another seed draws other entries.
        offset: rows that other processes hold before these.
    """
    place = (observed.row_of().long() + offset) * observed.shape[1] + observed.columns
    held_out = _uniform(place, seed) < share
    return observed.part(~held_out), observed.part(held_out)


def _uniform(key: torch.Tensor, seed: int) -> torch.Tensor:
    """A number in [0, 1) for each key, by splitmix64 (Steele, Lea, Flood 2014); integers wrap around."""
    z = key * -0x61C8864680B583EB + seed
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    return (z >> 11 & ((1 << 53) - 1)).double() / 2**53
