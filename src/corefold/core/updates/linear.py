r"""A linear map with updates on its weight, as one differentiable operation.

For tokens X, (tokens, in), and an update `left C right^T` with core C, (width, width), the output and its gradients are

    Y  = X (W + left C right^T)^T + b,    Z = X right,    G = dY left
    dX = dY (W + left C right^T),         dC = G^T Z,     dleft = dY^T Z C^T,    dright = X^T G C

With a frozen weight and frozen bases the backward pass needs nothing of X's size: only Z, which is (tokens, width). An
update without a core, such as a pair core multiplied out to `left P` and `right Q`, trains its sides, which keeps X;
wide bases then cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from corefold.core.updates.base import Update

FLOPS_A_BYTE = 8
"""How many operations a processor does while it moves one byte; `fold_pays` needs only the order of magnitude."""


def adapted_linear(
    x: Float[Tensor, "*batch in"],
    weight: Float[Tensor, "out in"] | None,
    bias: Float[Tensor, " out"] | None,
    updates: Sequence[Update],
    scales: Sequence[float | Tensor],
    base: Float[Tensor, "*batch out"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """`x @ (weight + sum of scale * update.dense()).T + bias`, in the dtype that `x @ weight.T` would have.

    Updates with `map_factors` run side by side as one. Their cores, which are small differences of products, and thin
    pairs are computed in the updates' own dtype; the rest in that of `x` or, under autocast, in autocast's. `fold_pays`
    chooses whether the update is added to the weight, for this one product, or to the output. In half precision a sum
    with the weight would round the update away, so that it is always added to the output.

    Args:
        x: the input, of float64, float32, bfloat16 or float16.
        weight: of the same dtype, or of any under autocast. None for a map that only its own code can apply, such as
            a quantised one: `base` is then its output, and the updates are added to that.
        bias: of the linear map.
        updates: what to add to the weight, at least one.
        scales: for each update a number, or a tensor that holds one. A tensor that holds 0 switches its update off,
            even one that holds NaN.
        base: the map's own output, if `weight` is None.

    Raises:
        RuntimeError: in the backward pass, if somebody asks for a gradient of this gradient.
    """
    device, dtype = x.device.type, x.dtype
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return _run(x, weight, bias, base, updates, scales)
    x = x if dtype == torch.float64 else x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _run(x, weight, bias, base, updates, scales)


def switched(part: Tensor, scale: float | Tensor) -> Tensor:
    """`part`, or zeros if `scale` is a tensor that holds 0: a product with it would let NaN and infinity through."""
    return torch.where(scale.ne(0), part, 0.0) if isinstance(scale, Tensor) else part


def fold_pays(tokens: int, in_: int, out: int, width: int, projected: bool = True, itemsize: int = 4) -> bool:
    """Whether to add the update to the weight, which is `in_ x out`, rather than to the output, `tokens x out`.

    Either is a product of rank `width`. The output is read and written in place; a folded weight is a new matrix, whose
    memory is fetched before it is written.

    Args:
        tokens: rows of the input.
        in_: features of the input; in the backward pass the input is dY, whose features are the layer's outputs.
        out: features of the output.
        width: columns of the update's sides.
        projected: whether the input's projection is needed in any case, for the gradient of the core.
        itemsize: bytes of one number.
    """
    weight, output = in_ * out, tokens * out
    projection = 0 if projected else tokens * in_
    fold_flops, fold_bytes = 2 * width * weight, 3 * itemsize * weight
    side_flops, side_bytes = 2 * width * (output + projection), itemsize * (2 * output + projection)
    return fold_flops + FLOPS_A_BYTE * fold_bytes < side_flops + FLOPS_A_BYTE * side_bytes


Factors = tuple[Tensor, Tensor | None, Tensor]


def _run(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    base: Tensor | None,
    updates: Sequence[Update],
    scales: Sequence[float | Tensor],
) -> Tensor:
    factored, others = [], []
    for update, scale in zip(updates, scales, strict=True):
        factors = update.map_factors()
        if factors is None:
            others.append((update, scale))
        else:
            factored.append(_scaled(factors, scale))
    y = _fused(x, weight, bias, base, factored)
    for update, scale in others:
        # Switching x as well keeps NaN out of its gradient.
        part = update(switched(_as(x, update.dtype), scale))
        y = (y + switched(part, scale) * scale).to(y.dtype)
    return y


def _scaled(factors: Factors, scale: float | Tensor) -> Factors:
    """The factors of `scale * update`."""
    if isinstance(scale, float) and scale == 1:
        return factors
    left, core, right = factors
    if core is None:
        return switched(left, scale) * scale, None, switched(right, scale)
    return switched(left, scale), switched(core, scale) * scale, switched(right, scale)


def _fused(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, base: Tensor | None, parts: Sequence[Factors]
) -> Tensor:
    """The map with the sum of several updates as one; of none, the map itself."""
    if not parts:
        y = (
            base
            if weight is None
            else functional.linear(x, _as(weight, x.dtype), _as_optional(bias, x.dtype))
        )
        return y  # type: ignore[return-value]
    if torch.is_grad_enabled():
        return _AdaptedLinear.apply(x, weight, bias, base, *_side_by_side(parts))  # type: ignore[return-value]
    return _map(x, weight, bias, base, *_side_by_side(parts), projected=False)[0]


def _side_by_side(parts: Sequence[Factors]) -> Factors:
    """One left side, core and right side for the sum of several updates."""
    if len(parts) == 1:
        return parts[0]
    left, right = (torch.cat([part[side] for part in parts], 1) for side in (0, 2))  # type: ignore[misc]
    if all(core is None for _, core, _ in parts):
        return left, None, right
    cores = [left.new_ones(left.shape[1]).diag() if core is None else core for left, core, _ in parts]
    return left, torch.block_diag(*cores), right


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        base: Tensor | None,
        left: Tensor,
        core: Tensor | None,
        right: Tensor,
    ) -> Tensor:
        of_x, of_weight, _, _, of_left, of_core, of_right = ctx.needs_input_grad
        y, z = _map(x, weight, bias, base, left, core, right, projected=of_left or of_core)
        x_kept = x if of_weight or of_right else None
        z_kept = z if of_left or of_core else None
        ctx.save_for_backward(x_kept, weight if of_x else None, z_kept, left, core, right)
        # `y` may be a view, and autograd forbids in-place operations on a view that a Function returns.
        return y.data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, z, left, core, right = ctx.saved_tensors
        dy = dy.contiguous()  # Its strides may be any; one copy then serves all products.
        of_x, of_weight, of_bias, of_base, of_left, of_core, of_right = ctx.needs_input_grad
        dx = dweight = dbias = dleft = dcore = dright = None
        g: Any = None
        if of_x:  # This is the same map, transposed.
            weight_back, core_back = (None if each is None else each.mT for each in (weight, core))
            dx, g = _map(dy, weight_back, None, None, right, core_back, left, projected=of_core or of_right)
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
            dright = _outer(x, _times(None if core is None else core.mT, g))
        return dx, dweight, dbias, dy if of_base else None, dleft, dcore, dright


def _map(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    base: Tensor | None,
    left: Tensor,
    core: Tensor | None,
    right: Tensor,
    projected: bool,
) -> tuple[Tensor, Tensor | None]:
    """`x @ (weight + left core right^T)^T + bias`, or `base` plus the update; and Z if it was computed."""
    in_, width, out = *right.shape, left.shape[0]
    tokens, exact = x.numel() // in_, x.dtype in (torch.float32, torch.float64)
    may_fold = exact and fold_pays(tokens, in_, out, width, projected, x.itemsize)
    if may_fold and weight is not None and weight.dtype == x.dtype:
        z = _project(x, right) if projected else None
        return functional.linear(x, _folded(weight, _tall(left, core), right), bias), z
    if weight is not None:
        y = functional.linear(x, _as(weight, x.dtype), _as_optional(bias, x.dtype))
    elif base is not None:
        y = base.clone(memory_format=torch.contiguous_format)
    else:
        y = x.new_zeros(*x.shape[:-1], out)
    if x.is_cuda and core is not None:  # A GPU waits for each launch.
        from corefold.core.updates.triton_projection import project

        z, zc = project(x.reshape(-1, in_), right, core.mT)
        y.view(-1, out).addmm_(_as(zc, y.dtype), _as(left, y.dtype).mT)
        return y, z.mT[None]
    z, tall = _project(x, right), _as(_tall(left, core), y.dtype)
    _in_parts(y).baddbmm_(_as(z, y.dtype).mT, tall.mT.expand(z.shape[0], width, out))
    return y, z


def _tall(left: Tensor, core: Tensor | None) -> Tensor:
    return left if core is None else left @ core


def _folded(weight: Tensor, tall: Tensor, right: Tensor) -> Tensor:
    """`weight + tall right^T`, in the weight's memory layout."""
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


def _times(core: Tensor | None, z: Tensor) -> Tensor:
    return z if core is None else torch.bmm(_as(core, z.dtype).expand(z.shape[0], -1, -1), z)


def _outer(x: Tensor, coordinates: Tensor) -> Tensor:
    """The sum over tokens of each row of `x` times its coordinates, (features, width)."""
    return torch.bmm(_as(coordinates, x.dtype), _in_parts(x)).sum(0).mT


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    # `.to()` costs as much as the rest of a call even when it does nothing.
    return x if x.dtype == dtype else x.to(dtype)


def _as_optional(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else _as(x, dtype)
