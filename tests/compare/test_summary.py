"""From cells to the table: blocks, pairs, errors, and a grid that is not finished."""

from __future__ import annotations

import pytest

from corefold.compare.summary import summarise


def cell(method, rank, seed, score, samples=16, **more):
    return {
        "method": method, "rank": rank, "samples": samples, "seed": seed, "main": "perplexity",
        "lower_is_better": True, "error": None, "scores": {"perplexity": score}, "trainable_parameters": 10 * (rank or 1),
        "bytes": 100, "seconds_per_step": 0.5, "settings": {"lr": 1e-3}, **more,
    }  # fmt: skip


def test_a_method_without_rank_is_compared_in_every_block():
    cells = [cell("full", None, 0, 3.0), *(cell("lora", rank, 0, float(rank)) for rank in (8, 2))]
    rows = {(row.rank, row.method): row for row in summarise(cells, ["lora", "full"])}
    assert list(rows) == [(2, "lora"), (2, "full"), (8, "lora"), (8, "full")]
    assert (rows[2, "full"].difference, rows[8, "full"].difference) == (1.0, -5.0)
    assert (rows[2, "full"].wins, rows[2, "full"].losses) == (0, 1)  # a perplexity: lower wins
    assert (rows[8, "full"].wins, rows[8, "full"].losses) == (1, 0)
    assert rows[2, "lora"].difference is None
    as_baseline = summarise(cells, ["full", "lora"])
    assert [row.difference for row in as_baseline] == [None, -1.0, None, 5.0]


def test_without_ranks_there_is_one_block():
    rows = summarise([cell("head", None, 0, 2.0), cell("full", None, 0, 1.0)], ["head", "full"])
    assert [(row.rank, row.method) for row in rows] == [(None, "head"), (None, "full")]


def test_what_failed_or_is_missing_is_counted_and_not_averaged():
    cells = [
        *(cell("lora", 8, seed, 2.0 + seed) for seed in range(3)),
        cell("dora", 8, 2, 5.0),
        {"method": "dora", "rank": 8, "samples": 16, "seed": 1, "error": "no memory"},
        {"method": "vera", "rank": 8, "samples": 16, "seed": 0, "error": "not here"},
    ]
    lora, dora, vera = summarise(cells, ["lora", "dora"])
    assert (lora.seeds, lora.mean, lora.spread) == (3, 3.0, 1.0)
    # 5 less 4, of seed 2.
    assert (dora.seeds, dora.errors, dora.error, dora.difference) == (
        1,
        1,
        "no memory",
        1.0,
    )
    assert dora.spread is None
    assert (vera.seeds, vera.mean, vera.difference, vera.errors) == (0, None, None, 1)


def test_without_a_baseline_there_is_no_difference():
    rows = summarise([cell("dora", 8, 0, 1.0), cell("lora", 8, 0, 1.0, samples=64)], ["lora", "dora"])
    assert [(row.samples, row.method, row.difference) for row in rows] == [
        (16, "dora", None),
        (64, "lora", None),
    ]


def test_rates_that_were_chosen_are_told():
    cells = [cell("lora", 8, seed, 1.0, settings={"lr": lr}) for seed, lr in enumerate((1e-3, 1e-4, 1e-3))]
    (row,) = summarise(cells, ["lora"])
    assert row.lr == "0.0001 x1, 0.001 x2"
    assert row.trainable_parameters == 80
    assert row.seconds_per_step == pytest.approx(0.5)
