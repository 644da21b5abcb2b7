"""Named mathematical properties. Each raises AssertionError with the measured defect; none calls corefold.

Everything is measured in float64, so the tolerance says what the tested code may lose, not what the check loses.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def same_matrix(got: Tensor, expected: Tensor, rtol: float) -> None:
    """`norm(got - expected) <= rtol * norm(expected)`, Frobenius; shapes agree."""
    assert got.shape == expected.shape, f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    gap = (got.double() - expected.double()).norm().item()
    allowed = rtol * expected.double().norm().item()
    assert gap <= allowed, f"differs by {gap:.2e} in the Frobenius norm, allowed {allowed:.2e}"


def orthonormal_columns(q: Tensor, atol: float) -> None:
    """`q.T @ q` is the identity, entry by entry."""
    gram = q.double().mT @ q.double()
    defect = (gram - torch.eye(q.shape[1], dtype=torch.float64)).abs().max().item() if gram.numel() else 0.0
    assert defect <= atol, f"q.T @ q is {defect:.2e} from the identity, allowed {atol:.2e}"


def lies_within(inner: Tensor, outer: Tensor, atol: float) -> None:
    """The column space of `inner` is inside that of `outer`: the largest angle to it is at most `atol` radians."""
    angle = angle_into(inner, outer)
    assert angle <= atol, f"leaves the space by an angle of {angle:.2e}, allowed {atol:.2e}"


def spans_same_space(a: Tensor, b: Tensor, atol: float) -> None:
    """`a` and `b` have column spaces of one dimension, and every principal angle is at most `atol` radians."""
    rank_a, rank_b = (torch.linalg.matrix_rank(m.double(), rtol=1e-6).item() for m in (a, b))
    assert rank_a == rank_b, f"dimensions {rank_a} and {rank_b}"
    lies_within(a, b, atol)


def orthogonal_spaces(a: Tensor, b: Tensor, atol: float) -> None:
    """Every column of `a` is orthogonal to every column of `b` (unit columns assumed)."""
    overlap = (a.double().mT @ b.double()).abs().max().item() if a.shape[1] and b.shape[1] else 0.0
    assert overlap <= atol, f"overlap {overlap:.2e}, allowed {atol:.2e}"


def angle_into(inner: Tensor, outer: Tensor) -> float:
    """The largest angle between a vector of `inner`'s column space and its projection on `outer`'s."""
    inner, outer = orthonormal(inner), orthonormal(outer)
    sine = torch.linalg.matrix_norm(inner - outer @ (outer.mT @ inner), 2)
    return sine.clamp(max=1).asin().item()


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the column space, dependent columns dropped."""
    u, s, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    return u[:, s > 1e-6 * s[0]]


def best_error(matrix: Tensor, rank: int) -> float:
    """Eckart and Young: the least Frobenius error of any matrix of this rank."""
    return torch.linalg.svdvals(matrix.double())[rank:].norm().item()


def applied_in_order(left: Tensor, factors: Iterable[Tensor], right: Tensor, start: float = 0.0) -> Tensor:
    """`left (W_L ... W_1 - start I) right^T` in float64, column by column of the identity, W_1 first."""
    columns = []
    for unit in torch.eye(right.shape[0], dtype=torch.float64):
        vector = first = right.double().mT @ unit
        for factor in factors:
            vector = factor.double() @ vector
        columns.append(left.double() @ (vector - start * first))
    return torch.stack(columns, 1)
