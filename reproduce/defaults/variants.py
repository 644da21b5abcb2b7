"""The variants of the search, by name: Deep LoRA's settings and optimizers, and baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import TrainerCallback

from corefold.adapters import BasesCallback, param_groups
from corefold.finetune.deep_lora import DEEP_LORA
from corefold.finetune.method import Decided, Method
from corefold.finetune.methods import METHODS
from corefold.finetune.peer_initialization import InitializationData


class SharedMomentAdam(Optimizer):
    """Adam with one second moment for each tensor of the groups marked "shared", so that its step turns with a basis.

    The norm of such a step is at most `lr`, whatever the width; in Adam's own step every number moves by up to `lr`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], eps: float) -> None:
        super().__init__(groups, {"lr": 1e-3, "eps": eps, "betas": (0.9, 0.999), "shared": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                (b1, b2), t = group["betas"], state["t"]
                square = p.grad.square()
                state["m"].lerp_(p.grad, 1 - b1)
                state["v"].mul_(b2).add_((1 - b2) * (square.sum() if group["shared"] else square))
                root = (state["v"] / (1 - b2**t)).sqrt()
                p.sub_(group["lr"] * state["m"] / (1 - b1**t) / (root + group["eps"]))


@dataclass(frozen=True)
class Variant:
    """One combination of settings, optimizer and head.

    Attributes:
        method: by its name in `corefold compare`.
        settings: of `RunConfig`, where they differ from the defaults.
        shared: train the cores by `SharedMomentAdam`.
        means: the gradient for the bases goes through a head that points to the means of the classes.
        kept: training starts from that head.
    """

    method: str = "deep-lora"
    settings: Mapping[str, Any] = field(default_factory=dict)
    shared: bool = False
    means: bool = False
    kept: bool = False

    def changed_method(self) -> Method:
        """The method with this optimizer, head and start."""
        method = METHODS[self.method]
        if self.method == "deep-lora":
            method = replace(DEEP_LORA, optimizer=self._optimizer)
        if self.means:
            method = replace(method, initialize=_see_means, callbacks=self._callbacks)
        return replace(method, initialize=_start_at_means) if self.kept else method

    def _optimizer(self, settings: Decided[Any], model: nn.Module, head: list[nn.Parameter]) -> Optimizer:
        groups = param_groups(
            model, settings.lr, other_lr=settings.head_lr, weight_decay=settings.weight_decay
        )
        if not self.shared:
            return AdamW(groups, eps=1e-6)
        return SharedMomentAdam([{**group, "shared": group["name"] == "cores"} for group in groups], eps=1e-6)

    def _callbacks(self, settings: Decided[Any], model: Any) -> Sequence[TrainerCallback]:
        generator = torch.Generator().manual_seed(settings.seed)
        return (BasesCallback(4, loss_fn=_loss_through_means, generator=generator),)


def _see_means(data: InitializationData) -> None:
    """Keep, beside the model, a head that points from the mean of all rows to the means of the classes.

    Its logits have a standard deviation of 1.
    """
    model: Any = data.model
    model.means = None
    if model.head is None:
        return
    (batch,) = data.batches(1, len(data.rows))
    with torch.no_grad():
        x, y = model.eval()._embed(batch["first"]), batch["labels"]
    center = x.mean(0)
    means = [x[y == c].mean(0) if (y == c).any() else center for c in range(model.head.out_features)]
    weight = torch.stack(means) - center
    weight = weight / ((x - center) @ weight.T).std()
    model.means = weight, -weight @ center


def _start_at_means(data: InitializationData) -> None:
    _see_means(data)
    model: Any = data.model
    if model.means:
        model.head.load_state_dict(dict(zip(("weight", "bias"), model.means, strict=True)))


def _loss_through_means(model: Any, batch: Any) -> Tensor:
    if model.means is None:
        return model(**batch).loss
    weight, bias = model.means
    return nn.functional.cross_entropy(model._embed(batch["first"]) @ weight.T + bias, batch["labels"])


def lora(lr: float, **settings: Any) -> Variant:
    """LoRA of rank 8, alpha 16."""
    return Variant("lora", {"rank": 8, "lr": lr, **settings})


def deep(rank: int, lr: float, bases: str = "gradient", **settings: Any) -> Variant:
    """Deep LoRA with a square core."""
    return Variant(settings={"rank": rank, "lr": lr, "bases": bases, "width": 0, "depth": 3, **settings})


def narrow(rank: int, lr: float, width: int, **settings: Any) -> Variant:
    """Deep LoRA that chooses a few directions within wider bases."""
    return Variant(settings={"rank": rank, "lr": lr, "width": width, "weight_decay": 0.0, **SLOW, **settings})


FAST, SLOW = {"head_lr": 1e-2}, {"head_lr": 1e-3}
VARIANTS = {
    **{f"LoRA, lr {lr:g}, fast head": lora(lr, **FAST) for lr in (1e-4, 3e-4, 1e-3, 3e-3)},
    **{f"LoRA, lr {lr:g}": lora(lr, **SLOW) for lr in (3e-4, 1e-3, 3e-3)},
    "LoRA, lr 0.001, from class means": replace(lora(1e-3, **SLOW), kept=True),
    "head alone": Variant("head", {"lr": 1e-2}),
    # The default before the search, and one thing changed at a time.
    "mean gradient, width 8, fast head": deep(8, 1e-2, **FAST),
    "mean gradient, width 8, fast head, lr 0.03": deep(8, 3e-2, **FAST),
    "mean gradient, width 8, fast head, gamma 0.03": deep(8, 1e-2, basis_lr_ratio=0.03, **FAST),
    "mean gradient, width 8, fast head, gamma 0.1": deep(8, 1e-2, basis_lr_ratio=0.1, **FAST),
    "mean gradient, width 8, fast head, init_scale 0.3": deep(8, 1e-2, init_scale=0.3, **FAST),
    "mean gradient, width 8, fast head, depth 2": deep(8, 1e-2, depth=2, **FAST),
    "mean gradient, width 8, fast head, depth 1": deep(8, 1e-2, depth=1, **FAST),
    "mean gradient, width 8": deep(8, 1e-2, **SLOW),
    "mean gradient, width 8, lr 0.003": deep(8, 3e-3, **SLOW),
    "mean gradient, width 16, lr 0.01": deep(16, 1e-2, **SLOW),
    "mean gradient, width 32, fast head": deep(32, 1e-2, **FAST),
    "mean gradient, width 32, fast head, lr 0.005": deep(32, 5e-3, **FAST),
    "mean gradient, width 32, lr 0.003": deep(32, 3e-3, **SLOW),
    "spectral, width 32, fast head": deep(32, 1e-2, "spectral", **FAST),
    "random, width 32, fast head": deep(32, 1e-2, "random", **FAST),
    "random, width 32": deep(32, 1e-2, "random", **SLOW),
    "random, width 16": deep(16, 1e-2, "random", **SLOW),
    "mean gradient through class means, width 8, fast head": replace(deep(8, 1e-2, **FAST), means=True),
    "spectral through class means, width 8, fast head": replace(deep(8, 1e-2, "spectral", **FAST), means=True),
    # Bases from the gradients of single samples.
    **{f"single samples, width {r}, lr {lr:g}": deep(r, lr, "fisher", **SLOW)
       for r, lr in ((16, 5e-3), (16, 1e-2), (32, 1.25e-4), (32, 2.5e-4), (32, 5e-4), (32, 7.8125e-4),
                     (32, 1.5e-3), (32, 1.5625e-3), (32, 3e-3),
                     (32, 3.125e-3), (32, 5e-3), (32, 6.25e-3), (32, 1e-2), (64, 1.5e-3), (64, 1.5625e-3),
                     (64, 3e-3))},
    **{f"single samples, width {r}, lr {lr:g}, depth {depth}": deep(r, lr, "fisher", depth=depth, **SLOW)
       for r, lr, depth in ((24, 5e-3, 2), (32, 3e-3, 2), (32, 3.125e-3, 2), (64, 1.5e-3, 2), (64, 1.5e-3, 1))},
    **{f"single samples, width {r}, lr {lr:g}, gamma {gamma:g}": deep(r, lr, "fisher", basis_lr_ratio=gamma, **SLOW)
       for r, lr, gammas in ((8, 3.125e-3, (0.4,)), (8, 5e-3, (0.06, 0.2)), (8, 1.25e-2, (0.03, 0.1, 0.3)),
                             (8, 2.5e-2, (0.1,)), (16, 6.25e-3, (0.03, 0.1, 0.3)), (32, 3.125e-3, (0.03, 0.1, 0.3)),
                             (32, 6.25e-3, (0.1,)))
       for gamma in gammas},
    "single samples, width 32, lr 0.003125, init_scale 0.2": deep(32, 3.125e-3, "fisher", init_scale=0.2, **SLOW),
    "single samples, width 32, lr 0.003125, init_scale 0.03": deep(32, 3.125e-3, "fisher", init_scale=0.03, **SLOW),
    "single samples, width 16, lr 0.01, init_scale 0.01": deep(16, 1e-2, "fisher", init_scale=0.01, **SLOW),
    "single samples, width 16, lr 0.01, init_scale 0.03": deep(16, 1e-2, "fisher", init_scale=0.03, **SLOW),
    "single samples, width 16, lr 0.0005": deep(16, 5e-4, "fisher", **SLOW),
    "single samples, width 16, lr 0.0005, init_scale 0.03": deep(16, 5e-4, "fisher", init_scale=0.03, **SLOW),
    "single samples, width 16, lr 0.0015, init_scale 0.03": deep(16, 1.5e-3, "fisher", init_scale=0.03, **SLOW),
    "single samples, width 16, lr 0.01, init_scale 0.3": deep(16, 1e-2, "fisher", init_scale=0.3, **SLOW),
    **{f"single samples through class means, width {r}, lr {lr:g}": replace(deep(r, lr, "fisher", **SLOW), means=True)
       for r, lr in ((8, 1e-3), (8, 3e-3), (8, 1e-2), (8, 2e-2), (8, 3e-2), (16, 5e-3), (16, 1e-2), (32, 1e-3),
                     (32, 3e-3), (32, 3.125e-3), (32, 5e-3), (32, 1e-2))},
    "single samples through class means, width 16, lr 0.01, depth 2": replace(
        deep(16, 1e-2, "fisher", depth=2, **SLOW), means=True),
    "single samples through class means, width 16, lr 0.01, fast head": replace(
        deep(16, 1e-2, "fisher", **FAST), means=True),
    **{f"single samples, from class means, width {r}, lr {lr:g}": replace(
        deep(r, lr, "fisher", **SLOW), means=True, kept=True)
       for r, lr in ((8, 1e-2), (32, 5e-3))},
    # A few directions chosen within wider bases.
    "narrow, rank 4, width 48, lr 0.004": narrow(4, 4e-3, 48),
    # One second moment a core.
    "mean gradient, width 8, shared moment, lr 0.01, fast head": replace(deep(8, 1e-2, **FAST), shared=True),
    "spectral, width 8, shared moment, lr 0.01, fast head": replace(deep(8, 1e-2, "spectral", **FAST), shared=True),
    **{f"single samples, width {r}, shared moment, lr {lr:g}": replace(deep(r, lr, "fisher", **SLOW), shared=True)
       for r, lr in ((16, 0.2), (16, 0.4), (8, 0.4), (32, 0.4))},
    **{f"single samples through class means, width {r}, shared moment, lr {lr:g}": replace(
        deep(r, lr, "fisher", **SLOW), shared=True, means=True)
       for r, lr in ((8, 1e-2), (32, 1e-2), (8, 0.1), (32, 0.05), (32, 0.1), (8, 0.2), (32, 0.2), (8, 0.4))},
}  # fmt: skip
