"""The runs that are compared, and the training of many of them at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.shared.results import Cell, circumstances
from corefold.adapters.deep_lora.recipe import num_bases_batches
from corefold.finetune import RunConfig
from corefold.finetune.method import Decided, decide
from corefold.finetune.methods import METHODS
from corefold.finetune.run_data import SourceTables
from corefold.finetune.tasks.kinds import kind_of
from reproduce.many.batched_data import RunRows, draw_many
from reproduce.many.batched_training import (
    NO_UPDATES,
    BatchedEncoder,
    BatchedUpdates,
    Schedule,
    answers,
    train,
)
from reproduce.many.claims import EARLIER
from reproduce.many.initialization import deep_start, fisher_bases, lora_start

EPS = {"deep-lora": 1e-6, "lora": 1e-8, "head": 1e-8, "untouched": 1e-8}


@dataclass(frozen=True)
class RunSettings:
    """A row of the table: a method, and its settings that are not the default.

    Attributes:
        method: by its name in `corefold compare`.
        settings: of `RunConfig`.
        rate_factor: the rate over the default rate.
    """

    method: str
    settings: Mapping[str, Any]
    rate_factor: float = 1.0


def deep(rate_factor: float = 1.0, **settings: Any) -> RunSettings:
    """Deep LoRA, at so many times its default rate."""
    return RunSettings("deep-lora", settings, rate_factor)


def lora(lr: float, rank: int = 8) -> RunSettings:
    """LoRA."""
    return RunSettings("lora", {"lr": lr, "rank": rank})


TRIED = ("lora, 1e-4", "lora, 3e-4", "lora, 1e-3")  # from which the tuned LoRA chooses
RUNS = {
    "deep-lora": deep(),
    **{f"lora, {lr}": lora(float(lr)) for lr in ("1e-4", "2e-4", "3e-4", "1e-3")},
    "head": RunSettings("head", {}),
    "untouched": RunSettings("untouched", {}),
    # Ranks and rates around the default, also for a search with --held-back.
    **{f"deep-lora, rank {rank}": deep(rank=rank) for rank in (4, 8, 16, 64)},
    **{f"deep-lora, rate x {factor:g}": deep(factor) for factor in (0.316, 3.16)},
    **{f"lora, 1e-3, rank {rank}": lora(1e-3, rank) for rank in (2, 4, 16, 64)},
    "lora, 3e-3": lora(3e-3),
    EARLIER: deep(weight_decay=0.0),
}
DEFAULT = list(RUNS)[:7]


@dataclass(frozen=True)
class Setting:
    """A set, a number of rows and seeds, with everything that their runs share."""

    config: RunConfig
    tables: SourceTables
    encoder: BatchedEncoder
    device: torch.device
    seeds: Sequence[int]

    def rows(self, *, fifth: bool = False) -> RunRows:
        """The rows of all seeds; for `fifth` see `draw_many`."""
        width = self.encoder.model.config.hidden_size
        return draw_many(self.config, self.tables, self.seeds, width, self.device, fifth=fifth)

    def settings_of(self, run: RunSettings) -> Decided[Any]:
        """The settings of a run, its rate among them."""
        config = replace(self.config, **run.settings)
        settings = decide(config, self.tables.task, config.samples or 1, METHODS[run.method])
        return replace(settings, lr=settings.lr * run.rate_factor)

    def trained_numbers(self, method: str, settings: Decided[Any]) -> int:
        """The trained numbers of one run, without its head."""
        sides = [layer.base.weight.shape for layer in self.encoder.layers.values()]
        if method == "lora":
            return sum(settings.rank * (out + in_) for out, in_ in sides)
        if method == "deep-lora":
            return sum(2 * settings.rank * min(settings.own.width, *side) for side in sides)
        return 0


def trained(setting: Setting, names: Sequence[str], together: int, *, fifth: bool = False) -> Iterator[Cell]:
    """The cells of these runs, `together` of them trained at once."""
    rows = setting.rows(fifth=fifth)
    for some in _groups(names, len(setting.seeds), together):
        yield from _cells(setting, rows, some)
        print(f"{setting.config.train}, {setting.config.samples} rows: {'; '.join(some)}", flush=True)


def _groups(names: Sequence[str], seeds: int, most: int) -> Iterator[list[str]]:
    """Runs of one method that train at once, at most `most` with all seeds."""
    for method in EPS:
        own = [name for name in names if RUNS[name].method == method]
        size = max(1, most // seeds)
        yield from (own[start : start + size] for start in range(0, len(own), size))


def _cells(setting: Setting, rows: RunRows, names: Sequence[str]) -> list[Cell]:
    """All seeds of these runs, which have one method."""
    began = time.perf_counter()
    method, settings = RUNS[names[0]].method, [setting.settings_of(RUNS[name]) for name in names]
    many, updates = rows.repeated(len(names)), initial_updates(setting, rows, method, settings)
    trains = METHODS[method].trains
    if trains:
        torch.manual_seed(0)
        order = [*setting.seeds] * len(names)
        schedule = _schedule(setting, method, settings)
        train(setting.encoder, updates, many.heads, many.texts, many.train, schedule, order)
    scored = many.scored(answers(setting.encoder, updates, many.heads, many.texts, many.judged))
    main, shared = kind_of(setting.tables.task).main_score, circumstances(setting.device.type)
    shared |= {"method": method, "main": main, "test_rows": many.judged.shape[1]}
    shared |= {"seconds_in_all": (time.perf_counter() - began) / len(scored)}
    head = sum(each[0].numel() for each in many.heads.parameters())
    each_run = (
        (name, own, seed) for name, own in zip(names, settings, strict=True) for seed in setting.seeds
    )
    return [
        {
            "run": name,
            "seed": seed,
            "rank": own.rank,
            "score": scores[main],
            "loss": scores["loss"],
            "lr": own.lr if trains else None,
            "weight_decay": own.weight_decay,
            "steps": own.steps,
            "parameters": setting.trained_numbers(method, own) + head * trains,
            **shared,
        }
        for (name, own, seed), scores in zip(each_run, scored, strict=True)
    ]


def _schedule(setting: Setting, method: str, settings: Sequence[Decided[Any]]) -> Schedule:
    first, count = settings[0], len(setting.seeds)
    rates, decays = (
        torch.tensor(values, device=setting.device).repeat_interleave(count)
        for values in ([own.lr for own in settings], [own.weight_decay for own in settings])
    )
    head_rate = first.lr if method == "head" else first.head_lr
    return Schedule(first.steps, rates, decays, head_rate, EPS[method], first.batch_size)


def initial_updates(
    setting: Setting, rows: RunRows, method: str, settings: Sequence[Decided[Any]]
) -> BatchedUpdates:
    """The updates of a method at their start; methods without updates have none."""
    if method == "lora":
        return lora_start([own.rank for own in settings], setting.seeds, setting.encoder)
    if method != "deep-lora":
        return NO_UPDATES
    width = max(own.own.width for own in settings)
    count = num_bases_batches(settings[0].steps) * settings[0].batch_size  # as many rows as the library takes
    bases = fisher_bases(setting.encoder, rows.heads, rows.texts, rows.train[:, :count], width)
    return deep_start([(own.rank, own.own.width) for own in settings], setting.seeds, bases)
