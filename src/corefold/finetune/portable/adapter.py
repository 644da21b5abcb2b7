"""The adapter of a run as a plain LoRA that other tools load: with its tokenizer, its head and a card that says how."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from corefold.adapters import LoraExport, to_lora
from corefold.adapters.host.config import AdapterConfig
from corefold.adapters.host.model_card import CARD
from corefold.adapters.lora_export import save_tensors
from corefold.finetune.folder import TASK, check_adapter
from corefold.finetune.loading import load_tokenizer
from corefold.finetune.portable.cards import RUN_HEADING, write_card
from corefold.finetune.portable.limits import limits
from corefold.finetune.portable.own_head import (
    LABEL_UNITS,
    Units,
    has_own_head,
    in_label_units,
    loading_arguments,
)
from corefold.finetune.portable.sentence_encoder import (
    copy_layout,
    fits_modules,
    is_sentence_encoder,
    remove_layout,
    write_layout,
)
from corefold.finetune.saving import ADAPTER, ADAPTER_CONFIG, HEAD
from corefold.finetune.task import Task
from corefold.tables.whole_folder import whole_folder

Tell = Callable[[str], object]


def silent(line: str) -> None:
    """Tell nobody."""


def export(out: Path, directory: Path, tolerance: float | None, tell: Tell = silent) -> LoraExport | None:
    """Write the adapter of a run, or a bare adapter, as a plain LoRA; an error leaves nothing behind.

    Args:
        out: the folder of a run, or of an adapter.
        directory: the folder to write.
        tolerance: as in `export_lora`.
        tell: takes a line for each thing that the format cannot hold.

    Returns:
        Figures of the LoRA; None if the adapter is not corefold's, and is copied as it is.

    Raises:
        InputError: no adapter, or one that was changed.
        ValueError: a Deep LoRA adapter that no plain LoRA equals.
    """
    config, state = check_adapter(out)
    task = Task.load(out / TASK) if (out / TASK).exists() else None
    units = LABEL_UNITS
    if task is not None and has_own_head(task) and not task.classes:
        changed, units = in_label_units(state, [*(getattr(config, "modules_to_save", None) or ())], task)
        state = {**state, **changed}
    result = None
    with whole_folder(directory) as new:
        if (directory / CARD).exists():
            shutil.copyfile(directory / CARD, new / CARD)
        if isinstance(config, AdapterConfig):
            result = replace(to_lora(config, state, new, tolerance), directory=directory)
        else:
            shutil.copyfile(out / ADAPTER_CONFIG, new / ADAPTER_CONFIG)
            save_tensors(state, new / ADAPTER)
        if task is not None:
            _complete(out, new, task, units, tell)
        remove_layout(directory)
    return result


def complete_run(out: Path, lora: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the folder of a run itself the files by which others load it: those of its export.

    Its adapter needs `import corefold`, as its model card says, unless it is a plain LoRA.
    """
    task = Task.load(out / TASK)
    copy_layout(lora, out)
    if _is_gguf(task):
        return
    config, _ = check_adapter(out)
    units = Units(task.shift, task.scale)
    write_card(
        out,
        task,
        _arguments(task, tokenizer),
        limits(task, merged=False, units=units if has_own_head(task) else LABEL_UNITS),
        merged=False,
        units=units,
        heading=RUN_HEADING,
        preamble="import corefold  # makes Deep LoRA known to PEFT\n"
        if isinstance(config, AdapterConfig)
        else "",
    )


def _complete(out: Path, new: Path, task: Task, units: Units, tell: Tell) -> None:
    """Add to an adapter what its users need beside it."""
    tokenizer = load_tokenizer(str(out))
    tokenizer.save_pretrained(str(new))
    if _is_gguf(task):
        tell(
            f"the base model {task.model} is a gguf file, on which other tools load no adapter by its folder; a merged "
            "model loads everywhere: corefold merge"
        )
        return
    head: dict[str, Tensor] | None = load_file(out / HEAD) if (out / HEAD).exists() else None
    if is_sentence_encoder(task):
        if head is not None and not fits_modules(task):
            shutil.copyfile(out / HEAD, new / HEAD)
        write_layout(new, task, head)
    lines = limits(task, merged=False, units=units)
    for line in lines:
        tell(line)
    write_card(new, task, _arguments(task, tokenizer), lines, merged=False, units=units)


def _is_gguf(task: Task) -> bool:
    return Path(task.model).suffix == ".gguf"


def _arguments(task: Task, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return loading_arguments(task, tokenizer) if has_own_head(task) else {"dtype": task.dtype}
