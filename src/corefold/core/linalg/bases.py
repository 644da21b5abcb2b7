"""Bases from a gradient, in closed form, and the angles between subspaces.

Gradient descent from a small orthogonal start moves each wide factor in one fixed subspace, whose dimension is twice
the gradient's rank (Yaras et al. 2024, theorem 2.1). Let G = U S V^T be the gradient of the loss with respect to the
full matrix, and Q the orthogonal map that the wide factors multiply to at the start. That subspace is

    right = orth[ V , Q^T U ]        left = Q right = orth[ Q V , U ]

Q is random, so `Q V` and `Q^T U` are random frames: no wide factor is ever built.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.core.linalg.svd import significant, with_positive_peaks

Bases = Literal["fisher", "gradient", "spectral", "random"]
GradientBases = Literal["gradient", "spectral", "random"]


def wide_bases(
    u: Float[Tensor, "out k"], v: Float[Tensor, "in k"], q: Float[Tensor, "out in"]
) -> tuple[Float[Tensor, "out width"], Float[Tensor, "in width"]]:
    """The closed form for a given start `q` (semi-orthogonal, out x in); width is 2k.

    A square `q` gives exactly `left = q @ right`. Only the larger side of a rectangular one sees both halves; the
    authors leave the smaller side as it falls, and here it is orthonormalised. The pair that `q` maps without loss is
    left as it is, and the other one made orthogonal to it: `(Q V, V)` is exact where out >= in, `(U, Q^T U)` where
    in > out.
    """
    if u.shape[0] >= v.shape[0]:
        return _orth(torch.cat([q @ v, u], 1)), _orth(torch.cat([v, q.mT @ u], 1))
    k = u.shape[1]
    left, right = _orth(torch.cat([u, q @ v], 1)), _orth(torch.cat([q.mT @ u, v], 1))
    return left.roll(k, 1), right.roll(k, 1)


def bases_from_singular_vectors(
    u: Float[Tensor, "out k"],
    v: Float[Tensor, "in k"],
    width: int,
    kind: GradientBases = "gradient",
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "out width"], Float[Tensor, "in width"]]:
    """Orthonormal `(left, right)` of `width` columns from a gradient's top singular vectors, largest first.

    The core's start pairs column i of `left` with column i of `right`. Random directions complete a gradient whose rank
    is too small, or zero.

    Args:
        u: left singular vectors of the gradient, of its nonzero singular values only.
        v: right singular vectors, as many.
        width: columns wanted, at most min(out, in).
        kind: `"gradient"`, the paper's: half the columns follow the gradient on each side, and their partners are
            random (the frames `Q V` and `Q^T U`, made orthogonal to the other half so that the pair stays exactly
            aligned in every shape). `"spectral"`: all columns follow it, `left = -u`, `right = v`, and training
            starts downhill (Kwon et al. 2023, arXiv 2311.05061). `"random"`: neither side follows it.
        generator: source of the random directions, on the CPU.

    Raises:
        ValueError: width out of range, or an unknown kind.
    """
    if kind not in get_args(GradientBases):
        raise ValueError(f"kind must be one of {', '.join(get_args(GradientBases))}; got {kind!r}")
    if not 1 <= width <= min(u.shape[0], v.shape[0]):
        raise ValueError(
            f"width must lie between 1 and min(out, in) = {min(u.shape[0], v.shape[0])}; got {width}"
        )
    if kind == "random":
        return complete(u[:, :0], width, generator), complete(v[:, :0], width, generator)
    if kind == "spectral":
        return complete(-u[:, :width], width, generator), complete(v[:, :width], width, generator)
    right_half = width - width // 2
    left = complete(u[:, : width // 2], width, generator)
    right = complete(v[:, :right_half], width, generator)
    # [Q V | U] beside [V | Q^T U]: the random part of one side is the partner of the gradient part of the other.
    followed = min(width // 2, u.shape[1])
    return left.roll(-followed, 1), right


def paired_bases(
    left: Float[Tensor, "out k"],
    right: Float[Tensor, "in l"],
    gradient: tuple[Float[Tensor, "out m"], Float[Tensor, " m"], Float[Tensor, "in m"]],
    width: int,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "out width"], Float[Tensor, "in width"]]:
    """`width` columns that span `left` and `right`, turned so that training starts downhill.

    With M = left^T G right = P diag(s) R^T they are `-left P` and `right R`. The gradient of the core is then
    `-diag(s)`, and the core's start, a multiple of the identity, makes the same pairs as the gradient. Random
    directions are added first where there are fewer directions than columns.

    Args:
        left: orthonormal columns, for instance `MomentSketch.directions`.
        right: the same on the other side.
        gradient: singular vectors and values `(u, s, v)` of the mean gradient G = u diag(s) v^T.
        width: columns wanted, at most min(out, in).
        generator: source of the random directions, on the CPU.
    """
    left, right = complete(left, width, generator), complete(right, width, generator)
    u, s, v = gradient
    p, _, rh = torch.linalg.svd((left.mT @ u * s) @ (v.mT @ right))
    left, right = left @ p, right @ rh.mT
    left, right = with_positive_peaks(left, right)
    return -left, right


def bases_from_gradient(
    gradient: Float[Tensor, "out in"],
    width: int,
    kind: GradientBases = "gradient",
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "out width"], Float[Tensor, "in width"]]:
    """`bases_from_singular_vectors` of a dense gradient; see there."""
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    rank = significant(s, max(gradient.shape))
    return bases_from_singular_vectors(u[:, :rank], vh[:rank].mT, width, kind, generator)


def complete(
    basis: Float[Tensor, "rows k"], width: int, generator: torch.Generator | None = None
) -> Float[Tensor, "rows width"]:
    """`basis` (orthonormal columns) followed by `width - k` random columns, all orthonormal."""
    missing = width - basis.shape[1]
    if missing <= 0:
        return basis[:, :width]
    # Draw on the CPU in float64, so that a seed means the same bases on every device and in every dtype.
    noise = torch.randn(basis.shape[0], missing, generator=generator, dtype=torch.float64).to(basis)
    return torch.cat([basis, _orth(torch.cat([basis, noise], 1))[:, basis.shape[1] :]], 1)


def principal_angles(a: Float[Tensor, "rows k"], b: Float[Tensor, "rows l"]) -> Float[Tensor, " angles"]:
    """Angles between the column spaces of `a` and `b`, in radians, smallest first, min(k, l) of them.

    The columns of each must be independent. Small angles come from sines and large ones from cosines (Bjorck and Golub
    1973), so both are accurate.
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    qa, qb = _orth(a), _orth(b)
    cosines = torch.linalg.svdvals(qa.mT @ qb).clamp(max=1)
    sines = torch.linalg.svdvals(qb - qa @ (qa.mT @ qb)).flip(0).clamp(max=1)
    return torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())


def _orth(columns: Tensor) -> Tensor:
    # A positive diagonal of R makes QR unique, so that orth[q @ x] is q @ orth[x] for an orthogonal q.
    q, r = torch.linalg.qr(columns)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
