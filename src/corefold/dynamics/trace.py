"""What a run of gradient descent looked like, and how far it is from the prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.core import principal_angles
from corefold.dynamics.descent import loss, product
from corefold.dynamics.theorem import Blocks, State


@dataclass(frozen=True)
class Snapshot:
    """One step of a run, the factors by their singular value decompositions.

    Attributes:
        step: how many steps were taken.
        loss: `1/2 ||product - target||_F^2`.
        spectra: singular values of each factor, largest first.
        right: each factor's leading right singular vectors.
        left: the left ones.
    """

    step: int
    loss: float
    spectra: list[Float[Tensor, " _"]]
    right: list[Float[Tensor, "_ k"]]
    left: list[Float[Tensor, "_ k"]]


@dataclass(frozen=True)
class Deviation:
    """How far wide factors are from the state predicted, all as Frobenius norms.

    Attributes:
        product: of `wide product - (compressed product + prod rho Q on the rest)`, over the wide product's norm.
        factors: the largest over layers of `W_l - predicted`, over that of W_l.
        leak: the largest over layers of what W_l maps between core and rest, over that of W_l.
        rest: the largest over layers of `rest_out^T W_l rest_in - rho_l I`, over W_l(0)'s norm on the rest.
        gap: of `wide product - compressed product`, less the predicted one, over the target's.
    """

    product: float
    factors: float
    leak: float
    rest: float
    gap: float


def trace(
    path: Iterable[list[Float[Tensor, "_ _"]]],
    target: Float[Tensor, "out in"],
    steps: int,
    every: int,
    directions: int,
) -> list[Snapshot]:
    """Snapshots of a run at steps 0, every, 2 every, ... up to `steps`.

    Args:
        path: factors step by step, as from `descend`.
        target: what they come to.
        steps: the last step that counts.
        every: steps between snapshots.
        directions: how many singular vectors to keep of each factor.
    """
    taken = []
    for step, factors in enumerate(islice(path, steps + 1)):
        if step % every:
            continue
        parts = [torch.linalg.svd(factor, full_matrices=False) for factor in factors]
        taken.append(
            Snapshot(
                step,
                loss(factors, target),
                [s for _, s, _ in parts],
                [vh[:directions].mT for *_, vh in parts],
                [u[:, :directions] for u, *_ in parts],
            )
        )
    return taken


def angles_to_last(snapshots: Sequence[Snapshot], layer: int) -> Float[Tensor, "times k"]:
    """Principal angles between a factor's leading right singular space at each time and at the last, in radians."""
    return torch.stack([principal_angles(one.right[layer], snapshots[-1].right[layer]) for one in snapshots])


def deviation(
    blocks: Blocks, state: State, factors: Sequence[Float[Tensor, "_ _"]], target: Float[Tensor, "out in"]
) -> Deviation:
    """Wide factors of a dense run against the state predicted for the same step."""
    wide, small = product(factors), blocks.expand(state.core)
    rest_size = blocks.rest_dimension**0.5
    leaks, rests, whole = [], [], []
    for layer, (factor, predicted) in enumerate(zip(factors, blocks.factors(state), strict=True)):
        core_in, core_out = blocks.core[layer], blocks.core[layer + 1]
        rest_in, rest_out = blocks.rest[layer], blocks.rest[layer + 1]
        leak = torch.hypot((core_out.mT @ factor @ rest_in).norm(), (rest_out.mT @ factor @ core_in).norm())
        eye = torch.eye(blocks.rest_dimension, dtype=factor.dtype, device=factor.device)
        off = (rest_out.mT @ factor @ rest_in - state.rest[layer] * eye).norm()
        whole.append(((factor - predicted).norm() / factor.norm()).item())
        leaks.append((leak / factor.norm()).item())
        rests.append(off.item() / (blocks.scales[layer] * rest_size) if rest_size else 0.0)
    explained = small + torch.tensor(state.rest, dtype=torch.float64).prod().item() * blocks.rest_map()
    gap = (wide - small).norm().item() - state.gap(blocks.rest_dimension)
    return Deviation(
        ((wide - explained).norm() / wide.norm()).item(),
        max(whole),
        max(leaks),
        max(rests),
        abs(gap) / target.norm().item(),
    )
