"""Settings of trainers, and the small model that they train."""

from __future__ import annotations

import pytest
import torch

from models import tiny_llama

with_old_names = pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning")
"""transformers 5 has other names for checkpointing than transformers 4 and TRL."""

CONFIG = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
CHECKPOINTING = [
    pytest.param({"gradient_checkpointing": False}, id="none"),
    pytest.param(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}, id="saved hooks"
    ),
    pytest.param(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, id="reentrant"
    ),
]  # fmt: skip


def settings(folder, **options):
    return {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, "bf16": False,
        "dataloader_pin_memory": False, "learning_rate": 1e-2, "adam_epsilon": 1e-6, "max_grad_norm": 0, "seed": 5,
        **options,
    }  # fmt: skip


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def llama(dtype=torch.float32):
    # Its dropout would show a lost random state.
    return tiny_llama(attention_dropout=0.1).to(dtype)
