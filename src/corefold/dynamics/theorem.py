r"""What gradient descent on a deep factorization does, said beforehand (Yaras et al. 2024, theorem 2.1).

Let `W_l(0) = eps_l q_l` with orthonormal rows or columns in q_l, let `Q = q_L ... q_1`, and let the target be
`u diag(s) v^T` of rank r. Three parts of each side stay apart for all time:

- the core: what q_1, q_2, ... make of `[v, Q^T u]` on the way forward and of `[u, Q v]` on the way back. Its small
  factors follow gradient descent on the target as seen from there, whatever the rest does;
- the rest: what is orthogonal to it. W_l maps it as `rho_l(t) q_l`, and each rho knows only the others,

      rho_l(t+1) = rho_l(t) (1 - eta lambda - eta prod_{k != l} rho_k(t)^2)

- the idle: directions that a rectangular matrix has on its larger side only. No gradient reaches them, they stay at
  `eps_l (1 - eta lambda)^t q_l`.

A square matrix has 2r dimensions of core, d - 2r of rest and no idle ones: the theorem as published. A rectangular one
has up to 3r of core on its larger side, since there u or v lies partly outside what Q reaches; this is derived here.
Why it holds: a vector of the rest meets neither v nor, through the product, u, so the residual maps it as the product
does, and every gradient is a multiple of `q_l` there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.dynamics.descent import descend, product


@dataclass(frozen=True)
class State:
    """All there is to know of the wide factors at one step, by layer.

    Attributes:
        core: the small factors.
        rest: rho_l.
        idle: what the idle directions are scaled by.
    """

    core: list[Float[Tensor, "_ _"]]
    rest: list[float]
    idle: list[float]

    def gap(self, dimension: int) -> float:
        """`||wide product - compressed product||_F` for a rest of this dimension."""
        return math.sqrt(dimension) * math.prod(self.rest)


@dataclass(frozen=True)
class Blocks:
    """The parts that stay apart. Each list has a basis for every side: layer l's input is [l - 1], its output [l].

    Attributes:
        isometries: q_l.
        scales: eps_l.
        core: orthonormal columns.
        rest: orthonormal columns, each side's the image of the one before.
    """

    isometries: list[Float[Tensor, "_ _"]]
    scales: list[float]
    core: list[Float[Tensor, "_ _"]]
    rest: list[Float[Tensor, "_ _"]]

    @property
    def rest_dimension(self) -> int:
        return self.rest[0].shape[1]

    def compress(self, factors: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "_ _"]]:
        """The factors as seen from the core."""
        return [
            out.mT @ factor @ in_ for factor, in_, out in zip(factors, self.core, self.core[1:], strict=False)
        ]

    def compress_target(self, target: Float[Tensor, "out in"]) -> Float[Tensor, "_ _"]:
        """The target as seen from the core."""
        return self.core[-1].mT @ target @ self.core[0]

    def expand(self, core: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "out in"]:
        """The product of core factors as an (out, in) matrix: `left @ W_L ... W_1 @ right.T`."""
        return self.core[-1] @ product(core) @ self.core[0].mT

    def rest_map(self) -> Float[Tensor, "out in"]:
        """Q on the rest: what `prod rho_l` stands before in the wide product."""
        return self.rest[-1] @ self.rest[0].mT

    def factors(self, state: State) -> list[Float[Tensor, "_ _"]]:
        """The wide factors."""
        wide = []
        for layer, q in enumerate(self.isometries):
            core_in, core_out = self.core[layer], self.core[layer + 1]
            rest = self.rest[layer + 1] @ self.rest[layer].mT
            idle = q - core_out @ (core_out.mT @ q @ core_in) @ core_in.mT - rest
            wide.append(
                core_out @ state.core[layer] @ core_in.mT
                + state.rest[layer] * rest
                + state.idle[layer] * idle
            )
        return wide


def leading_directions(
    matrix: Float[Tensor, "out in"], k: int | None = None
) -> tuple[Float[Tensor, "out k"], Float[Tensor, "in k"]]:
    """Top singular vectors `(u, v)`; without k, those of the numerical rank.

    The first gradient, `product(start) - target`, has other ones than the target, by about init_scale^L, but they span
    the same with their images: its top r give the same `invariant_blocks` for a small start.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    if k is None:
        k = int((s > s[0] * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    return u[:, :k], vh[:k].mT


def invariant_blocks(
    start: Sequence[Float[Tensor, "_ _"]], u: Float[Tensor, "out k"], v: Float[Tensor, "in k"]
) -> Blocks:
    """The blocks for these factors, each eps_l times orthonormal rows or columns, of a target within u and v.

    Directions beyond the target's only make the core wider.

    Args:
        start: as from `orthogonal_start`; scales may differ.
        u: orthonormal columns whose span holds the target's columns.
        v: the same for its rows.
    """
    scales = [torch.linalg.matrix_norm(factor, 2).item() for factor in start]
    q = [factor / scale for factor, scale in zip(start, scales, strict=True)]
    whole = product(q)
    forward, backward = [torch.cat([v, whole.mT @ u], 1)], [torch.cat([u, whole @ v], 1)]
    for factor in q:
        forward.append(factor @ forward[-1])
    for factor in reversed(q):
        backward.append(factor.mT @ backward[-1])
    core = [_span(torch.cat(pair, 1)) for pair in zip(forward, reversed(backward), strict=True)]
    # From the smaller side on, where all directions are reached and every q_l keeps lengths.
    if whole.shape[1] <= whole.shape[0]:
        rest = [_complement(core[0])]
        for factor in q:
            rest.append(factor @ rest[-1])
    else:
        rest = [_complement(core[-1])]
        for factor in reversed(q):
            rest.append(factor.mT @ rest[-1])
        rest.reverse()
    return Blocks(q, scales, core, rest)


def predict(
    blocks: Blocks, target: Float[Tensor, "out in"], lr: float, decay: float = 0.0
) -> Iterator[State]:
    """The state at step 0, 1, 2, ..., from the small problem and the recursion alone."""
    rest, idle = list(blocks.scales), list(blocks.scales)
    start = [
        scale * part for scale, part in zip(blocks.scales, blocks.compress(blocks.isometries), strict=True)
    ]
    for core in descend(start, blocks.compress_target(target), lr, decay):
        yield State(core, rest, idle)
        rest = _next_rest(rest, lr, decay)
        idle = [(1 - lr * decay) * scale for scale in idle]


def _next_rest(rho: Sequence[float], lr: float, decay: float) -> list[float]:
    others = (math.prod(rho[:layer]) * math.prod(rho[layer + 1 :]) for layer in range(len(rho)))
    return [one * (1 - lr * decay - lr * other**2) for one, other in zip(rho, others, strict=True)]


def _span(columns: Tensor) -> Tensor:
    """An orthonormal basis of the column space; forward and backward images largely say the same twice."""
    u, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return u[:, s > torch.finfo(s.dtype).eps ** 0.5]


def _complement(basis: Tensor) -> Tensor:
    """An orthonormal basis of all that is orthogonal to this one's columns."""
    return torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :]
