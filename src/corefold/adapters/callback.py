"""Deep LoRA in transformers' Trainer, and in trainers built on it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from corefold.adapters.bases import Loss, initialize_bases, layers_of


class BasesCallback(TrainerCallback):
    """Runs `initialize_bases` on the training batches when training starts.

    Not when it resumes, nor when the adapter's bases already come from data: that would undo what it has learned.

    Args:
        num_batches: batches used for the bases.
        loss_fn: as in `initialize_bases`; needed only for trainers that compute their own loss.
        generator: source of the random halves of the bases.
    """

    def __init__(
        self, num_batches: int = 4, loss_fn: Loss | None = None, generator: torch.Generator | None = None
    ) -> None:
        self.num_batches, self.loss_fn, self.generator = num_batches, loss_fn, generator
        self.gradient_values: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by Trainer."""
        configs = [layer.deeplora_config[name] for layer, name in layers_of(model).values()]
        if state.global_step > 0:  # resumed: the checkpoint holds the bases
            for config in configs:
                config.initialized = True
        if all(config.initialized for config in configs):
            return
        self.gradient_values = initialize_bases(
            model,
            train_dataloader,
            self.num_batches,
            loss_fn=self.loss_fn,
            generator=self.generator,
            progress=not args.disable_tqdm,
        )
