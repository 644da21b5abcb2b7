"""Splits and folds: every class trained and judged where it has two rows, each row in its place once."""

from __future__ import annotations

import numpy as np
import pytest

from corefold.errors import InputError
from corefold.finetune.evaluation.splits import coverage_notes, folds, hold_out

TABLES = {
    "40 rows of three classes": ["a"] * 20 + ["b"] * 12 + ["c"] * 8,
    "a class of one row": ["a"] * 14 + ["b"] * 10 + ["c"],
    "8 classes of 2 rows": [str(row // 2) for row in range(16)],
    "whole numbers as names": ["1", "10", "2"] * 7,
}


@pytest.mark.parametrize("classes", TABLES.values(), ids=TABLES)
def test_a_class_of_two_rows_is_trained_and_judged_by_every_seed(classes):
    names, sizes = set(classes), set()
    splittable = {name for name in names if classes.count(name) > 1}
    for seed in range(200):
        split = hold_out(len(classes), classes, seed, "t.csv")
        assert sorted([*split.train, *split.judged]) == [*range(len(classes))]
        assert {classes[place] for place in split.train} == names
        assert {classes[place] for place in split.judged} == splittable
        sizes.add(len(split.judged))
    assert len(sizes) == 1


def test_the_held_out_fifth_has_the_shares_of_the_classes():
    split = hold_out(100, ["a"] * 60 + ["b"] * 30 + ["c"] * 10, 3, "t.csv")
    assert np.bincount(np.digitize(split.judged, [60, 90])).tolist() == [12, 6, 2]


def test_numbers_are_split_plainly_into_four_fifths_and_one():
    split = hold_out(33, None, 0, "t.csv")
    assert (len(split.train), len(split.judged)) == (27, 6)
    assert sorted([*split.train, *split.judged]) == [*range(33)]


@pytest.mark.parametrize("classes", [None, ["a", "b"] * 20])
def test_equal_seeds_give_equal_splits_and_others_do_not(classes):
    first, again, other = (hold_out(40, classes, seed, "t.csv") for seed in (5, 5, 6))
    assert np.array_equal(first.train, again.train)
    assert np.array_equal(first.judged, again.judged)
    assert {*first.judged} != {*other.judged}
    made = [[{*fold.judged} for fold in folds(40, classes, 4, seed, "t.csv")] for seed in (5, 5, 6)]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("classes", [None, *TABLES.values()], ids=["numbers", *TABLES])
@pytest.mark.parametrize("count", [2, 5])
def test_each_row_judges_once_and_a_row_alone_in_its_class_never(classes, count):
    rows = 23 if classes is None else len(classes)
    if classes == TABLES["8 classes of 2 rows"] and count == 5:
        with pytest.raises(
            InputError, match=r"--folds 5 needs 5 rows or more, and the largest class .* has 2"
        ):
            folds(rows, classes, count, 0, "t.csv")
        return
    made = folds(rows, classes, count, 0, "t.csv")
    alone = [place for place in range(rows) if classes and classes.count(classes[place]) == 1]
    assert sorted(place for fold in made for place in fold.judged) == [
        n for n in range(rows) if n not in alone
    ]
    for fold in made:
        assert not {*fold.train} & {*fold.judged}
        assert {*alone} <= {*fold.train}
        assert len(fold.train) + len(fold.judged) == rows
        assert classes is None or {classes[place] for place in fold.train} == {*classes}


def test_rows_that_cannot_be_split_are_refused():
    for rows, classes, words in (
        (4, None, "t.csv has 4 rows, too few to hold out a fifth"),
        (6, [*"abcdef"], "one row of each class"),
    ):
        with pytest.raises(InputError, match=rf"{words}.*give --eval"):
            hold_out(rows, classes, 0, "t.csv")
    with pytest.raises(InputError, match=r"--folds 5 needs 5 rows or more, and t\.csv has 4"):
        folds(4, None, 5, 0, "t.csv")


def test_many_classes_left_out_are_said_in_one_line():
    (line,) = coverage_notes([*"abcdefghijk"], [*"abcdefghijk"], ["a"])
    assert line.endswith("'h', 'i' and 2 more")
    assert coverage_notes(["a"], ["a"], ["a"]) == []
