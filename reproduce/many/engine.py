"""Many small trainings of one encoder at once: K runs, each with rows, start, bases and rate of its own.

A batch holds the K runs' batches one after another, so that the frozen weights meet all of them in one product, and the
K low-rank updates are one batched product: a GPU trains hundreds of runs in the time of a few. What is computed is what
`corefold.finetune` computes for each run alone, but for rounding, the order of rows and the noise of dropout.
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
PARTS = (0.5, 0.8125, 1.0)  # of a batch by length: short rows apart from long ones need less padding

Pairs = dict[str, tuple[Tensor, Tensor]]


@dataclass
class Texts:
    """Encoded rows: tokens (texts, rows, length), padded by -1, and labels (rows,); a row of a pair has two texts."""

    tokens: Tensor
    labels: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row's longest text."""
        return (self.tokens >= 0).sum(-1).amax(0)

    def to(self, device: torch.device) -> Texts:
        """The same rows there."""
        return Texts(self.tokens.to(device), self.labels.to(device))

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (texts, runs, rows, length), their mask, and labels (runs, rows), of the rows at (runs, rows)."""
        tokens = self.tokens[:, places]
        tokens = tokens[..., : int((tokens >= 0).sum(-1).max())]
        return tokens.clamp(min=0), tokens >= 0, self.labels[places]


class Layer(nn.Module):
    """A frozen linear layer and one low-rank update a run."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.pair: tuple[Tensor, Tensor] | None = None  # (runs, in, r) and (runs, out, r)
        self.watch: Callable[[Tensor, Tensor], None] | None = (
            None  # gets the inputs and the outputs' gradient
        )

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


class Body:
    """An encoder whose linear layers are all `Layer`s; a text's embedding is the mean of its tokens'."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False)
        self.layers: dict[str, Layer] = {}
        encoder = model.get_submodule("encoder")
        for name, module in list(encoder.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                self.layers[name] = Layer(module)
                setattr(encoder.get_submodule(parent), child, self.layers[name])

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(texts, runs, rows, length) to (runs, texts, rows, width)."""
        texts, runs, rows, length = tokens.shape
        tokens, mask = (each.transpose(0, 1).reshape(-1, length) for each in (tokens, mask))
        hidden = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state.float()
        kept = mask.unsqueeze(-1).to(hidden)
        return ((hidden * kept).sum(1) / kept.sum(1)).view(runs, texts, rows, -1)


@dataclass
class Heads:
    """A linear head for each run; without them the cosine of a pair answers.

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
        """What trains of them."""
        return [] if self.weight is None or self.bias is None else [self.weight, self.bias]

    def repeated(self, times: int) -> Heads:
        """Fresh copies, all runs once, then all of them again."""
        return Heads(
            *(each if each is None else each.repeat(times, 1, 1) for each in (self.weight, self.bias))
        )


@dataclass
class Updates:
    """K updates of every layer: `scale * left P Q^T right^T`, or `scale * P Q^T` where there are no bases.

    Attributes:
        q, p: factors by layer, (runs, width or in, r) and (runs, width or out, r).
        bases: left (runs, out, width) and right (runs, in, width) by layer.
        scale: of all.
    """

    q: dict[str, Tensor]
    p: dict[str, Tensor]
    bases: Pairs | None = None
    scale: float = 1.0

    def set(self, body: Body) -> None:
        """Give each layer the thin pair that its update is the product of."""
        for name, layer in body.layers.items():
            if name not in self.q:
                layer.pair = None
                continue
            q, p = self.q[name], self.p[name]
            if self.bases is not None:
                left, right = self.bases[name]
                q, p = right @ q, left @ p
            layer.pair = (q, p * self.scale)


NO_UPDATES = Updates({}, {})


@dataclass(frozen=True)
class Pace:
    """How fast what trains: AdamW, its rate warmed up, then falling to zero as in `corefold.finetune`.

    Attributes:
        steps: how many.
        rates: of each run's factors, (runs,).
        decays: weight decay of each run's factors, (runs,); heads have none.
        head_rate: of all heads.
        eps: of Adam.
        batch: rows a step.
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
    body: Body, updates: Updates, heads: Heads, texts: Texts, rows: Tensor, pace: Pace, order: Sequence[int]
) -> Tensor:
    """Train all runs, in place.

    Args:
        body: the encoder.
        updates: at their start.
        heads: at theirs.
        texts: all rows.
        rows: which of them each run trains on, (runs, rows).
        pace: rates and steps.
        order: seeds of the runs' orders of rows.

    Returns:
        Each run's losses, (steps, runs).
    """
    body.model.train()
    factors = [*updates.q.values(), *updates.p.values()]
    linear = heads.parameters()
    every = [p.requires_grad_() for p in (*factors, *linear)]
    rates = [pace.rates] * len(factors) + [torch.full_like(pace.rates, pace.head_rate)] * len(linear)
    decays = [pace.decays] * len(factors) + [torch.zeros_like(pace.decays)] * len(linear)
    adam = _AdamW(every, rates, decays, pace)
    lengths, losses = texts.lengths, []
    for step, places in zip(range(pace.steps), _batches(rows, pace.batch, order), strict=False):
        places = places.gather(1, lengths[places].argsort(1))
        cuts = [math.ceil(share * places.shape[1]) for share in PARTS]
        grads, loss = [], torch.zeros_like(pace.rates)
        for begin, end in zip([0, *cuts], cuts, strict=False):
            if begin == end:
                continue
            updates.set(body)
            tokens, mask, labels = texts.batch(places[:, begin:end])
            part = heads.losses(body.embed(tokens, mask), labels).sum(1) / places.shape[1]
            loss += part.detach()
            more = torch.autograd.grad(part.sum(), every)
            grads = more if not grads else torch._foreach_add(grads, more)
        losses.append(loss)
        adam.move(step, grads)
    return torch.stack(losses)


class _AdamW:
    """AdamW whose rate and decay are others for each run; torch's has one of each a tensor."""

    def __init__(
        self, parameters: list[Tensor], rates: list[Tensor], decays: list[Tensor], pace: Pace
    ) -> None:
        self.parameters, self.rates, self.decays, self.pace = parameters, rates, decays, pace
        self.means, self.squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    @torch.no_grad()
    def move(self, step: int, grads: Sequence[Tensor]) -> None:
        """One step, counted from 0."""
        torch._foreach_lerp_(self.means, grads, 1 - BETAS[0])
        torch._foreach_mul_(self.squares, BETAS[1])
        torch._foreach_addcmul_(self.squares, grads, grads, 1 - BETAS[1])
        roots = torch._foreach_sqrt(torch._foreach_div(self.squares, 1 - BETAS[1] ** (step + 1)))
        torch._foreach_add_(roots, self.pace.eps)
        now, unbiased = self.pace.at(step), 1 - BETAS[0] ** (step + 1)
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
    body: Body, updates: Updates, heads: Heads, texts: Texts, rows: Tensor, together: int = 4096
) -> Tensor:
    """What each run answers to its rows, (runs, rows) or (runs, rows, classes); that many rows in all `together`."""
    body.model.eval()
    updates.set(body)
    by_length = texts.lengths[rows].argsort(1)
    parts = []
    for places in rows.gather(1, by_length).split(max(1, together // len(rows)), 1):
        tokens, mask, _ = texts.batch(places)
        parts.append(heads.outputs(body.embed(tokens, mask)))
    found = torch.cat(parts, 1)
    back = by_length.argsort(1)
    return found.gather(1, back if found.ndim == 2 else back[..., None].expand_as(found))
