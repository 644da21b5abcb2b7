"""Kwon et al., "Efficient Compression of Overparameterized Deep Models through Low-Dimensional Learning Dynamics".

    python -m reproduce.kwon.run                        # in the repository's root
    python -m reproduce.kwon.run --only digits,minilm   # part by part
    python -m reproduce.kwon.run --only sensing --paper # the paper's size: 1.3 GB of measurements

A compressed deep linear network with the spectral start takes the place of a wide one, in recovering matrices and as a
hidden layer. Every seed of a part is a cell of result.json with all forms in it, so they are paired; cells that are
there stay. Each form's rate is chosen among equally many: for completion and sensing on two seeds that do not count
otherwise, for the nets on a fifth of the training rows; factorization has one rate, as the theorem has. Seconds are the
processor's. Part minilm needs the two packages of `corefold demo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.shared.results import Cell
from reproduce.arguments import add_parts, experiment_parser
from reproduce.experiment import Experiment
from reproduce.kwon.claims import claims, figure
from reproduce.kwon.datasets import digits, films
from reproduce.kwon.hidden_layer import Split, TrainingPlan, compare
from reproduce.kwon.recovery import (
    FORMS,
    RecoveryProblem,
    completion,
    factorization,
    fastest_rate,
    run,
    sensing,
    thinned,
)
from reproduce.stopping import StoppingRule

HERE = Path(__file__).parent
QUESTION = (
    "Does a compressed deep linear network with the spectral start do as the wide one does, and faster?"
)
PARTS = ("factorization", "completion", "sensing", "digits", "minilm")
SIDE, EVERY = 100, 10
FIXED_RATE = 0.2  # In factorization the theorem has one rate for all forms.
RATES, TUNING_SEEDS = (0.05, 0.1, 0.2, 0.4, 0.8), 2
RANK, SHARE = {"factorization": 10, "completion": 5}, 0.3
SENSED = {False: (30, 2, 600), True: (200, 5, 4000)}  # side, rank, measurements; by --paper
ERROR, STEPS = {"factorization": 1e-4, "completion": 1e-2, "sensing": 1e-2}, 8000
DIGITS = TrainingPlan(hidden=256, width=20, steps=300, rows=128, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
MINILM = TrainingPlan(hidden=None, width=4, steps=150, rows=64, rates=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
Work = Callable[[], Cell]


def main() -> None:
    options = arguments()
    experiment = Experiment(options.out, QUESTION)
    # The first matrices and gradients of a process are slow, so they are computed before anything is timed.
    for form in FORMS.values():
        run(factorization(SIDE, 1, 0), form, 0, FIXED_RATE, StoppingRule(0.0, 50))
    for part in options.only:
        lrs = {}
        if part in ("completion", "sensing"):
            chosen = experiment.run(f"{part}{_size(options)}, rates", partial(rates, part, options))
            lrs = {form: chosen["forms"][form]["lr"] for form in FORMS}
        for seed, work in seeds(part, options, lrs):
            experiment.run(f"{part}{_size(options)}, seed={seed}", work)
    experiment.conclude(claims, figure)


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = experiment_parser(__doc__, HERE)
    add_parts(parser, PARTS)
    parser.add_argument("--paper", action="store_true", help="sensing at the paper's size, nothing else")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(line)
    if options.paper and options.only != ["sensing"]:
        parser.error("--paper is another size of part sensing; give --only sensing with it")
    return options


def _size(options: argparse.Namespace) -> str:
    return ", paper's size" if options.paper else ""


def seeds(part: str, options: argparse.Namespace, lrs: dict[str, float]) -> Iterator[tuple[int, Work]]:
    """A cell a seed."""
    for seed in range(options.seeds):
        if part == "digits":
            yield seed, partial(net, digits, DIGITS, seed)
        elif part == "minilm":
            yield seed, partial(net, films, MINILM, seed)
        else:
            yield seed, partial(recovered, part, options, seed, lrs)


def planted_problem(part: str, options: argparse.Namespace, seed: int) -> RecoveryProblem:
    """The planted matrix of a seed."""
    if part == "factorization":
        return factorization(SIDE, RANK[part], seed)
    if part == "completion":
        return completion(SIDE, RANK[part], SHARE, seed)
    return sensing(*SENSED[options.paper], seed)


def rates(part: str, options: argparse.Namespace) -> Cell:
    """Each form's rate, chosen among the same ones on seeds that do not count otherwise."""
    others = list(range(options.seeds, options.seeds + TUNING_SEEDS))
    problems = {seed: planted_problem(part, options, seed) for seed in others}
    until = StoppingRule(ERROR[part], STEPS)
    forms = {name: fastest_rate(problems, form, RATES, until, EVERY) for name, form in FORMS.items()}
    return {"tuned_on_seeds": others, "forms": forms}


def recovered(part: str, options: argparse.Namespace, seed: int, lrs: dict[str, float]) -> Cell:
    """All forms on one matrix."""
    problem, until = planted_problem(part, options, seed), StoppingRule(ERROR[part], STEPS)
    forms = {
        name: run(problem, form, seed, lrs.get(name, FIXED_RATE), until, EVERY)
        for name, form in FORMS.items()
    }
    pairs = zip(forms["compressed"]["errors"], forms["wide"]["errors"], strict=False)
    over = [small / wide for small, wide in pairs]
    for one in forms.values():
        errors = one.pop("errors")
        if seed == 0:  # the figure shows this seed only
            one["curve"] = thinned(errors, EVERY)
    size = {"side": problem.target.shape[0], "rank": problem.rank, "target": until.error}
    return {**size, "worst_over_wide": max(over), "points": len(over), "forms": forms}


def net(rows: Callable[[int], Split], plan: TrainingPlan, seed: int) -> Cell:
    """All forms of the layer on one split."""
    data = rows(seed)
    forms = compare(data, plan, seed)
    for one in forms.values():
        accuracies = one.pop("accuracies")
        if seed == 0:
            one["curve"] = {
                "steps": [plan.every * place for place in range(len(accuracies))],
                "accuracies": accuracies,
            }
    sizes = {
        "steps": plan.steps,
        "batch": plan.rows,
        "rows": len(data.y),
        "test_rows": len(data.test_y),
    }
    return {**sizes, "forms": forms}


if __name__ == "__main__":
    main()
