"""Snapshots of a run of gradient descent, and its distance from the prediction."""

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
    """One step of a run, with singular values and leading singular vectors of the factors.

    Attributes:
        step: the number of steps taken so far.
        loss: `1/2 ||product - target||_F^2`.
        spectra: singular values of each factor, largest first.
        right: each factor's leading right singular vectors.
        left: each factor's leading left singular vectors.
    """

    step: int
    loss: float
    spectra: list[Float[Tensor, " _"]]
    right: list[Float[Tensor, "_ k"]]
    left: list[Float[Tensor, "_ k"]]


@dataclass(frozen=True)
class Deviation:
    """Distances of wide factors from the predicted state: ratios of Frobenius norms.

    Attributes:
        product: `wide product - (compressed product + prod rho Q on the rest)` over the wide product.
        factors: `W_l - predicted W_l` over W_l, the largest over layers.
        leak: the blocks of W_l between core and rest, either way, over W_l, the largest over layers.
        rest: `rest_out^T W_l rest_in - rho_l I` over W_l(0) on the rest, the largest over layers.
        gap: the norm of `wide product - compressed product` less the predicted norm, over the target.
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
        target: the matrix that the run approximates.
        steps: the last step that may get a snapshot.
        every: steps between snapshots.
        directions: the number of singular vectors to keep of each factor.
    """
    snapshots = []
    for step, factors in enumerate(islice(path, steps + 1)):
        if step % every:
            continue
        parts = [torch.linalg.svd(factor, full_matrices=False) for factor in factors]
        snapshots.append(
            Snapshot(
                step,
                loss(factors, target),
                [s for _, s, _ in parts],
                [vh[:directions].mT for *_, vh in parts],
                [u[:, :directions] for u, *_ in parts],
            )
        )
    return snapshots


def angles_to_last(snapshots: Sequence[Snapshot], layer: int) -> Float[Tensor, "times k"]:
    """Principal angles, in radians, between a factor's leading right singular space at each time and at the last."""
    return torch.stack(
        [principal_angles(each.right[layer], snapshots[-1].right[layer]) for each in snapshots]
    )


def deviation(
    blocks: Blocks, state: State, factors: Sequence[Float[Tensor, "_ _"]], target: Float[Tensor, "out in"]
) -> Deviation:
    """Compare the wide factors of a dense run with the state predicted for the same step."""
    wide, small = product(factors), blocks.expand(state.core)
    rest_size = blocks.rest_dimension**0.5
    leaks, rests, errors = [], [], []
    for layer, (factor, predicted) in enumerate(zip(factors, blocks.factors(state), strict=True)):
        core_in, core_out = blocks.core[layer], blocks.core[layer + 1]
        rest_in, rest_out = blocks.rest[layer], blocks.rest[layer + 1]
        leak = torch.hypot((core_out.mT @ factor @ rest_in).norm(), (rest_out.mT @ factor @ core_in).norm())
        identity = torch.eye(blocks.rest_dimension, dtype=factor.dtype, device=factor.device)
        off_rest = (rest_out.mT @ factor @ rest_in - state.rest[layer] * identity).norm()
        errors.append(((factor - predicted).norm() / factor.norm()).item())
        leaks.append((leak / factor.norm()).item())
        rests.append(off_rest.item() / (blocks.scales[layer] * rest_size) if rest_size else 0.0)
    explained = small + torch.tensor(state.rest, dtype=torch.float64).prod().item() * blocks.rest_map()
    gap = (wide - small).norm().item() - state.gap(blocks.rest_dimension)
    return Deviation(
        ((wide - explained).norm() / wide.norm()).item(),
        max(errors),
        max(leaks),
        max(rests),
        abs(gap) / target.norm().item(),
    )
