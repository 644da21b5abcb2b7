"""Kwon et al., "Efficient Compression of Overparameterized Deep Models through Low-Dimensional Learning Dynamics".

    python -m reproduce.kwon.run                        # in the repository's root
    python -m reproduce.kwon.run --only digits,minilm   # part by part
    python -m reproduce.kwon.run --only sensing --paper # the paper's size: 1.3 GB of measurements

A compressed deep linear network, with the spectral start, in the place of a wide one: recovering matrices, and as a
hidden layer. Every seed of a part is a cell of result.json with all forms in it, so they are paired; cells that are
there are left. Rates are chosen for each form among as many tries: for completion and sensing on two seeds that are
not counted, for the nets on a fifth of the training rows; factorization has one rate, as the theorem. Seconds are the
processor's. Part minilm needs the two packages of `corefold demo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from reproduce.common import Cell, Result
from reproduce.kwon.features import digits, films
from reproduce.kwon.layers import Data, Training, compare
from reproduce.kwon.recover import (
    FORMS,
    Problem,
    Until,
    completion,
    factorization,
    quickest,
    run,
    sensing,
    thinned,
)
from reproduce.kwon.shown import claims, figure

HERE = Path(__file__).parent
QUESTION = (
    "Does a compressed deep linear network with the spectral start do as the wide one does, and faster?"
)
PARTS = ("factorization", "completion", "sensing", "digits", "minilm")
SIDE, EVERY = 100, 10
FIXED = 0.2  # factorization: the theorem is of one rate
RATES, TUNED_ON = (0.05, 0.1, 0.2, 0.4, 0.8), 2
RANK, SHARE = {"factorization": 10, "completion": 5}, 0.3
SENSED = {False: (30, 2, 600), True: (200, 5, 4000)}  # side, rank, measurements
ERROR, STEPS = {"factorization": 1e-4, "completion": 1e-2, "sensing": 1e-2}, 8000
DIGITS = Training(hidden=256, width=20, steps=300, rows=128, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
MINILM = Training(hidden=None, width=4, steps=150, rows=64, rates=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
Work = Callable[[], Cell]


def main() -> None:
    given = arguments()
    result = Result(given.out / "result.json", QUESTION)
    # What torch does on its first matrices and gradients is not timed.
    for form in FORMS.values():
        run(factorization(SIDE, 1, 0), form, 0, FIXED, Until(0.0, 50))
    for part in given.only.split(","):
        if part in ("completion", "sensing"):
            chosen = result.run(f"{part}{_size(given)}, rates", partial(rates, part, given))
            lrs = {form: chosen["forms"][form]["lr"] for form in FORMS}
        else:
            lrs = {}
        for seed, work in seeds(part, given, lrs):
            result.run(f"{part}{_size(given)}, seed={seed}", work)
    result.claims = claims(result.cells)
    result.write()
    figure(result.cells, given.out / "figure.svg")


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; more with commas")
    parser.add_argument("--paper", action="store_true", help="sensing at the paper's size, nothing else")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.json and figure.svg")
    given = parser.parse_args(line)
    if unknown := set(given.only.split(",")) - set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    if given.paper and given.only != "sensing":
        parser.error("--paper is another size of part sensing; give --only sensing with it")
    return given


def _size(given: argparse.Namespace) -> str:
    return ", paper's size" if given.paper else ""


def seeds(part: str, given: argparse.Namespace, lrs: dict[str, float]) -> Iterator[tuple[int, Work]]:
    """A cell a seed."""
    for seed in range(given.seeds):
        if part == "digits":
            yield seed, partial(net, digits, DIGITS, seed)
        elif part == "minilm":
            yield seed, partial(net, films, MINILM, seed)
        else:
            yield seed, partial(recovered, part, given, seed, lrs)


def problem(part: str, given: argparse.Namespace, seed: int) -> Problem:
    """The planted matrix of a seed."""
    if part == "factorization":
        return factorization(SIDE, RANK[part], seed)
    if part == "completion":
        return completion(SIDE, RANK[part], SHARE, seed)
    return sensing(*SENSED[given.paper], seed)


def rates(part: str, given: argparse.Namespace) -> Cell:
    """Each form's rate, from the same tries on seeds beyond those counted."""
    others = list(range(given.seeds, given.seeds + TUNED_ON))
    problems = {seed: problem(part, given, seed) for seed in others}
    until = Until(ERROR[part], STEPS)
    forms = {name: quickest(problems, form, RATES, until, EVERY) for name, form in FORMS.items()}
    return {"tuned_on_seeds": others, "forms": forms}


def recovered(part: str, given: argparse.Namespace, seed: int, lrs: dict[str, float]) -> Cell:
    """All forms on one matrix."""
    planted, until = problem(part, given, seed), Until(ERROR[part], STEPS)
    forms = {
        name: run(planted, form, seed, lrs.get(name, FIXED), until, EVERY) for name, form in FORMS.items()
    }
    pairs = zip(forms["compressed"]["errors"], forms["wide"]["errors"], strict=False)
    over = [small / wide for small, wide in pairs]
    for one in forms.values():
        errors = one.pop("errors")
        if seed == 0:  # which the figure shows
            one["curve"] = thinned(errors, EVERY)
    size = {"side": planted.target.shape[0], "rank": planted.rank, "target": until.error}
    return {**size, "worst_over_wide": max(over), "points": len(over), "forms": forms}


def net(rows: Callable[[int], Data], training: Training, seed: int) -> Cell:
    """All forms of the layer on one split."""
    data = rows(seed)
    forms = compare(data, training, seed)
    for one in forms.values():
        accuracies = one.pop("accuracies")
        if seed == 0:
            one["curve"] = {
                "steps": [training.every * place for place in range(len(accuracies))],
                "accuracies": accuracies,
            }
    sizes = {
        "steps": training.steps,
        "batch": training.rows,
        "rows": len(data.y),
        "test_rows": len(data.test_y),
    }
    return {**sizes, "forms": forms}


if __name__ == "__main__":
    main()
