"""Callbacks that watch a run while transformers' Trainer drives it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from transformers import ProgressCallback, TrainerCallback

from corefold.errors import InputError


class StepTimer(TrainerCallback):
    """Measures the seconds of each step, without evaluation and checkpoints."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Called by Trainer."""
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Called by Trainer."""
        self.seconds.append(time.perf_counter() - self.began)

    def median(self) -> float | None:
        """The median step, in seconds; None before the first step has ended."""
        return statistics.median(self.seconds) if self.seconds else None


class StopAtNonFiniteLoss(TrainerCallback):
    """Raises InputError when a logged training loss is NaN or infinite."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by Trainer."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise InputError(
                f"the training loss is {loss} after {state.global_step} steps; lower --lr or --head-lr"
            )


class FitHead(TrainerCallback):
    """Fits the head before each evaluation, where the steps train embeddings alone."""

    def __init__(self, fit: Callable[[], object]) -> None:
        self.fit = fit

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer."""
        if control.should_evaluate:
            self.fit()


class ProgressBar(ProgressCallback):
    """Trainer's progress bar with the losses on it, instead of a printed dict each time."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, float] = {}

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by Trainer."""
        self.shown |= {name: value for name, value in (logs or {}).items() if name in ("loss", "eval_loss")}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown)
