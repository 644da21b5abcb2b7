"""A hidden layer written as one matrix, as three wide factors and as a chain, and the networks that hold it.

    scores = head(tanh(layer(first(x))))

The layer starts at zero but for rounding if it is factorized, so the gradient there by its matrix is known at once; its
singular vectors are the spectral start. tanh, unlike ReLU, lets it through.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from reproduce.common import Cell
from torch import Tensor, nn
from torch.nn import functional

from corefold.core import Bases, FactorChain, bases_from_gradient
from corefold.dynamics import orthogonal_start

DEPTH, INIT_SCALE = 3, 0.1
FORMS: dict[str, Bases | None] = {
    "no layer": None,
    "dense": None,
    "wide": None,
    "compressed": "spectral",
    "random bases": "random",
}


@dataclass(frozen=True)
class Data:
    """Rows and their classes, for training and for judging."""

    x: Float[Tensor, "rows in"]
    y: Int[Tensor, " rows"]
    test_x: Float[Tensor, "test in"]
    test_y: Int[Tensor, " test"]

    def held_out(self) -> Data:
        """The last fifth of the training rows in the place of the test rows, which nothing is chosen on."""
        cut = len(self.y) * 4 // 5
        return Data(self.x[:cut], self.y[:cut], self.x[cut:], self.y[cut:])


@dataclass(frozen=True)
class Training:
    """Adam with a rate that falls to zero along a line, the same for all forms but where the rate starts.

    Attributes:
        hidden: side of the layer where one that learns is before it; None where it sees the input itself.
        width: of the chain; twice the classes, since the first gradient's rank is below those.
    """

    hidden: int | None
    width: int
    steps: int
    rows: int
    rates: tuple[float, ...]
    every: int = 10


class Wide(nn.Module):
    """`depth` square factors."""

    def __init__(self, side: int, stream: torch.Generator) -> None:
        super().__init__()
        factors = orthogonal_start(side, side, DEPTH, INIT_SCALE, stream)
        self.factors = nn.ParameterList([factor.float() for factor in factors])

    def forward(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        for factor in self.factors:
            x = x @ factor.mT
        return x


class Chain(nn.Module):
    """The compressed form: tall, square, tall."""

    def __init__(self, left: Float[Tensor, "out width"], right: Float[Tensor, "in width"]) -> None:
        super().__init__()
        chain = FactorChain.at_start(left, right, DEPTH - 2, INIT_SCALE)
        self.left = nn.Parameter(INIT_SCALE * chain.left)
        self.factors = nn.Parameter(chain.factors)
        self.right = nn.Parameter(INIT_SCALE * chain.right)

    def forward(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        return FactorChain(self.left, self.factors, self.right)(x)


class Net(nn.Module):
    """The layer with what is before and after it."""

    def __init__(self, first: nn.Module, layer: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.first, self.layer, self.head = first, layer, head

    def forward(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows classes"]:
        return self.head(torch.tanh(self.layer(self.first(x))))


def build(form: str, data: Data, training: Training, seed: int) -> Net:
    """One seed's nets have the same first layer and head."""
    inputs, classes = data.x.shape[1], int(data.y.max()) + 1
    side = training.hidden or inputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Sequential(nn.Linear(inputs, side), nn.ReLU()) if training.hidden else nn.Identity()
        head = nn.Linear(side, classes)
        dense = nn.Linear(side, side, bias=False)
    stream, bases = torch.Generator().manual_seed(seed), FORMS[form]
    if form in ("no layer", "dense"):
        return Net(first, dense if form == "dense" else nn.Identity(), head)
    if bases is None:
        return Net(first, Wide(side, stream), head)
    gradient = first_gradient(first, head, data)
    return Net(first, Chain(*bases_from_gradient(gradient, training.width, bases, stream)), head)


def first_gradient(first: nn.Module, head: nn.Linear, data: Data) -> Float[Tensor, "side side"]:
    """Of the loss on all training rows by the layer's matrix, at zero."""
    side = head.in_features
    at = torch.zeros(side, side, requires_grad=True)
    with torch.no_grad():
        seen = first(data.x)
    loss = functional.cross_entropy(head(torch.tanh(seen @ at.mT)), data.y)
    return torch.autograd.grad(loss, at)[0]


def fit(net: Net, data: Data, training: Training, lr: float, seed: int) -> Cell:
    """Accuracy every so many steps, and the processor seconds of the steps; judging is not timed."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    # At a constant rate, the accuracy of the last step is as chance has it.
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, training.steps)
    stream, cpu, curve = torch.Generator().manual_seed(seed), 0.0, [accuracy(net, data)]
    batches: list[Tensor] = []
    for step in range(1, training.steps + 1):
        if not batches:
            batches = list(torch.randperm(len(data.y), generator=stream).split(training.rows))
        rows = batches.pop()
        x, y = data.x[rows], data.y[rows]
        began = time.process_time()
        loss = functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        cpu += time.process_time() - began
        if step % training.every == 0:
            curve.append(accuracy(net, data))
    return {
        "lr": lr,
        "accuracy": curve[-1],
        "accuracies": curve,
        "cpu_seconds": cpu,
        "loss": _loss(net, data),
    }


@torch.no_grad()
def accuracy(net: Net, data: Data) -> float:
    """At the test rows."""
    return (net(data.test_x).argmax(1) == data.test_y).double().mean().item()


@torch.no_grad()
def _loss(net: Net, data: Data) -> float:
    return functional.cross_entropy(net(data.test_x), data.test_y).item()


def compare(
    data: Data, training: Training, seed: int, forms: Sequence[str] = tuple(FORMS)
) -> dict[str, Cell]:
    """Every form with the rate that is best for it on a held-out fifth of the training rows, judged on the test."""
    found: dict[str, Cell] = {}
    for form in forms:
        part = data.held_out()
        fresh = build(form, part, training, seed)
        tried = [fit(copy.deepcopy(fresh), part, training, lr, seed) for lr in training.rates]
        best = max(tried, key=lambda one: (one["accuracy"], -one["loss"]))
        net = build(form, data, training, seed)
        found[form] = {
            **fit(net, data, training, best["lr"], seed),
            "parameters": sum(parameter.numel() for parameter in net.layer.parameters()),
            "parameters_in_all": sum(parameter.numel() for parameter in net.parameters()),
            "tried": [{name: one[name] for name in ("lr", "accuracy", "loss")} for one in tried],
        }
    for one in found.values():
        # What the dense layer ends at, less a point, is what steps are counted to.
        goal = found["dense"]["accuracy"] - 0.01
        reached = (place for place, value in enumerate(one["accuracies"]) if value >= goal)
        place = next(reached, None)
        one["steps_to_goal"] = None if place is None else place * training.every
    return found
