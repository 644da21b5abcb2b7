"""A hidden layer as one matrix, as three wide factors and as a deep core in bases, and the networks that hold it.

    scores = head(tanh(layer(first(x))))

A factorized layer starts near zero, so the gradient by its matrix is taken at zero; the singular vectors of that
gradient are the spectral start. The activation is tanh because ReLU would stop the gradient at zero.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.shared.results import Cell
from corefold.core import DeepCore, GradientBases, bases_from_gradient
from corefold.dynamics import orthogonal_start

DEPTH, INIT_SCALE = 3, 0.1
FORMS: dict[str, GradientBases | None] = {
    "no layer": None,
    "dense": None,
    "wide": None,
    "compressed": "spectral",
    "random bases": "random",
}


@dataclass(frozen=True)
class Split:
    """Rows and their classes, for training and for judging."""

    x: Float[Tensor, "rows in"]
    y: Int[Tensor, " rows"]
    test_x: Float[Tensor, "test in"]
    test_y: Int[Tensor, " test"]

    def held_out(self) -> Split:
        """The last fifth of the training rows in the place of the test rows, so that rates are not chosen on these."""
        cut = len(self.y) * 4 // 5
        return Split(self.x[:cut], self.y[:cut], self.x[cut:], self.y[cut:])


@dataclass(frozen=True)
class TrainingPlan:
    """Adam with a rate that falls linearly to zero, the same for all forms except for the first rate.

    Attributes:
        hidden: side of the layer where a trained layer is before it; None where it sees the input itself.
        width: of the core; twice the classes, since the first gradient's rank is below their number.
        steps: of the optimizer.
        rows: of a batch.
        rates: from which each form's rate is chosen.
        every: steps between two measurements of the accuracy.
    """

    hidden: int | None
    width: int
    steps: int
    rows: int
    rates: tuple[float, ...]
    every: int = 10


class WideFactors(nn.Module):
    """`depth` square factors."""

    def __init__(self, side: int, stream: torch.Generator) -> None:
        super().__init__()
        factors = orthogonal_start(side, side, DEPTH, INIT_SCALE, stream)
        self.factors = nn.ParameterList([factor.float() for factor in factors])

    def forward(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        for factor in self.factors:
            x = x @ factor.mT
        return x


class CompressedFactors(nn.Module):
    """The compressed form: tall, square, tall."""

    def __init__(self, left: Float[Tensor, "out width"], right: Float[Tensor, "in width"]) -> None:
        super().__init__()
        core = DeepCore.at_start(left, right, DEPTH - 2, INIT_SCALE)
        self.left = nn.Parameter(INIT_SCALE * core.left)
        self.factors = nn.Parameter(core.factors)
        self.right = nn.Parameter(INIT_SCALE * core.right)

    def forward(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        return DeepCore(self.left, self.factors, self.right)(x)


class LayerNet(nn.Module):
    """The layer between a first layer and a head."""

    def __init__(self, first: nn.Module, layer: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.first, self.layer, self.head = first, layer, head

    def forward(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows classes"]:
        return self.head(torch.tanh(self.layer(self.first(x))))


def build(form: str, data: Split, plan: TrainingPlan, seed: int) -> LayerNet:
    """A net of this form; all nets of a seed have the same first layer and head."""
    inputs, classes = data.x.shape[1], int(data.y.max()) + 1
    side = plan.hidden or inputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Sequential(nn.Linear(inputs, side), nn.ReLU()) if plan.hidden else nn.Identity()
        head = nn.Linear(side, classes)
        dense = nn.Linear(side, side, bias=False)
    stream, bases = torch.Generator().manual_seed(seed), FORMS[form]
    if form in ("no layer", "dense"):
        return LayerNet(first, dense if form == "dense" else nn.Identity(), head)
    if bases is None:
        return LayerNet(first, WideFactors(side, stream), head)
    gradient = first_gradient(first, head, data)
    return LayerNet(first, CompressedFactors(*bases_from_gradient(gradient, plan.width, bases, stream)), head)


def first_gradient(first: nn.Module, head: nn.Linear, data: Split) -> Float[Tensor, "side side"]:
    """The gradient, at zero, of the loss on all training rows by the layer's matrix."""
    side = head.in_features
    at = torch.zeros(side, side, requires_grad=True)
    with torch.no_grad():
        inputs = first(data.x)
    loss = functional.cross_entropy(head(torch.tanh(inputs @ at.mT)), data.y)
    return torch.autograd.grad(loss, at)[0]


def fit(net: LayerNet, data: Split, plan: TrainingPlan, lr: float, seed: int) -> Cell:
    """Accuracy every so many steps, and the processor seconds of the steps; measuring the accuracy is not timed."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    # At a constant rate, the accuracy of the last step varies by chance.
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, plan.steps)
    stream, cpu, curve = torch.Generator().manual_seed(seed), 0.0, [accuracy(net, data)]
    batches: list[Tensor] = []
    for step in range(1, plan.steps + 1):
        if not batches:
            batches = list(torch.randperm(len(data.y), generator=stream).split(plan.rows))
        rows = batches.pop()
        x, y = data.x[rows], data.y[rows]
        began = time.process_time()
        loss = functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        cpu += time.process_time() - began
        if step % plan.every == 0:
            curve.append(accuracy(net, data))
    return {
        "lr": lr,
        "accuracy": curve[-1],
        "accuracies": curve,
        "cpu_seconds": cpu,
        "loss": _loss(net, data),
    }


@torch.no_grad()
def accuracy(net: LayerNet, data: Split) -> float:
    """The share of test rows whose class is predicted."""
    return (net(data.test_x).argmax(1) == data.test_y).double().mean().item()


@torch.no_grad()
def _loss(net: LayerNet, data: Split) -> float:
    return functional.cross_entropy(net(data.test_x), data.test_y).item()


def compare(
    data: Split, plan: TrainingPlan, seed: int, forms: Sequence[str] = tuple(FORMS)
) -> dict[str, Cell]:
    """Every form on the test rows, at the rate that is best for it on a held-out fifth of the training rows."""
    results: dict[str, Cell] = {}
    for form in forms:
        part = data.held_out()
        fresh = build(form, part, plan, seed)
        tried = [fit(copy.deepcopy(fresh), part, plan, lr, seed) for lr in plan.rates]
        best = max(tried, key=lambda one: (one["accuracy"], -one["loss"]))
        net = build(form, data, plan, seed)
        results[form] = {
            **fit(net, data, plan, best["lr"], seed),
            "parameters": sum(parameter.numel() for parameter in net.layer.parameters()),
            "parameters_in_all": sum(parameter.numel() for parameter in net.parameters()),
            "tried": [{name: one[name] for name in ("lr", "accuracy", "loss")} for one in tried],
        }
    for one in results.values():
        # Steps are counted until a point below the dense layer's last accuracy.
        goal = results["dense"]["accuracy"] - 0.01
        reached = (place for place, value in enumerate(one["accuracies"]) if value >= goal)
        place = next(reached, None)
        one["steps_to_goal"] = None if place is None else place * plan.every
    return results
