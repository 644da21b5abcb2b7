"""A model's own head, on texts or on each token: what its loader must know, and numbers in the label's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from corefold.adapters.lora_export import PREFIX
from corefold.finetune.loading import padding_token
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of


@dataclass(frozen=True)
class Units:
    """A number in the label's units is shift + scale * output."""

    shift: float = 0.0
    scale: float = 1.0

    def of(self, output: str) -> str:
        """The formula in Python."""
        scaled = output if self.scale == 1 else f"{self.scale!r} * {output}"
        return scaled if self.shift == 0 else f"{self.shift!r} + {scaled}"


LABEL_UNITS = Units()


def has_own_head(task: Task) -> bool:
    """Whether a class of transformers, such as AutoModelForSequenceClassification, has the run's head in it."""
    return task.head == "own"


def loading_arguments(task: Task, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What an adapter's files cannot say about its base model, as arguments of `from_pretrained`."""
    _, settings = kind_of(task).model_class(task)
    # The base model may have a head of another size, in whose place the adapter's comes.
    names = ("num_labels", "problem_type", "id2label", "label2id", "ignore_mismatched_sizes")
    arguments = {name: settings[name] for name in names if name in settings}
    return arguments | {"pad_token_id": padding_token(task, tokenizer), "dtype": task.dtype}


def in_label_units(
    state: Mapping[str, Tensor], head: Sequence[str], task: Task
) -> tuple[dict[str, Tensor], Units]:
    """The last layer of a regression's head, changed so that its output is shift + scale * output.

    Args:
        state: weights by name, of a model or of an adapter as PEFT saves it.
        head: names of the modules that the head consists of.
        task: a regression.

    Returns:
        The changed tensors by name, and what is left to do: a layer without bias takes the scale alone. No tensors
        where the head has no layer of one output, or several.
    """
    weights = [
        name
        for name, tensor in state.items()
        if name.removeprefix(PREFIX).partition(".")[0] in head
        and name.endswith(".weight")
        and tensor.ndim == 2
        and tensor.shape[0] == 1
    ]
    if len(weights) != 1:
        return {}, Units(task.shift, task.scale)
    (weight,) = weights
    bias = weight.removesuffix("weight") + "bias"
    changed = {weight: (state[weight].double() * task.scale).to(state[weight].dtype)}
    if bias not in state:
        return changed, Units(task.shift, 1.0)
    changed[bias] = (state[bias].double() * task.scale + task.shift).to(state[bias].dtype)
    return changed, LABEL_UNITS
