"""The cells of a comparison: every method, rank, number of training rows and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corefold.errors import InputError
from corefold.finetune import RunConfig
from corefold.finetune.methods import METHODS
from corefold.finetune.problem import default_steps

Try = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """What tells a cell from the others; the rank is None where it changes nothing."""

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
        config: what all cells share; method, rank, samples and seed are the cell's.
        methods: names of methods; the first is the baseline.
        ranks: of the adapters.
        samples: numbers of training rows.
        seeds: how many, from 0.
        tries: for each method that trains, settings to choose from on held-out training rows; nothing, or as many
            for each.

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
        for flag, given in (("methods", self.methods), ("ranks", self.ranks), ("samples", self.samples)):
            if not given or len(set(given)) < len(given):
                raise InputError(f"--{flag} needs one or more, each once; got {_listed(given)}")
            if any(isinstance(each, int) and each < 1 for each in given):
                raise InputError(f"--{flag} must be at least 1; got {_listed(given)}")
        if self.seeds < 1:
            raise InputError(f"--seeds must be at least 1; got {self.seeds}")
        counts = {name: len(self.tries.get(name, ())) for name in self.methods if trains(name)}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"--tune gives each method the same number of tries; got {said}")
        if any(counts.values()) and min(self.samples) < 5:
            raise InputError(
                f"--tune holds out a fifth of the training rows; --samples {min(self.samples)} has none"
            )

    def keys(self) -> list[Key]:
        """The cells in the order in which they run: in turns, so that a grid half done compares what it has."""
        found: dict[Key, None] = {}
        for seed in range(self.seeds):
            for samples in self.samples:
                for rank in self.ranks:
                    for name in self.methods:
                        found[Key(name, rank if METHODS[name].by_rank else None, samples, seed)] = None
        return list(found)

    def work(self, key: Key) -> float:
        """Training steps that a cell takes, tries included, for an estimate of the time left."""
        if not trains(key.method):
            return 1.0
        steps = self.config.steps or default_steps(key.samples, self.config.batch_size)
        return steps * (1 + len(self.tries.get(key.method, ())))


def trains(method: str) -> bool:
    """Whether a method trains anything, and so has something to choose from; an unknown one is told later."""
    return method not in METHODS or METHODS[method].trains


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values)) or "none"
