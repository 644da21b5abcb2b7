"""Many small trainings of one encoder at once: K runs, each with rows, start, bases and rate of its own.

A batch holds the K runs' batches one after another. The frozen weights multiply all of them in one product, and the K
low-rank updates are one batched product, so a GPU trains hundreds of runs in the time of a few. Each run is the one
that `corefold.finetune` trains alone, except for rounding, the order of rows and the noise of dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from corefold.finetune.trainer import WARMUP_SHARE

BETAS = (0.9, 0.999)
CUTS = (0.5, 0.8125, 1.0)  # A batch sorted by length is cut here: parts of similar lengths need less padding.

Pairs = dict[str, tuple[Tensor, Tensor]]


@dataclass
class EncodedTexts:
    """Encoded rows: tokens (texts, rows, length), padded by -1, and labels (rows,); a row of a pair has two texts."""

    tokens: Tensor
    labels: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row's longest text."""
        return (self.tokens >= 0).sum(-1).amax(0)

    def to(self, device: torch.device) -> EncodedTexts:
        """The same rows on a device."""
        return EncodedTexts(self.tokens.to(device), self.labels.to(device))

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (texts, runs, rows, length), their mask, and labels (runs, rows), of the rows at (runs, rows)."""
        tokens = self.tokens[:, places]
        tokens = tokens[..., : int((tokens >= 0).sum(-1).max())]
        return tokens.clamp(min=0), tokens >= 0, self.labels[places]


class BatchedLinear(nn.Module):
    """A frozen linear layer and one low-rank update a run."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.pair: tuple[Tensor, Tensor] | None = None  # (runs, in, r) and (runs, out, r)
        # Called with the inputs and the outputs' gradient.
        self.watch: Callable[[Tensor, Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The layer's outputs; runs are outermost in `x`."""
        y = self.base(x)
        if self.watch is not None:
            y.register_hook(partial(self.watch, x.detach()))
        if self.pair is None:
            return y
        right, tall = self.pair
        update = (x.reshape(len(right), -1, x.shape[-1]).to(right.dtype) @ right) @ tall.mT
        return (y + update.view(y.shape)).to(y.dtype)


class BatchedEncoder:
    """An encoder whose linear layers are all `BatchedLinear`; a text's embedding is the mean of its tokens'."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False)
        self.layers: dict[str, BatchedLinear] = {}
        encoder = model.get_submodule("encoder")
        for name, module in list(encoder.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                self.layers[name] = BatchedLinear(module)
                setattr(encoder.get_submodule(parent), child, self.layers[name])

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(texts, runs, rows, length) to (runs, texts, rows, width)."""
        texts, runs, rows, length = tokens.shape
        tokens, mask = (each.transpose(0, 1).reshape(-1, length) for each in (tokens, mask))
        hidden = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state.float()
        kept = mask.unsqueeze(-1).to(hidden)
        return ((hidden * kept).sum(1) / kept.sum(1)).view(runs, texts, rows, -1)


@dataclass
class BatchedHeads:
    """A linear head for each run; without heads, a pair's answer is the cosine of its embeddings.

    Attributes:
        weight: (runs, classes, width).
        bias: (runs, 1, classes).
    """

    weight: Tensor | None = None
    bias: Tensor | None = None

    def outputs(self, embedded: Tensor) -> Tensor:
        """Logits (runs, rows, classes), or cosines (runs, rows)."""
        if self.weight is None or self.bias is None:
            return torch.cosine_similarity(embedded[:, 0], embedded[:, 1], -1)
        return embedded[:, 0] @ self.weight.mT + self.bias

    def losses(self, embedded: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row, (runs, rows)."""
        outputs = self.outputs(embedded)
        if self.weight is None:
            return (outputs - labels).square()
        return nn.functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none").view(
            labels.shape
        )

    def parameters(self) -> list[Tensor]:
        """The trained tensors."""
        return [] if self.weight is None or self.bias is None else [self.weight, self.bias]

    def repeated(self, times: int) -> BatchedHeads:
        """Fresh copies of all runs' heads, one set after the other."""
        return BatchedHeads(
            *(each if each is None else each.repeat(times, 1, 1) for each in (self.weight, self.bias))
        )


@dataclass
class BatchedUpdates:
    """K updates of every layer: `scale * left P Q^T right^T`, or `scale * P Q^T` where there are no bases.

    Attributes:
        q, p: factors by layer, (runs, width or in, r) and (runs, width or out, r).
        bases: left (runs, out, width) and right (runs, in, width) by layer.
        scale: of all updates.
    """

    q: dict[str, Tensor]
    p: dict[str, Tensor]
    bases: Pairs | None = None
    scale: float = 1.0

    def set(self, encoder: BatchedEncoder) -> None:
        """Give each layer the thin pair whose product is its update."""
        for name, layer in encoder.layers.items():
            if name not in self.q:
                layer.pair = None
                continue
            q, p = self.q[name], self.p[name]
            if self.bases is not None:
                left, right = self.bases[name]
                q, p = right @ q, left @ p
            layer.pair = (q, p * self.scale)


NO_UPDATES = BatchedUpdates({}, {})


@dataclass(frozen=True)
class Schedule:
    """AdamW with a rate that is warmed up and then falls linearly to zero, as in `corefold.finetune`.

    Attributes:
        steps: their number.
        rates: of each run's factors, (runs,).
        decays: weight decay of each run's factors, (runs,); heads have none.
        head_rate: of all heads.
        eps: of Adam.
        batch: rows of a step.
    """

    steps: int
    rates: Tensor
    decays: Tensor
    head_rate: float
    eps: float
    batch: int = 16

    def at(self, step: int) -> float:
        """The share of the rate at a step, counted from 0."""
        warm = math.ceil(WARMUP_SHARE * self.steps)
        return step / warm if step < warm else (self.steps - step) / (self.steps - warm)


def train(
    encoder: BatchedEncoder,
    updates: BatchedUpdates,
    heads: BatchedHeads,
    texts: EncodedTexts,
    rows: Tensor,
    schedule: Schedule,
    order: Sequence[int],
) -> Tensor:
    """Train all runs, in place.

    Args:
        encoder: shared by all runs.
        updates: at their start.
        heads: at their start.
        texts: all rows.
        rows: places of the rows on which each run trains, (runs, rows).
        schedule: rates and steps.
        order: seeds of the runs' orders of rows.

    Returns:
        Each run's losses, (steps, runs).
    """
    encoder.model.train()
    factors = [*updates.q.values(), *updates.p.values()]
    linear = heads.parameters()
    every = [p.requires_grad_() for p in (*factors, *linear)]
    rates = [schedule.rates] * len(factors) + [torch.full_like(schedule.rates, schedule.head_rate)] * len(
        linear
    )
    decays = [schedule.decays] * len(factors) + [torch.zeros_like(schedule.decays)] * len(linear)
    adam = _AdamW(every, rates, decays, schedule)
    lengths, losses = texts.lengths, []
    for step, places in zip(range(schedule.steps), _batches(rows, schedule.batch, order), strict=False):
        places = places.gather(1, lengths[places].argsort(1))
        cuts = [math.ceil(share * places.shape[1]) for share in CUTS]
        grads, loss = [], torch.zeros_like(schedule.rates)
        for begin, end in zip([0, *cuts], cuts, strict=False):
            if begin == end:
                continue
            updates.set(encoder)
            tokens, mask, labels = texts.batch(places[:, begin:end])
            part = heads.losses(encoder.embed(tokens, mask), labels).sum(1) / places.shape[1]
            loss += part.detach()
            more = torch.autograd.grad(part.sum(), every)
            grads = more if not grads else torch._foreach_add(grads, more)
        losses.append(loss)
        adam.move(step, grads)
    return torch.stack(losses)


class _AdamW:
    """AdamW with a rate and a decay for each run; torch's has one of each for a tensor."""

    def __init__(
        self, parameters: list[Tensor], rates: list[Tensor], decays: list[Tensor], schedule: Schedule
    ) -> None:
        self.parameters, self.rates, self.decays, self.schedule = parameters, rates, decays, schedule
        self.means, self.squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    @torch.no_grad()
    def move(self, step: int, grads: Sequence[Tensor]) -> None:
        """One step, counted from 0."""
        torch._foreach_lerp_(self.means, grads, 1 - BETAS[0])
        torch._foreach_mul_(self.squares, BETAS[1])
        torch._foreach_addcmul_(self.squares, grads, grads, 1 - BETAS[1])
        roots = torch._foreach_sqrt(torch._foreach_div(self.squares, 1 - BETAS[1] ** (step + 1)))
        torch._foreach_add_(roots, self.schedule.eps)
        now, unbiased = self.schedule.at(step), 1 - BETAS[0] ** (step + 1)
        moves = torch._foreach_div(self.means, roots)
        for p, move, rate, decay in zip(self.parameters, moves, self.rates, self.decays, strict=True):
            kept = 1 - rate * now * decay
            p.mul_(kept[:, None, None]).sub_(move * (rate * now / unbiased)[:, None, None])


def _batches(rows: Tensor, size: int, order: Sequence[int]) -> Iterator[Tensor]:
    generators = [torch.Generator().manual_seed(each) for each in order]
    while True:
        shuffled = torch.stack([torch.randperm(rows.shape[1], generator=each) for each in generators])
        yield from rows.gather(1, shuffled.to(rows.device)).split(size, 1)


@torch.no_grad()
def answers(
    encoder: BatchedEncoder,
    updates: BatchedUpdates,
    heads: BatchedHeads,
    texts: EncodedTexts,
    rows: Tensor,
    together: int = 4096,
) -> Tensor:
    """Each run's answers to its rows, (runs, rows) or (runs, rows, classes), computed `together` rows at a time."""
    encoder.model.eval()
    updates.set(encoder)
    by_length = texts.lengths[rows].argsort(1)
    parts = []
    for places in rows.gather(1, by_length).split(max(1, together // len(rows)), 1):
        tokens, mask, _ = texts.batch(places)
        parts.append(heads.outputs(encoder.embed(tokens, mask)))
    answered = torch.cat(parts, 1)
    back = by_length.argsort(1)
    return answered.gather(1, back if answered.ndim == 2 else back[..., None].expand_as(answered))
