"""Theorem 2.1 on dense matrices in float64: its prediction beside the path of gradient descent.

    python -m reproduce.theorem.run            # in the repository's root; about two minutes on one core

Cells that result.json holds stay as they are, so a killed run continues; remove the file to measure all anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.shared.results import Cell
from corefold.dynamics import (
    Blocks,
    Deviation,
    angles_to_last,
    descend,
    deviation,
    invariant_blocks,
    leading_directions,
    loss,
    orthogonal_start,
    predict,
    product,
    trace,
)
from reproduce.arguments import experiment_parser
from reproduce.experiment import Experiment
from reproduce.theorem.claims import claims, figure

HERE = Path(__file__).parent
QUESTION = "Does gradient descent on deep factorizations take the path that theorem 2.1 predicts?"
LR = 0.02


@dataclass(frozen=True)
class TheoremSetting:
    """A target of `rank` with singular values from 3 to 1.5, and a start whose factors differ in scale.

    Attributes:
        spread: each factor's scale over that of the factor before it.
        width: directions of u and v; None for the target's rank.
    """

    out: int
    in_: int
    rank: int = 4
    depth: int = 3
    init_scale: float = 0.3
    decay: float = 0.0
    steps: int = 3000
    every: int = 50
    spread: float = 1.1
    width: int | None = None

    def start_and_target(self) -> tuple[list[Tensor], Tensor]:
        stream = torch.Generator().manual_seed(0)
        start = orthogonal_start(self.out, self.in_, self.depth, self.init_scale, stream)
        start = [self.spread**layer * factor for layer, factor in enumerate(start)]
        u, _ = torch.linalg.qr(torch.randn(self.out, self.rank, generator=stream, dtype=torch.float64))
        v, _ = torch.linalg.qr(torch.randn(self.in_, self.rank, generator=stream, dtype=torch.float64))
        return start, u * torch.linspace(3, 1.5, self.rank, dtype=torch.float64) @ v.mT


SIDES = {"square": (60, 60), "tall": (72, 50), "wide": (50, 72)}
GRID = {
    f"{name}, depth {depth}, decay {decay:g}": TheoremSetting(*sides, depth=depth, decay=decay)
    for name, sides in SIDES.items()
    for depth in (2, 3, 4)
    for decay in (0.0, 0.01)
}
GRID |= {
    "square, over-specified": TheoremSetting(60, 60, width=10),
    "tall, over-specified": TheoremSetting(72, 50, width=10),
    "square, rank 1": TheoremSetting(60, 60, rank=1),
    "square, rank 40 of 60: no rest": TheoremSetting(60, 60, rank=40),
}
GRADIENT = {
    f"first gradient, init_scale {scale:g}": TheoremSetting(
        60, 60, init_scale=scale, spread=1.0, steps=steps, every=100
    )
    for scale, steps in ((0.3, 3000), (0.1, 3000), (0.03, 4000), (0.01, 8000))
}
SMALL = {
    f"2r core, {name}, init_scale {scale:g}": TheoremSetting(
        *SIDES[name], init_scale=scale, spread=1.0, steps=steps, every=20
    )
    for name in SIDES
    for scale, steps in ((0.1, 3000), (0.01, 6000))
}
ANGLES = TheoremSetting(60, 60, init_scale=0.1, spread=1.0, steps=1000, every=10)


def main() -> None:
    parser = experiment_parser(__doc__, HERE)
    experiment = Experiment(parser.parse_args().out, QUESTION)
    work: dict[str, Callable[[], Cell]] = {name: partial(predicted, case) for name, case in GRID.items()}
    work |= {name: partial(from_gradient, case) for name, case in GRADIENT.items()}
    work |= {name: partial(small_core, case) for name, case in SMALL.items()}
    work["angles"] = partial(angles, ANGLES)
    for name, cell in work.items():
        experiment.run(name, cell)
    experiment.conclude(claims, figure)


def predicted(case: TheoremSetting) -> Cell:
    """The dense run beside the prediction from the target's own directions: the largest deviation over time."""
    start, target = case.start_and_target()
    return {"case": asdict(case), **_compare(case, start, target, *leading_directions(target, case.width))}


def from_gradient(case: TheoremSetting) -> Cell:
    """The same with directions from the first gradient, which still contains the start's product."""
    start, target = case.start_and_target()
    first = product(start) - target
    u, v = leading_directions(first, case.rank)
    found = _compare(case, start, target, u, v)
    turned = (target - u @ (u.mT @ target)).norm() / target.norm()
    return {"case": asdict(case), "target_outside": turned.item(), **found}


