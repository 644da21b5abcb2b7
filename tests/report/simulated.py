"""Updates and histories that look like those of real runs."""

from __future__ import annotations

import math
import random

import torch

from corefold.report import LayerUpdate

BERT = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
LLAMA = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [
    f"mlp.{kind}_proj" for kind in ("gate", "up", "down")
]


def layer_names(blocks: int, kinds: list[str] = BERT) -> list[str]:
    return [f"base_model.model.encoder.layer.{block}.{kind}" for block in range(blocks) for kind in kinds]


def updates(names: list[str], width: int = 8, seed: int = 0) -> list[LayerUpdate]:
    """Spectra that decay geometrically, each at its own rate from its own size."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.rand(len(names), width, generator=generator).cumsum(1)
    sizes = torch.randn(len(names), 1, generator=generator)
    return [
        LayerUpdate(name, values, 384, 1536, 4 * 1920 * width)
        for name, values in zip(names, 10 ** (sizes - decay), strict=True)
    ]


def still(name: str, width: int = 8) -> LayerUpdate:
    """A layer that has not moved."""
    return LayerUpdate(name, torch.zeros(width), 384, 384, 4 * 768 * width)


def history(steps: int = 100, metric: str | None = "eval_accuracy") -> list[dict]:
    """The log of a Trainer: the loss every 5 steps, an evaluation every 20, and a summary at the end."""
    noise, records = random.Random(0), []
    for step in range(5, steps + 1, 5):
        loss = 0.69 * math.exp(-step / 40) + 0.02 * noise.random()
        records.append(
            {"loss": loss, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": step / 10, "step": step}
        )
        if step % 20 == 0:
            scores = {"eval_loss": 0.4 + loss / 2, "eval_runtime": 0.1, "eval_samples_per_second": 90.0}
            scores |= {metric: 1 - loss / 2, "eval_steps_per_second": 9.0} if metric else {}
            records.append({**scores, "epoch": step / 10, "step": step})
    return [*records, {"train_runtime": 9.0, "train_loss": 0.2, "total_flos": 1e12, "step": steps}]
