"""Merges a run into its base: a plain model that needs neither PEFT nor corefold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel

from corefold.adapters import DeepLoraModel
from corefold.adapters.lora_export import save_tensors
from corefold.finetune.folder import TASK, Run
from corefold.finetune.loading import head_names
from corefold.finetune.models import EncoderModel
from corefold.finetune.portable.adapter import Tell, silent
from corefold.finetune.portable.cards import MERGED_HEADING, write_card
from corefold.finetune.portable.limits import limits
from corefold.finetune.portable.own_head import (
    LABEL_UNITS,
    Units,
    has_own_head,
    in_label_units,
)
from corefold.finetune.portable.sentence_encoder import (
    fits_modules,
    is_sentence_encoder,
    remove_layout,
    write_layout,
)
from corefold.finetune.saving import HEAD
from corefold.finetune.task import Task
from corefold.tables.whole_folder import whole_folder
from corefold.tables.writing import check_folder


def merge(run: Run, directory: Path, *, overwrite: bool = False, tell: Tell = silent) -> float | None:
    """Write the base model with the adapter folded into its weights, its head, and the tokenizer.

    The folder is what transformers' `pipeline` and servers load where the model has its own head, and what
    sentence-transformers and SetFit load where it pools its tokens. An error leaves nothing behind.

    Args:
        run: a loaded run; its model is merged and cannot be used as an adapter any more.
        directory: the output folder.
        overwrite: use the folder although it is not empty.
        tell: takes a line for each thing that the format cannot hold.

    Returns:
        The largest error from rounding to the weights' dtype; None for a LoRA, where PEFT does not measure it.

    Raises:
        InputError: the folder is not empty.
    """
    check_folder(directory, overwrite)
    task = run.task
    merged, error = _merged(run.adapted)
    units = _to_label_units(merged, task)
    lines = limits(task, merged=True, units=units)
    with whole_folder(directory) as new:
        merged.save_pretrained(str(new))
        run.tokenizer.save_pretrained(str(new))
        task.save(new / TASK)
        if is_sentence_encoder(task):
            _add_head(run, new)
        write_card(new, task, {}, lines, merged=True, units=units, heading=MERGED_HEADING)
        remove_layout(directory)
    for line in lines:
        tell(line)
    return error


def _merged(model: Any) -> tuple[Any, float | None]:
    """The plain model, and the largest error of Deep LoRA; a model that was trained without adapter is one already."""
    if not isinstance(model, PeftModel):
        return model, None
    model.merge_adapter(safe_merge=True)
    tuner = model.base_model
    error = max(tuner.merge_errors().values()) if isinstance(tuner, DeepLoraModel) else None
    return model.unload(), error


def _to_label_units(merged: Any, task: Task) -> Units:
    """Fold shift and scale of a regression into its head; what is left to do."""
    if not has_own_head(task) or task.classes:
        return LABEL_UNITS
    changed, units = in_label_units(merged.state_dict(), head_names(merged), task)
    merged.load_state_dict(changed, strict=False)
    return units


def _add_head(run: Run, folder: Path) -> None:
    head = run.model.head if isinstance(run.model, EncoderModel) else None
    state = None if head is None else {k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
    if state is not None and not fits_modules(run.task):
        save_tensors(state, folder / HEAD)
    write_layout(folder, run.task, state)
