"""The laws of every update against its dense float64 matrix. A new class adds a line to UPDATES, and one to STARTS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

import corefold.core
from cases import DEPTHS, DTYPES, ROUNDING, SHAPES, frame, gaussian
from core.updates.random_updates import random_deep_core, random_pair_core, random_squared
from corefold.core import DeepCore, PairCore, Update
from laws import best_error, same_matrix

WIDTH, RANK = 5, 2
SCALES = [0.1, 1e-3, 0.3]
UPDATES: dict[str, Callable[..., Update]] = {
    **{f"deep core of {depth}": partial(random_deep_core, width=WIDTH, depth=depth) for depth in DEPTHS},
    "deep core without start": partial(random_deep_core, width=WIDTH, depth=3, start=0.0),
    "pair core": partial(random_pair_core, width=WIDTH, rank=RANK),
    "dense alone": partial(random_squared, rank=3),
}
RANKS = {"pair core": RANK, "dense alone": None}
"""The number of singular values where it is not WIDTH; None stands for the smaller side."""
STARTS: dict[str, Callable[[Tensor, Tensor], Update]] = {
    **{
        f"deep core of {depth} at {scale}": partial(DeepCore.at_start, depth=depth, init_scale=scale)
        for depth in DEPTHS
        for scale in SCALES
    },
    "pair core": partial(PairCore.at_start, rank=RANK),
}
every_update = pytest.mark.parametrize("name", UPDATES)
every_shape = pytest.mark.parametrize(("out", "in_"), SHAPES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def tensors(update: Update) -> dict[str, Tensor]:
    return {name: value for name, value in vars(update).items() if isinstance(value, Tensor)}


def cast(update: Update, dtype: torch.dtype) -> Update:
    return replace(update, **{name: tensor.to(dtype) for name, tensor in tensors(update).items()})


def exact(update: Update) -> Tensor:
    """The dense matrix, computed in float64."""
    return cast(update, torch.float64).dense()


def directions(name: str, out: int, in_: int) -> int:
    return RANKS.get(name, WIDTH) or min(out, in_)


def test_every_class_is_here():
    classes = {
        each
        for each in vars(corefold.core).values()
        if isinstance(each, type) and issubclass(each, Update) and each is not Update
    }
    assert classes <= {type(make(6, 7)) for make in UPDATES.values()}
    assert {each for each in classes if hasattr(each, "at_start")} == {
        type(start(frame(6, WIDTH), frame(7, WIDTH))) for start in STARTS.values()
    }


@every_dtype
@every_shape
@every_update
def test_it_keeps_its_dtype(name, out, in_, dtype):
    update = cast(UPDATES[name](out, in_), dtype)
    dense, values, pair = update.dense(), update.singular_values(), update.collapse()
    assert {update.dtype, dense.dtype, values.dtype, *(side.dtype for side in pair)} == {dtype}
    assert all(side.is_contiguous() for side in pair)
    same_matrix(dense, exact(update), ROUNDING[dtype])


@every_dtype
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3), (0,)])
@every_shape
@every_update
def test_a_call_is_the_map_of_the_dense_matrix(name, out, in_, batch, dtype):
    update = cast(UPDATES[name](out, in_), dtype)
    x = gaussian(*batch, in_, seed=1, dtype=dtype)
    assert update(x).dtype == dtype
    same_matrix(update(x), x.double() @ exact(update).mT, ROUNDING[dtype])


@every_dtype
@every_shape
@every_update
def test_every_factored_form_multiplies_to_the_dense_matrix(name, out, in_, dtype):
    update = cast(UPDATES[name](out, in_), dtype)
    forms = [update.thin(), update.thin(torch.float64), update.lookup_factors(), update.map_factors()]
    if name == "dense alone":
        assert forms == [None] * 4
        return
    for left, *core, right in forms:
        tall = left @ core[0] if core and core[0] is not None else left
        same_matrix(tall.double() @ right.double().mT, exact(update), ROUNDING[dtype])
    assert {side.dtype for side in forms[1]} == {torch.float64}


@every_dtype
@pytest.mark.parametrize("name", STARTS)
def test_a_start_is_exactly_zero(name, dtype):
    update = STARTS[name](frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype))
    assert torch.equal(update.dense(), torch.zeros(17, 10, dtype=dtype))
    assert torch.equal(update(gaussian(3, 10, dtype=dtype)), torch.zeros(3, 17, dtype=dtype))
    assert not update.singular_values().any()
    every = directions(name, 17, 10)
    for kept, (b, a) in (
        (every, update.collapse()), (1, update.collapse(tol=0.1)), (1, update.collapse(tol=0.0))
    ):  # fmt: skip
        assert (b.shape, a.shape) == ((17, kept), (kept, 10))
        assert not b.any()
        assert not a.any()


@every_update
def test_gradients_flow_to_every_part(name):
    update = UPDATES[name](5, 4)
    parts = tensors(update)
    inputs = [tensor.requires_grad_() for tensor in (*parts.values(), gaussian(2, 4, seed=1))]

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        moved = replace(update, **dict(zip(parts, values, strict=False)))
        return moved(values[-1]), moved.dense()

    assert torch.autograd.gradcheck(run, inputs)


@every_dtype
@every_shape
@every_update
def test_singular_values_are_those_of_the_dense_matrix(name, out, in_, dtype):
    update = cast(UPDATES[name](out, in_), dtype)
    values, expected = update.singular_values(), torch.linalg.svdvals(exact(update))
    assert len(values) == directions(name, out, in_)
    same_matrix(values, expected[: len(values)], ROUNDING[dtype])
    assert (values.diff() <= 0).all()
    assert (expected[len(values) :] < 1e-13 * expected[0]).all()


@every_dtype
@every_shape
@every_update
def test_all_directions_collapse_to_the_dense_matrix(name, out, in_, dtype):
    update, every = cast(UPDATES[name](out, in_), dtype), directions(name, out, in_)
    b, a = update.collapse()
    assert (b.shape, a.shape) == ((out, every), (every, in_))
    same_matrix(b.double() @ a.double(), exact(update), max(1e-12, ROUNDING[dtype]))


@every_shape
@every_update
def test_a_rank_gives_the_least_error(name, out, in_):
    update = UPDATES[name](out, in_)
    dense = exact(update)
    for rank in range(1, directions(name, out, in_) + 1):
        b, a = update.collapse(rank=rank)
        assert (b.shape, a.shape) == ((out, rank), (rank, in_))
        error = (dense - b @ a).norm().item()
        assert error == pytest.approx(best_error(dense, rank), rel=1e-10, abs=1e-12 * dense.norm().item())


@pytest.mark.parametrize("seed", range(3))
@every_shape
@every_update
def test_a_tolerance_keeps_the_fewest_directions(name, out, in_, seed):
    update = UPDATES[name](out, in_, seed=seed)
    dense = exact(update)
    for tol in (0.7, 0.3, 0.1, 0.03, 1e-2, 1e-6, 1e-10):
        b, a = update.collapse(tol=tol)
        kept, allowed = b.shape[1], tol * dense.norm().item()
        assert (dense - b @ a).norm().item() <= allowed
        assert kept == 1 or best_error(dense, kept - 1) > allowed


@every_update
def test_a_rank_outside_the_update_is_refused(name):
    update, most = UPDATES[name](6, 7), directions(name, 6, 7)
    for rank in (0, -1, most + 1):
        with pytest.raises(ValueError, match=rf"between 1 and the update's {most}; got {rank}"):
            update.collapse(rank=rank)
