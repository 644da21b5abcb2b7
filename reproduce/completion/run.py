"""Matrix completion by gradient descent as in section 3 of the paper: wide, compressed and narrow.

    python -m reproduce.completion.run                      # in the repository's root: sizes for two cores
    python -m reproduce.completion.run --only gamma,rank    # part by part
    python -m reproduce.completion.run --paper --device cuda  # d = 1000 throughout: a GPU, or a night

Every run is a cell of result.json, written when it ends; cells that are there are left, so a killed run goes on. Both
sizes live in one file. A run that is out of time is recorded with the error it had. `Descent` works in units in which
the largest singular value is about 1, and so do gamma, lr and init_scale here; part `scaling` shows what other units
do to gamma. `--device cuda` is untried.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch
from reproduce.common import Cell, Result
from reproduce.completion.descents import Planted, Until, by_solver, narrow, run, unscaled
from reproduce.completion.shown import claims, figure

from corefold.completion.factors import LowRank
from corefold.completion.solvers import Descent
from corefold.core import FactorChain, bases_from_gradient

HERE = Path(__file__).parent
QUESTION = "Does compressed descent complete matrices as the wide one does, and faster?"
PARTS = ("speed", "gamma", "rank", "depth", "scaling")
RANK, SHARE, TARGET = 5, 0.2, 1e-3
SIDES = {False: (100, 200, 300), True: (1000,)}  # of speed; the others take the last
GAMMAS = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0)
INIT = {False: 3e-3, True: 1e-3}  # iterations go with 1 / init_scale
TOLD = (5, 10, 20)
DEEP_RANK, WIDTHS = 10, (10, 20, 40, 70, 100)
UNITS, RAW = (1.0, 30.0, 1000.0), (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
Work = Callable[[], Cell]


def main() -> None:
    given = arguments()
    result = Result(given.out / "result.json", QUESTION)
    # Compiled loops are loaded before anything is timed.
    small = Planted.of(30, 1, 0.5, 0)
    run(by_solver(small, 1, Descent()), 100, small, Until(1.0, 100, 60.0))
    parts = {"speed": speed, "gamma": gamma, "rank": rank, "depth": depth, "scaling": scaling}
    for part in given.only.split(","):
        for name, work in parts[part](given):
            result.run(f"{part}, {name}", work, given.device)
    result.claims = claims(result.cells)
    result.write()
    figure(result.cells, given.out / "figure.svg")


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; more with commas")
    parser.add_argument("--paper", action="store_true", help="the paper's size in place of one for two cores")
    parser.add_argument("--sides", type=int, nargs="+", help="of part speed, in place of those of its size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--limit", type=float, default=None, help="processor seconds of one run; 200, or none with --paper"
    )
    parser.add_argument("--iterations", type=int, default=100_000, help="of one run at most")
    parser.add_argument("--seeds", type=int, default=3, help="of the depth part")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.json and figure.svg")
    given = parser.parse_args(line)
    if unknown := set(given.only.split(",")) - set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    given.limit = given.limit or (float("inf") if given.paper else 200.0)
    return given


def speed(given: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """Wide and compressed to one error from one scale."""
    start = INIT[given.paper]
    forms = {"compressed": Descent(init_scale=start), "wide": Descent(init_scale=start, compressed=False)}
    for side in given.sides or SIDES[given.paper]:
        for form, solver in forms.items():
            yield f"d={side}, init_scale={start:g}, {form}", partial(_one, given, side, RANK, solver)


def gamma(given: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """The compressed form with slower and faster bases."""
    side, start = SIDES[given.paper][-1], INIT[given.paper]
    few = argparse.Namespace(**{**vars(given), "iterations": min(given.iterations, 20_000)})
    for ratio in GAMMAS:
        solver = Descent(gamma=ratio, init_scale=start)
        yield f"d={side}, gamma={ratio:g}", partial(_one, few, side, RANK, solver)


def rank(given: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """Told too high a rank: bases from the first gradient, random bases, and no bases, all of one width."""
    side, solver = SIDES[given.paper][-1], Descent(init_scale=INIT[given.paper])
    few = argparse.Namespace(
        **{**vars(given), "iterations": min(given.iterations, 80_000 if given.paper else 30_000)}
    )
    for told in TOLD:
        for form in ("compressed", "random bases", "narrow"):
            yield f"d={side}, told {told}, {form}", partial(_one, few, side, told, solver, form)


def _one(given: argparse.Namespace, side: int, told: int, solver: Descent, form: str = "") -> Cell:
    planted = Planted.of(side, RANK, SHARE, 0, given.device)
    if form == "narrow":
        path = narrow(planted, 2 * told, solver)
    else:
        path = by_solver(planted, told, solver, random=form == "random bases")
    until = Until(TARGET, given.iterations, given.limit)
    settings = {"gamma": solver.gamma, "lr": solver.lr, "init_scale": solver.init_scale}
    form = form or ("compressed" if solver.compressed else "wide")
    about = {"side": side, "told": told, "form": form, "target": TARGET, **settings}
    return {**about, **run(path, solver.every, planted, until)}


def depth(given: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """Error at all entries of depth 2 and 3 by width, once the seen ones are met; as large as the paper's.

    Width is that of the factors, up to the wide form; the compressed one beside it, from the rank that gives its width.
    """
    for layers, width in product((2, 3), WIDTHS):
        for seed in range(given.seeds):
            yield (
                f"L={layers}, width={width}, narrow, seed={seed}",
                partial(_deep, given, layers, width, seed, False),
            )
        if width >= 2 * DEEP_RANK:
            yield (
                f"L={layers}, width={width}, compressed, seed=0",
                partial(_deep, given, layers, width, 0, True),
            )


def _deep(given: argparse.Namespace, layers: int, width: int, seed: int, compressed: bool) -> Cell:
    planted = Planted.of(100, DEEP_RANK, 0.3, seed, given.device)
    solver = Descent(depth=layers)
    path = by_solver(planted, width // 2, solver) if compressed else narrow(planted, width, solver)
    until = Until(1e-2, min(given.iterations, 30_000), given.limit)
    form = "compressed" if compressed else "narrow"
    found = run(path, solver.every, planted, until)
    return {"layers": layers, "width": width, "form": form, "seed": seed, **found}


def scaling(given: argparse.Namespace) -> Iterator[tuple[str, Work]]:
    """The same gammas in units that make the largest singular value 1, 30 and 1000."""
    for largest in UNITS:
        for ratio in RAW:
            yield f"sigma={largest:g}, gamma={ratio:g}", partial(_scaled, given, largest, ratio)


def _scaled(given: argparse.Namespace, largest: float, ratio: float) -> Cell:
    planted, solver = Planted.of(60, 2, 0.4, 0), Descent(init_scale=1e-2)
    seen = planted.seen.observed
    holes = torch.zeros_like(planted.whole)
    holes[seen.row_of(), seen.columns] = seen.values
    left, right = bases_from_gradient(-holes, 4, generator=torch.Generator().manual_seed(0))
    # What keeps the path of the core the same in any units: factors carry a root of them, the rate what that takes.
    share = largest ** (1 / solver.depth)
    chain = FactorChain.at_start(left, right, solver.depth, solver.init_scale * share)
    chain = FactorChain(chain.left, chain.factors, chain.right)
    path: Iterator[LowRank] = unscaled(planted, chain, largest, solver.lr * share**2 / largest**2, ratio)
    found = run(path, 50, planted, Until(TARGET, min(given.iterations, 4000), given.limit))
    return {"largest": largest, "gamma": ratio, "normalised": ratio * share**2, **found}


if __name__ == "__main__":
    main()
