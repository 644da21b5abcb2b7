"""Matrix completion by gradient descent as in section 3 of the paper: wide, compressed and narrow.

    python -m reproduce.completion.run                      # in the repository's root: sizes for two cores
    python -m reproduce.completion.run --only gamma,rank    # part by part
    python -m reproduce.completion.run --paper --device cuda  # d = 1000 throughout: a GPU, or a night

Every run is a cell of result.json, written when it ends; cells that are there stay, so a killed run continues. Both
sizes live in one file. A run that is out of time is recorded with the error it had. `Descent` works in units in which
the largest singular value is about 1, and so do gamma, lr and init_scale here; part `scaling` shows how gamma depends
on the units. `--device cuda` is untried.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.shared.results import Cell
from corefold.completion.factors import LowRank
from corefold.completion.solvers import Descent
from corefold.core import DeepCore, bases_from_gradient
from reproduce.arguments import add_parts, experiment_parser
from reproduce.completion.claims import claims, figure
from reproduce.completion.descents import SeenMatrix, by_solver, narrow, run, unscaled
from reproduce.experiment import Experiment
from reproduce.stopping import StoppingRule

HERE = Path(__file__).parent
QUESTION = "Does compressed descent complete matrices as the wide one does, and faster?"
PARTS = ("speed", "gamma", "rank", "depth", "scaling")
RANK, SHARE, TARGET = 5, 0.2, 1e-3
SIDES = {False: (100, 200, 300), True: (1000,)}  # sides of part speed, by --paper; other parts have the last
GAMMAS = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0)
INIT = {False: 3e-3, True: 1e-3}  # init_scale, by --paper; the number of iterations grows as its inverse
GIVEN_RANKS = (5, 10, 20)
DEEP_RANK, WIDTHS = 10, (10, 20, 40, 70, 100)
UNITS, UNSCALED_GAMMAS = (1.0, 30.0, 1000.0), (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
Work = Callable[[], Cell]


def main() -> None:
    options = arguments()
    experiment = Experiment(options.out, QUESTION)
    # Compiled loops are loaded before anything is timed.
    small = SeenMatrix.random(30, 1, 0.5, 0)
    run(by_solver(small, 1, Descent()), 100, small, StoppingRule(1.0, 100, 60.0))
    parts = {"speed": speed, "gamma": gamma, "rank": rank, "depth": depth, "scaling": scaling}
    for part in options.only:
        for name, work in parts[part](options):
            experiment.run(f"{part}, {name}", work, options.device)
    experiment.conclude(claims, figure)


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = experiment_parser(__doc__, HERE)
    add_parts(parser, PARTS)
    parser.add_argument("--paper", action="store_true", help="the paper's size in place of one for two cores")
    parser.add_argument("--sides", type=int, nargs="+", help="of part speed, in place of those of its size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--limit", type=float, default=None, help="processor seconds of one run; 200, or none with --paper"
    )
    parser.add_argument("--iterations", type=int, default=100_000, help="of one run at most")
    parser.add_argument("--seeds", type=int, default=3, help="of the depth part")
    options = parser.parse_args(line)
    options.limit = options.limit or (float("inf") if options.paper else 200.0)
    return options


def speed(options: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """Wide and compressed to one error from one scale."""
    start = INIT[options.paper]
    forms = {"compressed": Descent(init_scale=start), "wide": Descent(init_scale=start, compressed=False)}
    for side in options.sides or SIDES[options.paper]:
        for form, solver in forms.items():
            yield f"d={side}, init_scale={start:g}, {form}", partial(_one, options, side, RANK, solver)


def gamma(options: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """The compressed form with slower and faster bases."""
    side, start = SIDES[options.paper][-1], INIT[options.paper]
    few = _with_iterations(options, 20_000)
    for ratio in GAMMAS:
        solver = Descent(gamma=ratio, init_scale=start)
        yield f"d={side}, gamma={ratio:g}", partial(_one, few, side, RANK, solver)


def rank(options: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """Given too high a rank: bases from the first gradient, random bases, and no bases, all of one width."""
    side, solver = SIDES[options.paper][-1], Descent(init_scale=INIT[options.paper])
    few = _with_iterations(options, 80_000 if options.paper else 30_000)
    for given_rank in GIVEN_RANKS:
        for form in ("compressed", "random bases", "narrow"):
            yield f"d={side}, told {given_rank}, {form}", partial(_one, few, side, given_rank, solver, form)


def _with_iterations(options: argparse.Namespace, most: int) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), "iterations": min(options.iterations, most)})


def _one(options: argparse.Namespace, side: int, given_rank: int, solver: Descent, form: str = "") -> Cell:
    matrix = SeenMatrix.random(side, RANK, SHARE, 0, options.device)
    if form == "narrow":
        path = narrow(matrix, 2 * given_rank, solver)
    else:
        path = by_solver(matrix, given_rank, solver, random=form == "random bases")
    until = StoppingRule(TARGET, options.iterations, options.limit)
    settings = {"gamma": solver.gamma, "lr": solver.lr, "init_scale": solver.init_scale}
    form = form or ("compressed" if solver.compressed else "wide")
    about = {"side": side, "told": given_rank, "form": form, "target": TARGET, **settings}
    return {**about, **run(path, solver.every, matrix, until)}


def depth(options: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """The error at all entries by depth and width, once the error at the seen ones is reached; the paper's size.

    The width is that of the factors, up to the wide form. Beside it runs the compressed form at half that rank.
    """
    for layers, width in product((2, 3), WIDTHS):
        for seed in range(options.seeds):
            yield (
                f"L={layers}, width={width}, narrow, seed={seed}",
                partial(_deep, options, layers, width, seed, False),
            )
        if width >= 2 * DEEP_RANK:
            yield (
                f"L={layers}, width={width}, compressed, seed=0",
                partial(_deep, options, layers, width, 0, True),
            )


def _deep(options: argparse.Namespace, layers: int, width: int, seed: int, compressed: bool) -> Cell:
    matrix = SeenMatrix.random(100, DEEP_RANK, 0.3, seed, options.device)
    solver = Descent(depth=layers)
    path = by_solver(matrix, width // 2, solver) if compressed else narrow(matrix, width, solver)
    until = StoppingRule(1e-2, min(options.iterations, 30_000), options.limit)
    form = "compressed" if compressed else "narrow"
    figures = run(path, solver.every, matrix, until)
    return {"layers": layers, "width": width, "form": form, "seed": seed, **figures}


def scaling(options: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """The same gammas in units that make the largest singular value 1, 30 and 1000."""
    for largest in UNITS:
        for ratio in UNSCALED_GAMMAS:
            yield f"sigma={largest:g}, gamma={ratio:g}", partial(_scaled, options, largest, ratio)


def _scaled(options: argparse.Namespace, largest: float, ratio: float) -> Cell:
    matrix, solver = SeenMatrix.random(60, 2, 0.4, 0), Descent(init_scale=1e-2)
    seen = matrix.seen.observed
    holes = torch.zeros_like(matrix.whole)
    holes[seen.row_of(), seen.columns] = seen.values
    left, right = bases_from_gradient(-holes, 4, generator=torch.Generator().manual_seed(0))
    # With factors scaled by this root of the units, and a rate to match, the core takes the same path in any units.
    share = largest ** (1 / solver.depth)
    core = replace(DeepCore.at_start(left, right, solver.depth, solver.init_scale * share), start=0.0)
    path: Iterator[LowRank] = unscaled(matrix, core, largest, solver.lr * share**2 / largest**2, ratio)
    figures = run(path, 50, matrix, StoppingRule(TARGET, min(options.iterations, 4000), options.limit))
    return {"largest": largest, "gamma": ratio, "normalised": ratio * share**2, **figures}


if __name__ == "__main__":
    main()
