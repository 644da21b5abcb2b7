"""AdaLoRA's penalty, written down once more."""

from __future__ import annotations

import torch


def penalty(name, kind, fit):
    """The penalty that PEFT adds to the loss in evaluation too; our own loss has it in training only."""
    if name != "adalora" or kind != "own":
        return 0.0
    tensors = [
        p.detach() for key, p in fit.adapted.named_parameters() if ".lora_A." in key or ".lora_B." in key
    ]
    grams = [min(p @ p.T, p.T @ p, key=len) for p in tensors]
    return 0.5 * float(torch.stack([(gram - torch.eye(len(gram))).norm() for gram in grams]).mean())
