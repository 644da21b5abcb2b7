r"""A linear map with factor chains on its weight, as one differentiable operation.

For tokens X, (tokens, in), and a chain with core C, (width, width), the output and its gradients are

    Y  = X (W + left C right^T)^T + b,    Z = X right,    G = dY left
    dX = dY (W + left C right^T),         dC = G^T Z,     dleft = dY^T Z C^T,    dright = X^T G C

so that with a frozen weight and frozen bases nothing of X's size is kept for the backward pass: only Z, which is
(tokens, width). A narrow chain is that with `left P` and `right Q` for bases, which train, and the identity for a core:
X is kept then, and wide bases cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from corefold.core.chain import FactorChain

FLOPS_A_BYTE = 8
"""What a processor computes in the time in which it moves a byte; `fold_pays` needs no more than the magnitude."""


def adapted_linear(
    x: Float[Tensor, "*batch in"],
    weight: Float[Tensor, "out in"] | None,
    bias: Float[Tensor, " out"] | None,
    chains: Sequence[FactorChain],
    scales: Sequence[float | Tensor],
    base: Float[Tensor, "*batch out"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """`x @ (weight + sum of scale * chain.dense()).T + bias`, in the dtype that `x @ weight.T` would have.

    The chains run side by side as one. Their cores, small differences of products, and the thin pairs of narrow ones
    are computed in the factors' own dtype, the rest in that of `x` or, under autocast, in autocast's. `fold_pays`
    chooses whether the update is added to the weight, for this one product, or to the output; in half precision, where
    a sum with the weight would round the update away, always to the output.

    Args:
        x: the input, of float64, float32, bfloat16 or float16.
        weight: of the same dtype, or of any under autocast. None for a map that only its own code can apply, such as
            a quantised one: then `base` is its output, and the update is added to that.
        bias: of the linear map.
        chains: what to add to the weight, at least one.
        scales: for each chain a number, or a tensor that holds one.
        base: the map's own output, if `weight` is None.

    Raises:
        RuntimeError: in the backward pass, if a gradient of this gradient is asked for.
    """
    device, dtype = x.device.type, x.dtype
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return _run(x, weight, bias, base, *_as_one(chains, scales))
    x = x if dtype == torch.float64 else x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _run(x, weight, bias, base, *_as_one(chains, scales))


def fold_pays(tokens: int, given: int, made: int, width: int, projected: bool = True, item: int = 4) -> bool:
    """Whether to add the update to the weight, which is given x made, rather than to the output, tokens x made.

    Either is a product of rank `width`. The output is read and written in place; a folded weight is a new matrix,
    whose memory is fetched before it is written.

    Args:
        tokens: rows of the input.
        given: features of the input; backward, where dY is the input, those are the layer's outputs.
        made: features of the output.
        width: of the chain.
        projected: whether the input's projection is made in any case, for the gradient of the core.
        item: bytes of one number.
    """
    weight, output = given * made, tokens * made
    projection = 0 if projected else tokens * given
    fold_flops, fold_bytes = 2 * width * weight, 3 * item * weight
    side_flops, side_bytes = 2 * width * (output + projection), item * (2 * output + projection)
    return fold_flops + FLOPS_A_BYTE * fold_bytes < side_flops + FLOPS_A_BYTE * side_bytes


def _as_one(chains: Sequence[FactorChain], scales: Sequence[float | Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One left basis, core and right basis for all chains; of a narrow chain the thin pair that it makes."""
    parts = [
        _thin(chain) if chain.rank < chain.left.shape[1] else (chain.left, chain.core(), chain.right)
        for chain in chains
    ]
    cores = [
        core if isinstance(scale, float) and scale == 1 else core * scale
        for (_, core, _), scale in zip(parts, scales, strict=True)
    ]
    if len(chains) == 1:
        return parts[0][0], cores[0], parts[0][2]
    left, right = (torch.cat([part[side] for part in parts], 1) for side in (0, 2))
    return left, torch.block_diag(*cores), right


def _thin(chain: FactorChain) -> tuple[Tensor, Tensor, Tensor]:
    tall, right = chain.thin()
    return tall, torch.eye(chain.rank, dtype=tall.dtype, device=tall.device), right


