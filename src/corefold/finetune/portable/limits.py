"""What a format cannot hold, one line each: printed where a folder is written, and repeated in its model card."""

from __future__ import annotations

from corefold.finetune.portable.own_head import LABEL_UNITS, Units, has_own_head
from corefold.finetune.portable.sentence_encoder import fits_modules, is_sentence_encoder, is_whole
from corefold.finetune.portable.setfit import is_multi_label
from corefold.finetune.task import Task


def limits(task: Task, *, merged: bool, units: Units = LABEL_UNITS) -> list[str]:
    """The lines of a folder.

    Args:
        task: the task of the run.
        merged: whether the folder holds a whole model, not an adapter.
        units: of the outputs of a regression with its own head.
    """
    lines = []
    if has_own_head(task):
        if not merged:
            lines.append(
                f"an adapter does not tell its base model's classes: load it with num_labels={task.outputs}, "
                "as README.md shows (a merged model needs nothing)"
            )
        if units != LABEL_UNITS:
            lines.append(
                f"the model's head has no bias to hold the mean of the labels; numbers are {units.of('output')}"
            )
    elif is_sentence_encoder(task) and not is_whole(task):
        lines.append(
            "for sentence-transformers: transformers' text-classification pipeline has no head on "
            f"{task.pooling}-pooled tokens and would answer at random (--head own trains one that it loads)"
        )
        if task.head == "cosine":
            lines.append(
                f"similarities are cosines; numbers are {Units(task.shift, task.scale).of('cosine')}"
            )
        elif not fits_modules(task):
            lines.append(
                "encode() returns embeddings, because no module joins two of them: README.md shows the head of "
                "head.safetensors (--pair joint trains one that encode() applies)"
            )
        elif is_multi_label(task) and task.threshold != 0.5:
            lines.append(
                f"SetFit's predict() takes labels from a probability of 0.5, this run from {task.threshold:g}; "
                "predict_proba() gives the probabilities"
            )
        elif not task.classes:
            lines.append(
                "SetFit has heads for classes only; sentence-transformers' encode() returns the numbers"
            )
    return lines
