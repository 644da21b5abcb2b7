"""Which observed entries are held out; the draw depends on an entry's place alone, not on the process that has it."""

from __future__ import annotations

import torch

from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed
from corefold.completion.settings import FitSettings
from corefold.completion.solvers import Schatten

WANTED_HELD_OUT = 600  # entries; where the share that is held out is fewer, several folds are
FOLDS, MAX_FOLD_SHARE = 3, 0.2


def folds(
    observed: Observed, settings: FitSettings, partition: RowPartition
) -> list[tuple[Observed, Observed]]:
    """The parts to fit and to hold out, disjoint ones of the latter, so many that enough is held out to choose by."""
    share, seed, offset = settings.validation_share, settings.seed, partition.offset
    count = int(partition.sum(torch.tensor(len(observed), device=observed.values.device)))
    if not share:
        return [split(observed, 0.0, seed, offset)]
    number = 1
    # The rank of other solvers is the user's, and there is little to choose.
    if share * count < WANTED_HELD_OUT and isinstance(settings.solver, Schatten):
        share = max(share, min(WANTED_HELD_OUT / FOLDS / count, MAX_FOLD_SHARE))
        number = min(FOLDS, int(1 / share))
    place = _places(observed, offset)
    drawn = _uniform(place, seed)
    parts = [(fold * share <= drawn) & (drawn < (fold + 1) * share) for fold in range(number)]
    held = [int(partition.sum(part.sum())) for part in parts]
    chosen = [part for part, size in zip(parts, held, strict=True) if 0 < size < count]
    if not chosen:  # Chance may hold out none of few entries, or all.
        return [split(observed, 0.0, seed, offset)]
    return [(observed.part(~part), observed.part(part)) for part in chosen]


def split(observed: Observed, share: float, seed: int, offset: int = 0) -> tuple[Observed, Observed]:
    """The entries to fit, and about `share` of all to hold out.

    Args:
        observed: the rows from number `offset` on of the whole matrix.
        share: 0 to 1.
        seed: another seed draws other entries.
        offset: rows that other processes hold before these.
    """
    held_out = _uniform(_places(observed, offset), seed) < share
    return observed.part(~held_out), observed.part(held_out)


def _places(observed: Observed, offset: int) -> torch.Tensor:
    return (observed.row_of().long() + offset) * observed.shape[1] + observed.columns


def _uniform(key: torch.Tensor, seed: int) -> torch.Tensor:
    """A number in [0, 1) for each key, by splitmix64 (Steele, Lea, Flood 2014); integers wrap around."""
    z = key * -0x61C8864680B583EB + seed
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    return (z >> 11 & ((1 << 53) - 1)).double() / 2**53
