"""The cells of a comparison: every method, rank, number of training rows and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corefold.adapters.deep_lora.recipe import default_steps
from corefold.errors import InputError
from corefold.finetune import RunConfig
from corefold.finetune.method import value_or
from corefold.finetune.methods import METHODS

Try = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """The key of a cell; the rank is None for a method without rank."""

    method: str
    rank: int | None
    samples: int
    seed: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Key:
        """The key of a cell's record."""
        return cls(record["method"], record["rank"], record["samples"], record["seed"])

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", rank {self.rank}"
        return f"{self.method}{rank}, {self.samples:,} rows, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """All cells of a comparison.

    Attributes:
        config: the settings that all cells share; each cell has its own method, rank, samples and seed.
        methods: names of methods; the first is the baseline.
        ranks: ranks of the adapters.
        samples: numbers of training rows.
        seeds: the number of seeds, counted from 0.
        tries: for each method that trains, settings to choose from on held-out training rows; none, or the same
            number for each.

    Raises:
        InputError: an unknown method, a number below 1, something twice, or unequal numbers of tries.
    """

    config: RunConfig
    methods: tuple[str, ...]
    ranks: tuple[int, ...]
    samples: tuple[int, ...]
    seeds: int
    tries: Mapping[str, Sequence[Try]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise InputError(f"--methods knows {', '.join(METHODS)}; got {name!r}")
        for flag, values in (("methods", self.methods), ("ranks", self.ranks), ("samples", self.samples)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"--{flag} needs one or more, each once; got {_listed(values)}")
            if any(isinstance(each, int) and each < 1 for each in values):
                raise InputError(f"--{flag} must be at least 1; got {_listed(values)}")
        if self.seeds < 1:
            raise InputError(f"--seeds must be at least 1; got {self.seeds}")
        counts = {name: len(self.tries.get(name, ())) for name in self.methods if trains(name)}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"--tune gives each method the same number of tries; got {listed}")
        if any(counts.values()) and min(self.samples) < 5:
            raise InputError(
                f"--tune holds out a fifth of the training rows; --samples {min(self.samples)} has none"
            )

    def keys(self) -> list[Key]:
        """The cells in the order in which they run: methods in turns, so that a part of the grid compares them."""
        keys: dict[Key, None] = {}
        for seed in range(self.seeds):
            for samples in self.samples:
                for rank in self.ranks:
                    for name in self.methods:
                        keys[Key(name, rank if METHODS[name].has_rank else None, samples, seed)] = None
        return list(keys)

    def work(self, key: Key) -> float:
        """The training steps of a cell, tries included, from which the time left is estimated."""
        if not trains(key.method):
            return 1.0
        steps = value_or(
            self.config.steps, default_steps(key.samples, self.config.batch_size * self.config.grad_accum)
        )
        return steps * (1 + len(self.tries.get(key.method, ())))


def trains(method: str) -> bool:
    """Whether a method trains, and so has settings to choose; `Grid` refuses an unknown one, with a better message."""
    return method not in METHODS or METHODS[method].trains


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values)) or "none"
