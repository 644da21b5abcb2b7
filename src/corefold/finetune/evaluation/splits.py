"""Rows held out, and the folds of cross-validation: places of rows, with every class trained on and judged."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold

from corefold.errors import InputError

PARTS = 5  # one part of five is held out
NAMES_SHOWN = 8


@dataclass(frozen=True)
class Split:
    """The places of the rows that train and of those that judge; no place is in both."""

    train: np.ndarray
    judged: np.ndarray


def hold_out(rows: int, classes: Sequence[str] | None, seed: int, source: str) -> Split:
    """A fifth of the rows held out, drawn by `seed`, in a random order.

    A class of two rows or more gets into both parts. scikit-learn's stratified splits do not promise that: they keep
    shares, which give a class of two rows nothing in one part out of five. The size of the parts depends on the numbers
    of rows alone, not on the seed.

    Args:
        rows: the number of rows.
        classes: the class of each row; None for rows without classes.
        seed: of the draw.
        source: the file, for messages.

    Raises:
        InputError: too few rows to hold out any.
    """
    if rows < PARTS:
        raise InputError(f"{source} has {rows} rows, too few to hold out a fifth; give --eval")
    if classes is None:
        train, judged = next(
            ShuffleSplit(1, test_size=rows // PARTS, random_state=seed).split(np.arange(rows))
        )
        return Split(train, judged)
    rng, train, judged = np.random.default_rng(seed), [], []
    for places in _places_of_classes(classes):
        order = rng.permutation(places)
        count = min(max(1, round(len(order) / PARTS)), len(order) - 1)
        judged.append(order[:count])
        train.append(order[count:])
    split = Split(rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(judged)))
    if not len(split.judged):
        raise InputError(f"{source} has one row of each class, and so none to hold out; give --eval")
    return split


def folds(rows: int, classes: Sequence[str] | None, count: int, seed: int, source: str) -> list[Split]:
    """The rows in `count` folds by scikit-learn; each fold judges once, after training on the others.

    A row that is alone in its class is never judged, and trained on in every fold.

    Args:
        rows: the number of rows.
        classes: the class of each row; None for rows without classes.
        count: the number of folds.
        seed: of the draw.
        source: the file, for messages.

    Raises:
        InputError: fewer rows than folds, or than folds in the largest class.
    """
    sizes = [rows] if classes is None else [len(places) for places in _places_of_classes(classes)]
    if max(sizes) < count:
        part = (
            f"{source} has {rows} rows"
            if classes is None
            else f"the largest class of {source} has {max(sizes)} rows"
        )
        raise InputError(f"--folds {count} needs {count} rows or more, and {part}; lower --folds")
    if classes is None:
        found = KFold(count, shuffle=True, random_state=seed).split(np.arange(rows))
        return [Split(train, judged) for train, judged in found]
    alone = np.concatenate(
        [places for places in _places_of_classes(classes) if len(places) == 1] or [[]]
    ).astype(int)
    others = np.setdiff1d(np.arange(rows), alone)
    with warnings.catch_warnings():
        # A class with fewer rows than folds is judged in some of them, which is all that there is.
        warnings.filterwarnings("ignore", "The least populated class")
        splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
        found = list(splitter.split(others, np.asarray(classes, dtype=object).astype(str)[others]))
    return [Split(np.sort([*others[train], *alone]), others[judged]) for train, judged in found]


def _places_of_classes(classes: Sequence[str]) -> list[np.ndarray]:
    names, inverse = np.unique(np.asarray(classes, dtype=str), return_inverse=True)
    return [np.flatnonzero(inverse == index) for index in range(len(names))]


def coverage_notes(classes: Sequence[str], trained: Sequence[str], judged: Sequence[str]) -> list[str]:
    """A line for the classes that no training row has, and one for those that no row judges.

    >>> coverage_notes(["a", "b", "c"], ["a", "a", "b"], ["a"])
    ["never trained, for lack of training rows: 'c'", "never judged, for lack of rows to evaluate on: 'b', 'c'"]
    """
    missing = {
        "never trained, for lack of training rows": [name for name in classes if name not in {*trained}],
        "never judged, for lack of rows to evaluate on": [name for name in classes if name not in {*judged}],
    }
    return [f"{what}: {_listed(names)}" for what, names in missing.items() if names]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:NAMES_SHOWN]))
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
