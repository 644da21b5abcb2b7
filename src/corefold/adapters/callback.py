"""Deep LoRA in transformers' Trainer, and in trainers built on it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from corefold.adapters.bases import Loss, initialize_bases


class BasesCallback(TrainerCallback):
    """Runs `initialize_bases` on the training batches when training starts; not when it resumes.

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
        if state.global_step > 0:
            return
        self.gradient_values = initialize_bases(
            model,
            train_dataloader,
            self.num_batches,
            loss_fn=self.loss_fn,
            generator=self.generator,
            progress=not args.disable_tqdm,
        )
