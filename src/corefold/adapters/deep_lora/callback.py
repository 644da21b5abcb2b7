"""Deep LoRA in transformers' Trainer, and in trainers built on it."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from corefold.adapters.deep_lora.adapted_layers import AdaptedLayers, adapted_layers
from corefold.adapters.deep_lora.initialize import Loss, initialize_bases
from corefold.adapters.deep_lora.layer import DeepLoraLayer
from corefold.adapters.host.internals import metrics_restored


class BasesCallback(TrainerCallback):
    """Runs `initialize_bases` on the training batches when training starts.

    It does nothing when training resumes, or when the adapter's bases already come from data: that would undo the
    training so far. The bases follow the loss that the trainer computes: its own if it has one, as the trainers of
    sentence-transformers and TRL have, or a user's subclass.

    Args:
        num_batches: batches used for the bases.
        loss_fn: as in `initialize_bases`, in the place of the trainer's loss.
        generator: source of the random halves of the bases.
    """

    def __init__(
        self, num_batches: int = 4, loss_fn: Loss | None = None, generator: torch.Generator | None = None
    ) -> None:
        self.num_batches, self.loss_fn, self.generator = num_batches, loss_fn, generator
        self.gradient_values: dict[str, torch.Tensor] = {}

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by Trainer, before it makes an optimizer or loads a checkpoint."""
        _make_exact(model)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by Trainer."""
        _make_exact(model)
        layers = adapted_layers(model)
        if optimizer is not None:
            _warn_of_one_rate(layers, optimizer)
        configs = [layer.configs[name] for layer, name in layers.values()]
        if state.global_step > 0:  # Training resumes, and the checkpoint holds the bases.
            for config in configs:
                config.initialized = True
        if all(config.initialized for config in configs):
            return
        loss_fn = self.loss_fn or _own_loss(_calling_trainer())
        with metrics_restored(getattr(loss_fn, "__self__", None)):
            self.gradient_values = initialize_bases(
                model,
                train_dataloader,
                self.num_batches,
                loss_fn=loss_fn,
                generator=self.generator,
                progress=not args.disable_tqdm,
            )


def _calling_trainer() -> Trainer | None:
    """The trainer that calls the callback, from the stack: Trainer hands a callback everything but itself."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back
    return None


def _own_loss(trainer: Trainer | None) -> Loss | None:
    """The loss that a trainer computes, where it is not simply the one that the model returns."""
    if trainer is None:
        return None
    overridden = type(trainer).compute_loss is not Trainer.compute_loss
    changed = overridden or trainer.compute_loss_func is not None or trainer.label_smoother is not None
    own: Any = trainer.compute_loss
    return own if changed else None


def _make_exact(model: nn.Module) -> None:
    """Make half-precision adapters float32 again, in place: TRL casts what trains on a quantized base to bfloat16."""
    for layer in model.modules():
        if isinstance(layer, DeepLoraLayer):
            for container in layer.containers():
                for tensor in container.values():
                    if tensor.dtype in (torch.bfloat16, torch.float16):
                        tensor.data = tensor.data.float()


def _warn_of_one_rate(layers: AdaptedLayers, optimizer: Optimizer) -> None:
    rates = {
        id(parameter): group.get("initial_lr", group["lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for layer, name in layers.values():
        ratio = layer.configs[name].basis_lr_ratio
        core, basis = (rates.get(id(tensor)) for tensor in layer.tensors(name)[:2])
        if ratio not in (0, 1) and basis is not None and basis == core:
            warnings.warn(
                f"the optimizer trains the bases at the core's learning rate, not at {ratio:g} times that "
                "(basis_lr_ratio), and may let them decay; with recipe = corefold.recipe(rows=...), give the trainer "
                "optimizers=(torch.optim.AdamW(corefold.param_groups(model, **recipe.rates), eps=recipe.eps), None)",
                stacklevel=2,
            )
            return
