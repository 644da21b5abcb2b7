r"""The prediction of gradient descent on a deep factorization (Yaras et al. 2024, theorem 2.1).

Let `W_l(0) = eps_l q_l` with orthonormal rows or columns in q_l, let `Q = q_L ... q_1`, and let the target be
`u diag(s) v^T` of rank r. Three parts of each side stay apart for all time:

- the core: the images of `[v, Q^T u]` under q_1, q_2, ... together with those of `[u, Q v]` under their transposes in
  reverse order. The factors restricted to it are small, and follow gradient descent on the target restricted to it,
  whatever the rest does;
- the rest: the orthogonal complement of the core. W_l maps it as `rho_l(t) q_l`, and each rho depends on the others
  alone,

      rho_l(t+1) = rho_l(t) (1 - eta lambda - eta prod_{k != l} rho_k(t)^2)

- the idle part: directions that a rectangular matrix has on its larger side only. No gradient reaches them, so W_l maps
  them as `eps_l (1 - eta lambda)^t q_l`.

A square d x d matrix has a core of 2r dimensions, a rest of d - 2r and no idle part, which is the theorem as published.
A rectangular one has a core of up to 3r dimensions on its larger side, since u or v lies partly outside the range of Q
there; this extension is derived here. The parts stay apart because a vector of the rest is orthogonal to v, and its
image under the product is orthogonal to u. So the residual maps it as the product does, and on the rest every gradient
is a multiple of `q_l`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.core import significant
from corefold.dynamics.descent import descend, product


@dataclass(frozen=True)
class State:
    """The wide factors at one step, written in few numbers a layer.

    Attributes:
        core: the small factors.
        rest: rho_l.
        idle: the factor `eps_l (1 - eta lambda)^t` of the idle directions.
    """

    core: list[Float[Tensor, "_ _"]]
    rest: list[float]
    idle: list[float]

    def gap(self, dimension: int) -> float:
        """`||wide product - compressed product||_F` for a rest of this dimension."""
        return math.sqrt(dimension) * math.prod(self.rest)


@dataclass(frozen=True)
class Blocks:
    """The parts that stay apart. `core` and `rest` have a basis a side: [l - 1] on W_l's input, [l] on its output.

    Attributes:
        isometries: q_l.
        scales: eps_l.
        core: orthonormal columns.
        rest: orthonormal columns, those of each side the image of those before.
    """

    isometries: list[Float[Tensor, "_ _"]]
    scales: list[float]
    core: list[Float[Tensor, "_ _"]]
    rest: list[Float[Tensor, "_ _"]]

    @property
    def rest_dimension(self) -> int:
        return self.rest[0].shape[1]

    def compress(self, factors: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "_ _"]]:
        """The factors restricted to the core: small matrices."""
        return [
            out.mT @ factor @ in_ for factor, in_, out in zip(factors, self.core, self.core[1:], strict=False)
        ]

    def compress_target(self, target: Float[Tensor, "out in"]) -> Float[Tensor, "_ _"]:
        """The target restricted to the core: a small matrix."""
        return self.core[-1].mT @ target @ self.core[0]

    def expand(self, core: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "out in"]:
        """The product of core factors as an (out, in) matrix: `left @ W_L ... W_1 @ right.T`."""
        return self.core[-1] @ product(core) @ self.core[0].mT

    def rest_map(self) -> Float[Tensor, "out in"]:
        """Q on the rest. The wide product holds it `prod rho_l` times."""
        return self.rest[-1] @ self.rest[0].mT

    def factors(self, state: State) -> list[Float[Tensor, "_ _"]]:
        """The wide factors of a state."""
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
    """Top singular vectors `(u, v)`; without k, as many as the numerical rank.

    Those of the first gradient, `product(start) - target`, differ from the target's by about init_scale^L. But together
    with their images they span the same space, so for a small start they give the same `invariant_blocks`.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    if k is None:
        k = significant(s, max(matrix.shape))
    return u[:, :k], vh[:k].mT


def invariant_blocks(
    start: Sequence[Float[Tensor, "_ _"]], u: Float[Tensor, "out k"], v: Float[Tensor, "in k"]
) -> Blocks:
    """The blocks of these factors for a target whose columns lie in the span of u and whose rows lie in that of v.

    Directions that the target does not use only make the core wider.

    Args:
        start: factors from `orthogonal_start`, each eps_l times orthonormal rows or columns; the scales may differ.
        u: orthonormal columns whose span holds the target's columns.
        v: orthonormal columns whose span holds the target's rows.
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
    # Start from the smaller side: Q reaches all directions there, and from there on every q_l keeps lengths.
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
    """The states at step 0, 1, 2, ..., from the small factors and the recursion of rho alone."""
    rest, idle = list(blocks.scales), list(blocks.scales)
    start = [
        scale * small for scale, small in zip(blocks.scales, blocks.compress(blocks.isometries), strict=True)
    ]
    for core in descend(start, blocks.compress_target(target), lr, decay):
        yield State(core, rest, idle)
        rest = _next_rest(rest, lr, decay)
        idle = [(1 - lr * decay) * scale for scale in idle]


def _next_rest(rho: Sequence[float], lr: float, decay: float) -> list[float]:
    others = (math.prod(rho[:layer]) * math.prod(rho[layer + 1 :]) for layer in range(len(rho)))
    return [own * (1 - lr * decay - lr * other**2) for own, other in zip(rho, others, strict=True)]


def _span(columns: Tensor) -> Tensor:
    """An orthonormal basis of the column space. Forward and backward images overlap, so many columns are dependent."""
    u, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return u[:, s > torch.finfo(s.dtype).eps ** 0.5]


def _complement(basis: Tensor) -> Tensor:
    """An orthonormal basis of the orthogonal complement."""
    return torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :]
