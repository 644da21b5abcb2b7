"""The recipe: as it was where it was measured, continuous in between, and refused where it makes no sense."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch

import corefold
from corefold.adapters import Recipe
from models import load, wrap

HEADS = ("classifier", "pairs", "cosine", "language-model")
STEPS = range(150, 700)


def measured(
    rows: int, steps: int, batch_size: int, head: str, r: int | None, width: int | None, decay
) -> dict:
    """The rule as it was first written down: one form up to 160 steps, another beyond."""
    long = steps > 160 and r in (None, 4) and width is None
    rank, columns = (4, 56) if long else (2, 112)
    r, width = r or rank, columns if width is None else width
    narrow = width > r
    own = 0.0 if head != "classifier" or steps > 160 or not narrow else 3.0
    decay = own if decay is None else decay
    if narrow:
        lr = 0.01 if head == "pairs" else 0.025 / math.sqrt(max(1.0, steps * batch_size / rows))
        lr /= math.sqrt(r) * max(1.0, steps / 160) ** 0.8
        lr *= (0.25 if head == "cosine" else 1.0) * (2 if own and decay >= 3 else 1)
    else:
        lr = {"pairs": 3e-2, "cosine": 8e-3, "language-model": 8e-2}.get(head, 0.1 * min(1.0, rows / 64)) / r
    batches = max(4, steps // 40)
    return {"r": r, "width": width if narrow else 0, "lr": lr, "weight_decay": decay, "num_batches": batches}


def said(recipe: Recipe, names) -> dict[str, Any]:
    return {name: getattr(recipe, name) or 0 for name in names}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("width", [None, 0, 6, 112])
@pytest.mark.parametrize("r", [None, 1, 4, 8, 64, 112, 200])
def test_it_is_the_rule_that_was_measured_on_short_runs(head, r, width):
    if width and r and r > width:
        with pytest.raises(ValueError, match=f"at least the rank {r}.*got {width}"):
            corefold.recipe(rows=16, head=head, r=r, width=width)
        return
    for rows, steps, batch_size, decay in product(
        (8, 16, 64, 256, 1024), (1, 20, 100, 160), (4, 16, 64), (None, 0.0, 3.0, 5.0)
    ):
        recipe = corefold.recipe(
            rows=rows, steps=steps, batch_size=batch_size, head=head, r=r, width=width, weight_decay=decay
        )
        expected = measured(rows, steps, batch_size, head, r, width, decay)
        assert said(recipe, expected) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("head", "decay", "r"), [*product(HEADS, (None, 0.0, 1.0, 3.0), (None, 4))])
def test_it_is_the_rule_that_was_measured_on_long_runs(head, decay, r):
    for rows in (16, 1024, 5000):
        recipe = corefold.recipe(rows=rows, steps=500, head=head, weight_decay=decay, r=r)
        expected = measured(rows, 500, 16, head, r, None, decay)
        assert said(recipe, expected) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "given", [{"r": 2}, {"r": 8}, {"r": 2, "weight_decay": 1.0}, {"r": 4, "weight_decay": 3.0}]
)
def test_rate_and_decay_change_little_from_step_to_step_and_never_rise(head, given):
    found = [corefold.recipe(rows=256, steps=steps, head=head, **given) for steps in STEPS]
    for before, after in pairwise(found):
        # The rate of pairs does not follow the passes over the rows.
        falls = head != "pairs" or after.steps > 160
        assert 0.98 * before.lr < after.lr <= before.lr
        assert (after.lr < before.lr) == falls
        assert before.weight_decay - 0.02 < after.weight_decay <= before.weight_decay


def test_the_rate_does_not_jump_where_the_rank_does():
    found = [corefold.recipe(rows=256, steps=steps) for steps in STEPS]
    for before, after in pairwise(found):
        assert 0.98 < after.lr / before.lr < 1
    shapes = list(dict.fromkeys((each.r, each.width) for each in found))
    assert shapes == [(2, 112), (3, 75), (4, 56)]


@pytest.mark.parametrize("steps", [100, 161, 300, 500])
def test_the_rate_rises_evenly_with_a_decay_that_is_given(steps):
    rates = [corefold.recipe(rows=256, steps=steps, weight_decay=0.01 * i).lr for i in range(500)]
    assert all(a <= b < a + 0.01 * rates[0] for a, b in pairwise(rates))
    assert rates[-1] <= 2 * rates[0]


def test_a_rate_of_almost_the_full_decay_is_almost_the_full_rate():
    given = {"rows": 64, "steps": 100}
    almost = corefold.recipe(**given, weight_decay=2.9).lr
    assert almost == pytest.approx(corefold.recipe(**given, weight_decay=3.0).lr, rel=0.02)


def test_the_width_depends_on_the_steps_and_only_makes_room_for_the_rank():
    for steps, width in ((160, 112), (300, 75), (500, 56), (5000, 56)):
        for r in (1, 2, 3, 4, 5, 8, 32, width - 1):
            assert corefold.recipe(rows=64, steps=steps, r=r).width == width
        for r in range(width, 112):
            assert corefold.recipe(rows=64, steps=steps, r=r).width == 112
        for r in (112, 113):
            square = corefold.recipe(rows=64, steps=steps, r=r)
            assert (square.r, square.width, square.weight_decay) == (r, None, 0.0)


def test_a_rank_that_is_not_given_fits_a_width_that_is():
    assert corefold.recipe(rows=64, steps=500, width=3).r == 3
    assert corefold.recipe(rows=64, steps=100, width=40).config == {"r": 2, "width": 40, "depth": 2}


def test_what_was_decided_and_is_given_again_changes_nothing():
    for steps, width in product((100, 240, 500), (None, 0)):
        first = corefold.recipe(rows=100, steps=steps, width=width)
        given = {each.name: getattr(first, each.name) for each in fields(Recipe)}
        del given["num_batches"], given["eps"]
        given["width"] = given["width"] or 0
        assert corefold.recipe(rows=100, **given) == first


def test_steps_are_ten_passes_within_bounds():
    steps = {rows: corefold.recipe(rows=rows).steps for rows in (1, 16, 170, 256, 1000, 10_000)}
    assert steps == {1: 100, 16: 100, 170: 110, 256: 160, 1000: 500, 10_000: 500}
    assert corefold.recipe(rows=256, batch_size=32).steps == 100


def test_it_goes_into_config_groups_and_optimizer():
    recipe = corefold.recipe(rows=64, steps=100, r=3, width=24)
    model = wrap(load("minilm"), task_type="SEQ_CLS", **recipe.config)
    assert {layer.width["default"] for layer in model.base_model.adapted_layers().values()} == {24}
    optimizer = torch.optim.AdamW(corefold.param_groups(model, **recipe.rates), eps=recipe.eps)
    cores, head = optimizer.param_groups
    assert (cores["lr"], cores["weight_decay"], cores["eps"]) == (recipe.lr, 3.0, 1e-6)
    assert (head["lr"], head["weight_decay"]) == (1e-3, 0.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rows": 0}, "rows must be a whole number of at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"r": 0}, "r must be a whole number of at least 1"),
        ({"width": -1}, "width must be a whole number of at least 0"),
        ({"rows": "64"}, "rows must be a whole number of at least 1; got '64'"),
        ({"r": 2.5}, r"r must be a whole number of at least 1; got 2\.5"),
        ({"steps": 200.7}, "steps must be a whole number"),
        ({"r": 4, "width": 3}, "width must be at least the rank 4"),
        ({"depth": 3}, "depth=3 needs a square core, width=0; got width=None"),
        ({"lr": float("nan")}, "lr must be at least 0; got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"head": "own"}, "head must be one of classifier, pairs, cosine, language-model; got 'own'"),
    ],
)
def test_bad_numbers_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        corefold.recipe(**{"rows": 64, **given})


def test_ranks_up_to_the_bases_of_a_short_run_change_the_rate_smoothly():
    for steps in (100, 300, 500):
        rates = [corefold.recipe(rows=256, steps=steps, r=r).lr * r**0.5 for r in range(1, 112)]
        assert max(rates) == pytest.approx(min(rates))


def test_numbers_of_numpy_become_plain_ones():
    recipe = corefold.recipe(rows=np.int64(64), r=np.int32(3), steps=np.int64(100))
    assert {type(value) for value in (recipe.r, recipe.width, recipe.steps, recipe.num_batches)} == {int}
