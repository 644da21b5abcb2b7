"""The recipe of Deep LoRA: rate, rank, width, weight decay and batches for the bases, for so many rows and steps.

This is the only place where the rule is written down. `reproduce/defaults` says how it was found: on up to 256 rows in
at most 160 steps, and on 1,024 rows in 500. Between the two it passes from one to the other evenly in log(steps). The
rates of pairs are no part of that search: they come from a few trials of pair cores, and that of a square core is a
guess between the others.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

Head = Literal["classifier", "pairs", "cosine", "language-model"]

SHORT_RUN_STEPS, LONG_RUN_STEPS = 160, 500
SHORT_RUN_RANK, LONG_RUN_RANK = 2, 4
RANK_TIMES_WIDTH = 224  # equal for all ranks of the rule, so that runs of any length train as many numbers
SHORT_RUN_WIDTH = RANK_TIMES_WIDTH // SHORT_RUN_RANK
CORE_LR = 0.025  # for rank 1 and one pass over the rows, without weight decay
PAIRS_LR = 0.01  # likewise for rank 1, for the pairs of batches, whatever the number of passes
COSINE_LR_FACTOR = 0.25  # the embeddings of a pretrained encoder need small changes
LONG_RUN_LR_POWER = (
    0.8  # the rate falls with this power of steps / SHORT_RUN_STEPS, against learning rows by heart
)
WEIGHT_DECAY = 3.0  # in a short run under a head, where it lets the rate double
HEAD_LR = 1e-3  # slow enough that the adapter fits the rows before the head does
ADAM_EPS = 1e-6  # PyTorch's default is 1e-8; the authors of Deep LoRA use this one

SQUARE_CORE_LR = {
    "classifier": 1e-1,
    "pairs": 3e-2,
    "cosine": 8e-3,
    "language-model": 8e-2,
}  # divided by the rank
SQUARE_CORE_FULL_LR_ROWS = 64  # with fewer rows the rate under a head is lower in proportion

PASSES_OVER_ROWS = 10  # where steps are not given
MIN_STEPS, MAX_STEPS = 100, 500
MIN_BASES_BATCHES = 4
STEPS_PER_BASES_BATCH = 40  # a long run can afford more batches


@dataclass(frozen=True)
class Recipe:
    """How to train Deep LoRA on some rows: arguments of `DeepLoraConfig`, `param_groups`, AdamW and `BasesCallback`.

    Attributes:
        r: rank.
        width: columns of the bases; None for a square core.
        depth: number of core factors.
        lr: learning rate of the cores.
        weight_decay: AdamW's weight decay of the cores; nothing else decays.
        head_lr: learning rate of a head, and of anything else that trains beside the cores.
        steps: optimizer steps.
        num_batches: batches from which the bases are read, for `initialize_bases` or `BasesCallback`.
        eps: AdamW's eps.
    """

    r: int
    width: int | None
    depth: int
    lr: float
    weight_decay: float
    head_lr: float
    steps: int
    num_batches: int
    eps: float = ADAM_EPS

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of `DeepLoraConfig`."""
        return {"r": self.r, "width": self.width, "depth": self.depth}

    @property
    def rates(self) -> dict[str, float]:
        """Arguments of `param_groups`."""
        return {"lr": self.lr, "weight_decay": self.weight_decay, "other_lr": self.head_lr}


