"""Deep LoRA's settings are those of `corefold.recipe`, and they reach adapter, bases and optimizer."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import corefold
from corefold.adapters import BasesCallback
from corefold.finetune import InputError, RunConfig, Task
from corefold.finetune.data import Columns
from corefold.finetune.method import decide
from corefold.finetune.methods import METHODS

TASKS = {
    "classifier": [
        Task("classification", "m", "own", Columns("text", label="label"), classes=("a", "b")),
        Task("classification", "m", "mean", Columns("text", label="label"), classes=("a", "b")),
        Task("regression", "m", "mean", Columns("text", label="label")),
    ],
    "pairs": [Task("classification", "m", "mean", Columns("text", label="label"), classes=("a", "b"))],
    "cosine": [Task("regression", "m", "cosine", Columns("a", "b", "label"), pair="separate")],
    "language-model": [Task("causal-lm", "m", "lm", Columns("text"))],
}
GIVEN = [
    {},
    *({"steps": steps} for steps in (20, 160, 161, 240, 320, 500, 640)),
    *({"rank": rank} for rank in (1, 4, 8, 64, 112)),
    {"width": 0},
    {"width": 0, "depth": 3, "rank": 32},
    {"width": 6, "steps": 300},
    {"lr": 1e-4},
    {"weight_decay": 0.5},
    {"weight_decay": 5.0, "steps": 320},
]


@pytest.mark.parametrize("head", TASKS)
@pytest.mark.parametrize("given", GIVEN)
def test_the_command_line_takes_what_the_recipe_returns(head, given):
    options = {"r" if name == "rank" else name: value for name, value in given.items()}
    for task, rows, batch_size in product(TASKS[head], (8, 64, 256, 1024, 20_000), (4, 16, 64)):
        objective = "pairs" if head == "pairs" else None
        settings = decide(
            RunConfig(batch_size=batch_size, objective=objective, **given), task, rows, METHODS["deep-lora"]
        )
        recipe = corefold.recipe(rows=rows, batch_size=batch_size, head=head, **options)
        own = settings.own
        assert {"r": settings.rank, "width": own.width or None, "depth": own.depth} == recipe.config
        rates = {"lr": settings.lr, "weight_decay": settings.weight_decay, "other_lr": settings.head_lr}
        assert rates == recipe.rates
        assert (settings.steps, own.num_batches) == (recipe.steps, recipe.num_batches)


def test_a_width_below_the_rank_is_refused_by_its_option():
    with pytest.raises(InputError, match="--rank 8, --width 6: width must be at least the rank 8"):
        decide(RunConfig(rank=8, width=6), TASKS["classifier"][0], 16, METHODS["deep-lora"])


@pytest.mark.parametrize("steps", [80, 640])
def test_the_settings_reach_bases_adapter_and_optimizer(prepared, steps):
    run = prepared("deep-lora", rank=2, width=8, steps=steps, basis_lr_ratio=0.25, seed=3, head_lr=0.5)
    (callback,) = (each for each in run.trainer.callback_handler.callbacks if isinstance(each, BasesCallback))
    assert callback.num_batches == steps // 40 if steps > 160 else 4
    assert callback.generator is not None
    assert callback.generator.initial_seed() == 3
    config = run.adapted.peft_config["default"]
    assert (config.r, config.width, config.depth, config.bases) == (2, 8, 2, "fisher")
    cores, bases, head = run.trainer.optimizer.param_groups
    settings = run.data.settings
    assert [group["lr"] for group in (cores, bases, head)] == [settings.lr, settings.lr / 4, 0.5]
    assert [group["eps"] for group in (cores, bases, head)] == [1e-6] * 3
    assert sum(p.numel() for p in cores["params"]) == 12 * 2 * 8 * 2


def test_random_bases_need_no_batches(prepared):
    run = prepared("deep-lora", width=8, bases="random")
    assert not any(isinstance(each, BasesCallback) for each in run.trainer.callback_handler.callbacks)


@pytest.mark.parametrize(
    ("method", "kind", "given", "expected"),
    [
        ("deep-lora", "mean", {}, 3.0),
        ("deep-lora", "mean", {"weight_decay": 0.5}, 0.5),
        ("deep-lora", "mean", {"width": 0}, 0.0),
        ("deep-lora", "cosine", {}, 0.0),
        ("deep-lora", "cosine", {"weight_decay": 0.5}, 0.5),
        ("lora", "mean", {}, 0.0),
        ("lora", "mean", {"weight_decay": 0.5}, 0.5),
        ("lora-one", "mean", {"weight_decay": 0.5}, 0.5),
    ],
)
def test_weight_decay_shrinks_the_adapter_and_never_the_head(prepared, method, kind, given, expected):
    run = prepared(method, kind, **given)
    assert run.data.settings.weight_decay == expected
    head = {id(p) for name, p in run.model.named_parameters() if name.startswith("head.")}
    assert bool(head) == (kind != "cosine")
    before = {p: p.detach().clone() for group in run.trainer.optimizer.param_groups for p in group["params"]}
    for p in before:
        p.grad = torch.zeros_like(p)
    run.trainer.optimizer.step()
    for p, value in before.items():
        kept = 1.0 if id(p) in head else 1 - run.data.settings.lr * expected
        torch.testing.assert_close(p.detach(), value * kept)
