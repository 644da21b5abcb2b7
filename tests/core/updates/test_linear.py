"""The adapted linear map against the dense weight, on every route that it can take."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import laws
from cases import ROUNDING, SHAPES, gaussian
from core.updates.random_updates import random_deep_core, random_pair_core, random_squared
from corefold.core import DeepCore, PairCore, adapted_linear, fold_pays

FEW, MANY = (2, 1), (6, 11)
"""The update of FEW is added to the output, that of MANY to the weight, both forward and backward."""

PARTS = ("x", "weight", "bias", "left", "factors", "right")
SCALES = (1.0, -0.7)


def updates_of(out: int, in_: int, count: int) -> list[DeepCore]:
    return [random_deep_core(out, in_, 3 - k, 3 - k, seed=k) for k in range(count)]


def operands(out: int, in_: int, batch: tuple[int, ...], count: int = 1, trained: str = "") -> list[Tensor]:
    """x, weight, bias and the tensors of `count` deep cores; those named in `trained` require a gradient."""
    tensors = {
        "x": gaussian(*batch, in_),
        "weight": gaussian(out, in_, seed=1),
        "bias": gaussian(out, seed=2),
    }
    result = [tensors[name].requires_grad_(name in trained.split()) for name in PARTS[:3]]
    for update in updates_of(out, in_, count):
        result += [getattr(update, name).requires_grad_(name in trained.split()) for name in PARTS[3:]]
    return result


def deep_cores(parts: tuple[Tensor, ...]) -> list[DeepCore]:
    return [DeepCore(*parts[i : i + 3], 0.3) for i in range(0, len(parts), 3)]


def fast(x: Tensor, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
    updates = deep_cores(parts)
    return adapted_linear(x, weight, bias, updates, SCALES[: len(updates)])


def dense(x: Tensor, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
    updates = [scale * each.dense() for scale, each in zip(SCALES, deep_cores(parts), strict=False)]
    return functional.linear(x, weight + sum(updates), bias)


def beside(x: Tensor, base: Tensor, *parts: Tensor) -> Tensor:
    updates = deep_cores(parts)
    return adapted_linear(x, None, None, updates, SCALES[: len(updates)], base=base)


@pytest.mark.parametrize(("shape", "batch", "count"), [*product(SHAPES, (FEW, MANY), (1, 2))])
class TestDense:
    def test_batches_take_both_routes(self, shape, batch, count):
        tokens, width = batch[0] * batch[1], 3 if count == 1 else 5
        assert fold_pays(tokens, *shape, width) == fold_pays(tokens, *shape[::-1], width) == (batch == MANY)

    def test_output(self, shape, batch, count):
        tensors = operands(*shape, batch, count)
        laws.same_matrix(fast(*tensors), dense(*tensors), ROUNDING[torch.float64])

    def test_output_without_autograd(self, shape, batch, count):
        tensors = operands(*shape, batch, count)
        with torch.no_grad():
            laws.same_matrix(fast(*tensors), dense(*tensors), ROUNDING[torch.float64])

    @pytest.mark.parametrize(
        "trained",
        [
            "factors",
            "x factors",
            "x",
            "left",
            "right",
            "x weight bias",
            "left factors right",
            " ".join(PARTS),
        ],
    )
    def test_gradients(self, shape, batch, count, trained):
        tensors = operands(*shape, batch, count, trained)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        towards = gaussian(*batch, shape[0], seed=9)
        got = torch.autograd.grad(fast(*tensors), wanted, towards)
        expected = torch.autograd.grad(dense(*tensors), wanted, towards)
        for one, other in zip(got, expected, strict=True):
            laws.same_matrix(one, other, 10 * ROUNDING[torch.float64])

    def test_added_to_the_output_of_a_map_that_is_not_ours(self, shape, batch, count):
        x, weight, bias, *parts = operands(*shape, batch, count, "x factors left right")
        base = functional.linear(x.detach(), weight, bias).requires_grad_()
        before = base.detach().clone()
        laws.same_matrix(beside(x, base, *parts), dense(x, weight, bias, *parts), ROUNDING[torch.float64])
        assert torch.equal(base, before)
        assert torch.autograd.gradcheck(beside, (x, base, *parts), fast_mode=True)

    def test_gradcheck(self, shape, batch, count):
        # `test_gradients` compares every entry; in full this check would evaluate the map thousands of times.
        tensors = operands(*shape, batch, count, " ".join(PARTS))
        assert torch.autograd.gradcheck(fast, tensors, fast_mode=True)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (2, 3, 4, 3), (0, 3), (2, 0, 3)])
def test_inputs_of_any_shape(shape):
    x, weight, bias, *parts = operands(5, 3, (2,), trained="x factors")
    x = gaussian(*shape).requires_grad_()
    y = fast(x, weight, bias, *parts)
    laws.same_matrix(y, dense(x, weight, bias, *parts), ROUNDING[torch.float64])
    y.sum().backward()  # The gradient of a sum has no strides.
    assert x.grad.shape == shape


def test_strides_do_not_matter():
    for batch in (FEW, MANY):
        x, weight, bias, *parts = operands(7, 4, batch, trained="x factors right")
        turned, stored = x.detach().mT.contiguous().mT.requires_grad_(), weight.mT.contiguous().mT
        for across in (fast, dense):
            expected = torch.autograd.grad(across(x, weight, bias, *parts).square().sum(), [x, *parts[1:]])
            got = torch.autograd.grad(
                across(turned, stored, bias, *parts).square().sum(), [turned, *parts[1:]]
            )
            for one, other in zip(got, expected, strict=True):
                laws.same_matrix(one, other, 10 * ROUNDING[torch.float64])


@pytest.mark.parametrize(
    ("trained", "of_input"), [("x factors", 0), ("x factors left", 0), ("x factors right", 1)]
)
def test_the_input_is_saved_only_for_the_right_basis(trained, of_input):
    tensors = operands(24, 20, (5, 8), trained=trained)
    own = {tensor.data_ptr() for tensor in tensors[1:]}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fast(*tensors)
    others = sum(t.numel() for t in saved if t.data_ptr() not in own)
    tokens, width = 40, 3
    small = width * width
    assert others <= of_input * tokens * 20 + tokens * width + 6 * small


def test_half_precision_is_never_folded_and_its_core_never_rounded():
    """bfloat16 could not hold a weight of 1 and an update of 1e-4 in one number."""
    for dtype in (torch.bfloat16, torch.float16):
        x, weight = gaussian(64, 8).to(dtype), torch.ones(8, 8, dtype=dtype)
        update = random_deep_core(8, 8, 2, 3, dtype=torch.float32)
        scale = 1e-4 / float(update.dense().abs().max())
        zero = torch.zeros(64, 8, dtype=dtype)
        got = adapted_linear(x, None, None, [update], [scale], base=zero)
        assert got.dtype == dtype
        laws.same_matrix(got, x.double() @ (scale * update.dense().double()).mT, 8 * torch.finfo(dtype).eps)
        with_weight = adapted_linear(x, weight, None, [update], [scale])
        assert torch.equal(with_weight, adapted_linear(x, None, None, [update], [scale], base=x @ weight.mT))


def test_autocast():
    tensors = [t.detach().float() for t in operands(9, 6, MANY)]
    expected = dense(*tensors)
    for tensor in (tensors[0], tensors[4]):
        tensor.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = fast(*tensors)
    assert y.dtype == torch.bfloat16
    laws.same_matrix(y, expected, 8 * torch.finfo(torch.bfloat16).eps)
    towards = gaussian(*y.shape, dtype=torch.float32)
    got = torch.autograd.grad(y, [tensors[0], tensors[4]], towards.bfloat16())
    for one, other in zip(
        got, torch.autograd.grad(dense(*tensors), [tensors[0], tensors[4]], towards), strict=True
    ):
        assert one.dtype == torch.float32
        laws.same_matrix(one, other, 8 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("batch", [FEW, MANY])
def test_checkpointing_changes_nothing(batch, reentrant):
    tensors = operands(7, 5, batch, trained="x factors left right")
    wanted = [t for t in tensors if t.requires_grad]
    plain = fast(*tensors).square().sum()
    expected = torch.autograd.grad(plain, wanted)
    checkpoint(fast, *tensors, use_reentrant=reentrant).square().sum().backward()
    assert all(torch.equal(t.grad, e) for t, e in zip(wanted, expected, strict=True))


def test_deterministic_algorithms_suffice():
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            tensors = operands(7, 5, MANY, 2, trained=" ".join(PARTS))
            runs.append(torch.autograd.grad(fast(*tensors).square().sum(), tensors))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_its_output_may_be_written_to():
    for batch in ((), (4,), FEW, MANY):
        tensors = operands(7, 5, batch, trained="factors")
        expected = torch.autograd.grad(dense(*tensors).relu().sum(), tensors[4])
        (got,) = torch.autograd.grad(fast(*tensors).relu_().sum(), tensors[4])
        laws.same_matrix(got, expected[0], 10 * ROUNDING[torch.float64])


def test_a_second_derivative_is_refused():
    tensors = operands(7, 5, FEW, trained="x factors")
    (grad,) = torch.autograd.grad(fast(*tensors).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_folding_pays_from_some_number_of_tokens_on():
    for in_, out, width in product((64, 384, 4096), (64, 1536), (4, 128)):
        for projected in (True, False):
            pays = [fold_pays(tokens, in_, out, width, projected) for tokens in (1, 32, 256, 2048, 16384)]
            assert pays == sorted(pays)
            assert not pays[0]
            assert pays[-1]


@pytest.mark.parametrize("batch", [FEW, MANY])
def test_a_pair_core_is_the_dense_map_with_its_gradients(batch):
    found = []
    for route in (
        adapted_linear,
        lambda x, w, b, updates, scales: functional.linear(x, w + updates[0].dense(), b),
    ):
        parts = [gaussian(*batch, 8), gaussian(7, 8, seed=1), gaussian(7, seed=2), gaussian(7, 4, seed=3),
                 gaussian(2, 4, 2, seed=4), gaussian(8, 4, seed=5)]  # fmt: skip
        x, weight, bias, left, factors, right = (part.requires_grad_() for part in parts)
        y = route(x, weight, bias, [PairCore(left, factors, right)], (1.0,))
        y.square().sum().backward()
        found.append([y.detach(), *(part.grad for part in parts)])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-10)


def test_a_pair_core_beside_a_deep_core_is_the_sum_of_both():
    updates = [random_pair_core(7, 8, 5, 2, seed=3), random_deep_core(7, 8, 3, 3)]
    for each in updates:
        each.factors.requires_grad_()
    x, weight = gaussian(6, 8).requires_grad_(), gaussian(7, 8, seed=1)
    total = sum(scale * each.dense() for scale, each in zip(SCALES, updates, strict=True))
    found = adapted_linear(x, weight, None, updates, SCALES), x @ (weight + total).mT
    grads = [torch.autograd.grad(y.square().sum(), [x, *(each.factors for each in updates)]) for y in found]
    for one, other in zip((found[0], *grads[0]), (found[1], *grads[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_a_pair_core_saves_nothing_as_wide_as_its_bases_for_each_token():
    tokens, width, rank = 40, 16, 2
    x, weight = gaussian(tokens, 20), gaussian(24, 20, seed=1)
    update = random_pair_core(24, 20, width, rank, seed=3)
    update.factors.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        adapted_linear(x, weight, None, [update], [1.0])
    own = {tensor.data_ptr() for tensor in (x, weight, update.left, update.right)}
    most = max(t.numel() for t in saved if t.data_ptr() not in own)
    assert most <= max(tokens, 24) * rank


@pytest.mark.parametrize("base", [False, True])
def test_an_update_without_a_thin_form_is_added_as_a_dense_one(base):
    dense_only, thin = random_squared(7, 5, 2, seed=3), random_deep_core(7, 5, 3, 2)
    dense_only.tall.requires_grad_()
    x, weight, bias = gaussian(4, 3, 5).requires_grad_(), gaussian(7, 5, seed=1), gaussian(7, seed=2)
    assert dense_only.thin() is None
    for updates in ([dense_only], [thin, dense_only]):
        update = sum(scale * each.dense() for scale, each in zip(SCALES, updates, strict=False))
        expected = functional.linear(x, weight + update, bias)
        if base:
            got = adapted_linear(
                x, None, None, updates, SCALES[: len(updates)], functional.linear(x, weight, bias)
            )
        else:
            got = adapted_linear(x, weight, bias, updates, SCALES[: len(updates)])
        laws.same_matrix(got, expected, 1e-13)
        wanted = [x, dense_only.tall]
        for one, other in zip(
            *(torch.autograd.grad(y.square().sum(), wanted) for y in (got, expected)), strict=True
        ):
            laws.same_matrix(one, other, 1e-12)


BROKEN = {
    "deep core": (random_deep_core(7, 5, 3, 2, seed=1), ["left", "factors", "right"]),
    "pair core": (random_pair_core(7, 5, 4, 2, seed=3), ["left", "factors", "right"]),
    "dense alone": (random_squared(7, 5, 2), ["tall", "right"]),
}


@pytest.mark.parametrize(
    ("kind", "part"), [(kind, part) for kind, (_, parts) in BROKEN.items() for part in parts]
)
def test_a_tensor_that_holds_zero_switches_off_even_nan(kind, part):
    x, weight, sound = gaussian(4, 5).requires_grad_(), gaussian(7, 5, seed=1), random_deep_core(7, 5, 3, 2)
    update = BROKEN[kind][0]
    broken = replace(update, **{part: torch.full_like(getattr(update, part), torch.nan)})
    got = adapted_linear(x, weight, None, [sound, broken], [torch.tensor(1.0), torch.tensor(0.0)])
    expected = x @ (weight + sound.dense()).mT
    laws.same_matrix(got, expected, 1e-13)
    one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in (got, expected))
    laws.same_matrix(one, other, 1e-12)