def recipe(
    *,
    rows: int,
    batch_size: int = 16,
    head: Head = "classifier",
    steps: int | None = None,
    r: int | None = None,
    width: int | None = None,
    depth: int = 2,
    lr: float | None = None,
    weight_decay: float | None = None,
    head_lr: float | None = None,
) -> Recipe:
    """The settings that `corefold finetune` would train Deep LoRA with.

    Arguments that you give stay, and the others follow from them.

    Args:
        rows: number of training rows.
        batch_size: rows in each step, over all processes and accumulated batches.
        head: `"classifier"`, a head that trains with the adapter, for classes or for numbers; `"pairs"`, embeddings
            that train by the cosines of each two rows, and a head fitted afterwards; `"cosine"` of two embeddings; or
            `"language-model"`, whose own head stays frozen.
        steps: optimizer steps; by default ten passes over the rows, at least 100 steps and at most 500.
        r: rank.
        width: columns of the bases; 0 for the paper's square core, as wide as its rank. A rank that no
            default width can hold makes a square core, too.
        depth: number of core factors, 2 unless `width` is 0.
        lr: learning rate of the cores.
        weight_decay: AdamW's weight decay of the cores.
        head_lr: learning rate of everything else.

    Raises:
        ValueError: a number out of range, a width below the rank, or a head that is none of the four.

    >>> recipe(rows=64, steps=100).rates
    {'lr': 0.007071067811865475, 'weight_decay': 3.0, 'other_lr': 0.001}
    >>> recipe(rows=1024, batch_size=16).config
    {'r': 4, 'width': 56, 'depth': 2}
    """
    rows, batch_size, depth = _whole("rows", rows), _whole("batch_size", batch_size), _whole("depth", depth)
    r = None if r is None else _whole("r", r)
    width = None if width is None else _whole("width", width, least=0)
    _check_at_least(0, lr=lr, weight_decay=weight_decay, head_lr=head_lr)
    if head not in get_args(Head):
        raise ValueError(f"head must be one of {', '.join(get_args(Head))}; got {head!r}")
    steps = default_steps(rows, batch_size) if steps is None else _whole("steps", steps)
    # A rank that is left open enters the rate as a real number, which no step changes by a jump.
    rank = _default_rank(steps) if r is None else r
    r, columns = _shape(steps, r, width)
    if depth != 2 and width != 0:
        raise ValueError(f"depth={depth} needs a square core, width=0; got width={width}")
    if r < columns:
        passes = max(1.0, steps * batch_size / rows)
        rates = _narrow_core_rates(min(rank, columns), steps, passes, head, weight_decay)
    else:
        rates = _square_core_lr(r, rows, head), 0.0 if weight_decay is None else weight_decay
    return Recipe(
        r=r,
        width=columns if r < columns else None,
        depth=depth,
        lr=rates[0] if lr is None else lr,
        weight_decay=rates[1],
        head_lr=HEAD_LR if head_lr is None else head_lr,
        steps=steps,
        num_batches=num_bases_batches(steps),
    )


def default_steps(rows: int, batch_size: int) -> int:
    """Ten passes over the rows, within bounds."""
    return min(MAX_STEPS, max(MIN_STEPS, PASSES_OVER_ROWS * math.ceil(rows / batch_size)))


def num_bases_batches(steps: int) -> int:
    """The number of batches from which the bases are read: four, or in a long run more, which cost it little."""
    return max(MIN_BASES_BATCHES, steps // STEPS_PER_BASES_BATCH)


def _whole(name: str, value: int, least: int = 1) -> int:
    """The value as an int, if it is a whole number from `least` up."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
    return number


def _check_at_least(least: int, **numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least}; got {value}")


def _length(steps: int) -> float:
    """Where the steps lie between a short run, 0, and a long run, 1, on a logarithmic scale."""
    share = math.log(steps / SHORT_RUN_STEPS) / math.log(LONG_RUN_STEPS / SHORT_RUN_STEPS)
    return min(1.0, max(0.0, share))


def _default_rank(steps: int) -> float:
    return SHORT_RUN_RANK + (LONG_RUN_RANK - SHORT_RUN_RANK) * _length(steps)


def _shape(steps: int, r: int | None, width: int | None) -> tuple[int, int]:
    """Rank, and columns of the bases: a long run has a higher rank in narrower bases."""
    if width == 0:
        r = SHORT_RUN_RANK if r is None else r
        return r, r
    default_rank = math.floor(_default_rank(steps) + 0.5)
    if width is None:
        r = default_rank if r is None else r
        default_width = round(RANK_TIMES_WIDTH / default_rank)
        # A rank that a long run's bases cannot hold gets the wider ones of a short run, and beyond them a square core.
        return r, default_width if r < default_width else max(r, SHORT_RUN_WIDTH)
    r = min(default_rank, width) if r is None else r
    if width < r:
        raise ValueError(f"width must be at least the rank {r}, or 0 for a square core; got {width}")
    return r, width


def _narrow_core_rates(
    rank: float, steps: int, passes: float, head: Head, weight_decay: float | None
) -> tuple[float, float]:
    """Learning rate and weight decay.

    The rate falls with the rank, with the passes over the rows, and with the length of a long run. It rises with the
    weight decay up to the decay that is the default.
    """
    default_decay = WEIGHT_DECAY * (1 - _length(steps)) if head == "classifier" else 0.0
    weight_decay = default_decay if weight_decay is None else weight_decay
    if head == "pairs":
        lr = PAIRS_LR / math.sqrt(rank)
    else:
        lr = CORE_LR * (COSINE_LR_FACTOR if head == "cosine" else 1.0) / math.sqrt(rank * passes)
    lr /= max(1.0, steps / SHORT_RUN_STEPS) ** LONG_RUN_LR_POWER
    return lr * (1 + min(weight_decay, default_decay) / WEIGHT_DECAY), weight_decay


def _square_core_lr(r: int, rows: int, head: Head) -> float:
    """Adam moves the norm of a square core by up to its width times the rate.

    Under a head, few rows are repeated often, and a lower rate keeps the core from learning them by heart.
    """
    share = min(1.0, rows / SQUARE_CORE_FULL_LR_ROWS) if head == "classifier" else 1.0
    return SQUARE_CORE_LR[head] * share / r