def _compare(case: TheoremSetting, start: list[Tensor], target: Tensor, u: Tensor, v: Tensor) -> Cell:
    blocks = invariant_blocks(start, u, v)
    runs = zip(descend(start, target, LR, case.decay), predict(blocks, target, LR, case.decay), strict=True)
    deviations, states, gaps = [], [], []
    for wide, state in islice(runs, 0, case.steps + 1, case.every):
        deviations.append(deviation(blocks, state, wide, target))
        states.append(state)
        gaps.append((product(wide) - blocks.expand(state.core)).norm().item())
    return {
        "core": [basis.shape[1] for basis in blocks.core],
        "rest": blocks.rest_dimension,
        "worst": {
            field.name: max(getattr(one, field.name) for one in deviations) for field in fields(Deviation)
        },
        "relative_error_at_end": math.sqrt(2 * loss(wide, target)) / target.norm().item(),
        "steps": list(range(0, case.steps + 1, case.every)),
        "product_deviation": [one.product for one in deviations],
        "gap": gaps,
        "gap_predicted": [state.gap(blocks.rest_dimension) for state in states],
    }


def small_core(case: TheoremSetting) -> Cell:
    """Cores of width 2r in bases of closed form, which do not separate core and rest from a rectangular start.

    A rectangular Q keeps lengths in one of the pairs (Q v, v) and (u, Q^T u) only. The pair that comes first stays as
    it is when the columns are made orthonormal, so the order matters; `corefold.core.wide_bases` takes the better one.
    """
    start, target = case.start_and_target()
    u, v = leading_directions(target)
    exact = invariant_blocks(start, u, v)
    whole = product(exact.isometries)
    v_pair, u_pair = (whole @ v, v), (u, whole.mT @ u)
    return {
        "case": asdict(case),
        "exact_core": [basis.shape[1] for basis in exact.core],
        "v_first": _apart(case, start, target, exact, _bases(v_pair, u_pair)),
        "u_first": _apart(case, start, target, exact, _bases(u_pair, v_pair)),
    }


def _bases(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    left, right = (torch.linalg.qr(torch.cat(sides, 1)) for sides in zip(first, second, strict=True))
    # The signs of QR differ between the sides; a core that starts at the identity needs the same on both.
    return left.Q * left.R.diagonal().sign(), right.Q * right.R.diagonal().sign()


def _apart(
    case: TheoremSetting, start: list[Tensor], target: Tensor, exact: Blocks, bases: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """The distance of the wide product, less its rest, from the product in bases: the largest and the last."""
    left, right = bases
    eye = case.init_scale * torch.eye(right.shape[1], dtype=torch.float64)
    runs = zip(
        descend(start, target, LR),
        descend([eye] * case.depth, left.mT @ target @ right, LR),
        predict(exact, target, LR),
        strict=True,
    )
    off = []
    for wide, small, state in islice(runs, 0, case.steps + 1, case.every):
        rest = math.prod(state.rest) * exact.rest_map()
        off.append((product(wide) - rest - left @ product(small) @ right.mT).norm() / target.norm())
    return {"worst": max(off).item(), "end": off[-1].item()}


def angles(case: TheoremSetting) -> Cell:
    """Singular values of W_1, angles of its leading right singular space to the last one, and the loss, over time."""
    start, target = case.start_and_target()
    snapshots = trace(descend(start, target, LR), target, case.steps, case.every, case.rank)
    blocks = invariant_blocks(start, *leading_directions(target))
    rho = [state.rest[0] for state in islice(predict(blocks, target, LR), 0, case.steps + 1, case.every)]
    turned = angles_to_last(snapshots, 0)
    losses = [one.loss for one in snapshots]
    settled = next(i for i in range(len(snapshots)) if turned[i:].max() < 0.05)
    return {
        "case": asdict(case),
        "steps": [one.step for one in snapshots],
        "singular_values": [one.spectra[0][: 2 * case.rank + 2].tolist() for one in snapshots],
        "rho": rho,
        "angles": turned.tolist(),
        "loss": losses,
        "settled_step": snapshots[settled].step,
        "loss_when_settled": losses[settled] / losses[0],
        "loss_at_end": losses[-1] / losses[0],
    }


if __name__ == "__main__":
    main()