def _run(x: Tensor, *others: Tensor | None) -> Tensor:
    if torch.is_grad_enabled():
        return _AdaptedLinear.apply(x, *others)  # type: ignore[return-value]
    return _map(x, *others, projected=False)[0]  # type: ignore[arg-type]


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        base: Tensor | None,
        left: Tensor,
        core: Tensor,
        right: Tensor,
    ) -> Tensor:
        of_x, of_weight, _, _, of_left, of_core, of_right = ctx.needs_input_grad
        y, z = _map(x, weight, bias, base, left, core, right, projected=of_left or of_core)
        kept = x if of_weight or of_right else None
        z = z if of_left or of_core else None
        ctx.save_for_backward(kept, weight if of_x else None, z, left, core, right)
        return torch.ops.aten._unsafe_view(y, y.shape)  # of a view autograd would forbid in-place operations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, z, left, core, right = ctx.saved_tensors
        dy = dy.contiguous()  # its strides may be any; one copy then serves all products
        of_x, of_weight, of_bias, of_base, of_left, of_core, of_right = ctx.needs_input_grad
        dx = dweight = dbias = dleft = dcore = dright = None
        g: Any = None
        if of_x:  # the same map, transposed
            back = None if weight is None else weight.mT
            dx, g = _map(dy, back, None, None, right, core.mT, left, projected=of_core or of_right)
        elif of_core or of_right:
            g = _project(dy, left)
        if of_weight:
            dweight = dy.reshape(-1, dy.shape[-1]).mT @ x.reshape(-1, x.shape[-1])
        if of_bias:
            dbias = dy.reshape(-1, dy.shape[-1]).sum(0)
        if of_left:
            dleft = _outer(dy, _times(core, z))
        if of_core:
            dcore = torch.bmm(_as(g, core.dtype), _as(z, core.dtype).mT).sum(0)
        if of_right:
            dright = _outer(x, _times(core.mT, g))
        return dx, dweight, dbias, dy if of_base else None, dleft, dcore, dright


def _map(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    base: Tensor | None,
    left: Tensor,
    core: Tensor,
    right: Tensor,
    projected: bool,
) -> tuple[Tensor, Tensor | None]:
    """`x @ (weight + left core right^T)^T + bias`, without a weight `base` plus the update; and Z if it was made."""
    given, width, made = *right.shape, left.shape[0]
    tokens, exact = x.numel() // given, x.dtype in (torch.float32, torch.float64)
    may_fold = exact and fold_pays(tokens, given, made, width, projected, x.itemsize)
    if may_fold and weight is not None and weight.dtype == x.dtype:
        z = _project(x, right) if projected else None
        return functional.linear(x, _folded(weight, left @ core, right), bias), z
    if weight is not None:
        y = functional.linear(x, _as(weight, x.dtype), None if bias is None else _as(bias, x.dtype))
    elif base is not None:
        y = base.clone(memory_format=torch.contiguous_format)
    else:
        y = x.new_zeros(*x.shape[:-1], made)
    if x.is_cuda:  # where every launch counts
        from corefold.core.kernels import project

        z, zc = project(x.reshape(-1, given), right, core.mT)
        y.view(-1, made).addmm_(_as(zc, y.dtype), _as(left, y.dtype).mT)
        return y, z.mT[None]
    z, tall = _project(x, right), _as(left @ core, y.dtype)
    _in_parts(y).baddbmm_(_as(z, y.dtype).mT, tall.mT.expand(z.shape[0], width, made))
    return y, z


def _folded(weight: Tensor, tall: Tensor, right: Tensor) -> Tensor:
    """`weight + tall right^T`, lying in memory as the weight does."""
    tall, right = _as(tall, weight.dtype), _as(right, weight.dtype)
    if weight.is_contiguous():
        return torch.addmm(weight, tall, right.mT)
    return torch.addmm(weight.mT, right, tall.mT).mT


def _in_parts(x: Tensor) -> Tensor:
    """`x` as (parts, tokens, features): on a CPU, threads share several thin products better than one."""
    return x.flatten(1, -2) if x.ndim > 2 and not x.is_cuda else x.reshape(1, -1, x.shape[-1])


def _project(x: Tensor, basis: Tensor) -> Tensor:
    """The coordinates of the rows of `x` in the basis, as (parts, width, tokens)."""
    rows, (features, width) = _in_parts(x), basis.shape
    return torch.bmm(_as(basis, x.dtype).mT.expand(rows.shape[0], width, features), rows.mT)


def _times(core: Tensor, z: Tensor) -> Tensor:
    return torch.bmm(_as(core, z.dtype).expand(z.shape[0], -1, -1), z)


def _outer(x: Tensor, coordinates: Tensor) -> Tensor:
    """The sum over tokens of each row of `x` times its coordinates, (features, width)."""
    return torch.bmm(_as(coordinates, x.dtype), _in_parts(x)).sum(0).mT


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)  # half the time of the call for nothing
