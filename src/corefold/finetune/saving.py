"""How a trained model is kept in the folder of a run: as an adapter, whole, or as its head alone."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import AdaLoraModel, LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from corefold.errors import InputError, reason
from corefold.finetune.config import Kept
from corefold.finetune.loading import check_base, head_names, load_base
from corefold.finetune.task import Task

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
WHOLE, WHOLE_CONFIG = "model.safetensors", "config.json"
HEAD = "head.safetensors"
LARGEST_FILE = "1000GB"  # one file, so that the manifest lists all weights


class Saving(ABC):
    """A way to keep a trained model."""

    needs_base = True

    @abstractmethod
    def save(self, out: Path, model: Any, task: Task, initial: Path | None) -> None:
        """Write the weights, but those of a head on pooled tokens.

        Args:
            out: the folder of the run.
            model: the model with its adapter, or the plain model.
            task: the task.
            initial: the folder of the adapter before training, if its start was taken out of the base model's weights.
        """

    @abstractmethod
    def load(self, out: Path, task: Task, trainable: bool) -> Any:
        """The model that `save` wrote.

        Raises:
            InputError: it cannot be loaded, or the base model is another.
        """


class SavedAdapter(Saving):
    """An adapter of PEFT's for the untouched base model."""

    def save(self, out: Path, model: Any, task: Task, initial: Path | None) -> None:
        """Write the adapter, with the start subtracted from it that was taken out of the base model's weights."""
        config = model.peft_config["default"]
        start = _forget_start(config)
        with warnings.catch_warnings():
            # AdaLoRA leaves some layers without any rank.
            warnings.filterwarnings("ignore", ".*invalid shape")
            if initial is None:
                model.save_pretrained(str(out))
            else:
                model.save_pretrained(str(out), path_initial_model_for_weight_conversion=str(initial))
                _add_head(out / ADAPTER, model)
        for name, value in start.items():
            setattr(config, name, value)

    def load(self, out: Path, task: Task, trainable: bool) -> PeftModel:
        """The base model with the adapter."""
        base = load_base(task)
        check_base(task, base)
        try:
            with warnings.catch_warnings():
                # AdaLoRA names tensors, not layers, in its ranks, which it reads by itself.
                warnings.filterwarnings("ignore", r"The following rank_pattern keys .*\.lora_E")
                model = PeftModel.from_pretrained(base, str(out), is_trainable=trainable)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{out} does not fit its base model {task.model}: {reason(error)}") from error
        if isinstance(model.base_model, AdaLoraModel):
            # PEFT sets it for adapters that train, and needs it whenever there are labels.
            model.base_model.trainable_adapter_name = "default"
        return model


class SavedModel(Saving):
    """All weights, in transformers' layout."""

    needs_base = False

    def save(self, out: Path, model: Any, task: Task, initial: Path | None) -> None:
        """Write the model."""
        model.save_pretrained(str(out), max_shard_size=LARGEST_FILE)

    def load(self, out: Path, task: Task, trainable: bool) -> Any:
        """The model."""
        return load_base(replace(task, model=str(out), revision=None))


class SavedHead(Saving):
    """The head alone, for the untouched base model."""

    def save(self, out: Path, model: Any, task: Task, initial: Path | None) -> None:
        """Write the model's own head; one on pooled tokens is no part of this model."""
        if task.head == "own":
            save_file(_own_head(model), out / HEAD)

    def load(self, out: Path, task: Task, trainable: bool) -> Any:
        """The base model with the head."""
        base = load_base(task)
        check_base(task, base)
        if task.head == "own":
            base.load_state_dict(load_file(out / HEAD), strict=False)
        return base


SAVINGS: dict[Kept, Saving] = {"adapter": SavedAdapter(), "model": SavedModel(), "head": SavedHead()}


def _forget_start(config: Any) -> dict[str, Any]:
    """Mark a LoRA as one that needs nothing besides its tensors, and return the settings that it had before.

    PEFT would else look for the data or the gradients of the start when the adapter is loaded.
    """
    if not isinstance(config, LoraConfig) or config.init_lora_weights is True:
        return {}
    names = ("init_lora_weights", "eva_config", "lora_ga_config")
    start = {name: copy.copy(getattr(config, name)) for name in names if hasattr(config, name)}
    for name in start:
        setattr(config, name, True if name == "init_lora_weights" else None)
    return start


def _add_head(file: Path, model: Any) -> None:
    """Add the head to a file of an adapter: PEFT leaves it out when it subtracts the start."""
    saved = load_file(file)
    rest = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
        if ".lora_" not in name
    }
    save_file({**saved, **rest}, file, metadata={"format": "pt"})


def _own_head(model: Any) -> dict[str, Tensor]:
    names = head_names(model)
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.partition(".")[0] in names
    }
