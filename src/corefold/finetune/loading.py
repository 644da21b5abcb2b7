"""Base models and tokenizers, loaded by transformers and checked against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from corefold.errors import InputError, reason
from corefold.finetune.encoding import PARTS
from corefold.finetune.positions import checkpoint_positions
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of

SAMPLED_VALUES = 16  # of each tensor, for the digest of a base model


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a padding token.

    It pads on the right where the model has a table of absolute positions: padding on the left would shift the
    positions of a text by the length of its neighbours.

    Raises:
        InputError: it has neither a padding nor an end token.
    """
    tokenizer = _load(AutoTokenizer, source, revision=revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"the tokenizer of {source} has neither a padding token nor an end token, so that texts of different "
            "length form no batch; set one: tokenizer.pad_token = ..., tokenizer.save_pretrained(...)"
        )
    if checkpoint_positions(source, revision).table is not None:
        tokenizer.padding_side = "right"
    return tokenizer


def load_base(task: Task, seed: int = 0) -> PreTrainedModel:
    """The base model that the task needs; a head of its own that is new is drawn by `seed`.

    Raises:
        InputError: it cannot be loaded, or does not fit its tokenizer.
    """
    model_class, arguments = kind_of(task).model_class(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if task.load_in_4bit:
            arguments = {**arguments, "quantization_config": _four_bits(model_class, task)}
        model = _load(
            model_class, task.model, dtype=getattr(torch, task.dtype), revision=task.revision, **arguments
        )
    tokenizer = load_tokenizer(task.model, task.revision)
    if task.head == "own":
        model.config.pad_token_id = padding_token(task, tokenizer)
    _check_tokenizer(model, tokenizer, task)
    return model


def padding_token(task: Task, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The `pad_token_id` of a model with its own head: the tokenizer's, by which a decoder finds the end of a text.

    The checkpoint's own stays where positions are counted from it (RoBERTa): another would shift them when the merged
    model is loaded. Such encoders find the end of a text by the mask.
    """
    counted = checkpoint_positions(task.model, task.revision).counted_from
    own: Any = tokenizer.pad_token_id
    return own if counted is None else counted


def _load(auto: Any, source: str, **kwargs: Any) -> Any:
    gguf = Path(source).suffix == ".gguf"
    where = str(Path(source).parent) if gguf else source
    kwargs = {name: value for name, value in kwargs.items() if name != "revision" or value is not None}
    try:
        loaded = auto.from_pretrained(where, **kwargs, **({"gguf_file": Path(source).name} if gguf else {}))
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"the model {source} cannot be loaded: {reason(error)}") from error
    return _dequantized(loaded) if gguf and isinstance(loaded, nn.Module) else loaded


def _dequantized(model: Any) -> Any:
    """The same weights in a plain model: transformers unpacks a gguf file, yet refuses to train the result."""
    plain = type(model)(model.config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    plain.name_or_path = model.name_or_path
    return plain


def _four_bits(model_class: Any, task: Task) -> BitsAndBytesConfig:
    """NF4, for all linear layers but those of a head, which trains."""
    if task.model.endswith(".gguf"):
        raise InputError(f"--load-in-4bit needs a checkpoint of transformers; {task.model} is a gguf file")
    try:
        config = AutoConfig.from_pretrained(task.model, revision=task.revision)
        with torch.device("meta"):
            layout = model_class.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the model {task.model} cannot be loaded: {reason(error)}") from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, task.dtype),
        llm_int8_skip_modules=head_names(layout),
    )


def head_names(model: PreTrainedModel) -> list[str]:
    """The parts of a model with parameters beside its body: "classifier", "score", "lm_head"..."""
    return [
        name
        for name, part in model.named_children()
        if name != model.base_model_prefix and any(True for _ in part.parameters())
    ]


def _check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task) -> None:
    table = model.get_input_embeddings()
    rows = getattr(table, "num_embeddings", None)
    pad: Any = tokenizer.pad_token_id
    if rows is not None and pad >= rows:
        raise InputError(
            f"the tokenizer of {task.model} pads with token {pad} ({tokenizer.pad_token!r}), and the model's table of "
            f"embeddings has {rows} rows; resize the table (resize_token_embeddings) or use the model's own tokenizer"
        )
    reads_end = kind_of(task).head_architecture == "ForSequenceClassification"
    if task.head == "own" and reads_end and model.config.is_encoder_decoder:
        ids = tokenizer("a").input_ids
        if model.config.eos_token_id not in ids:
            raise InputError(
                f"the classifier of {task.model} reads the end token (eos_token_id {model.config.eos_token_id}), and "
                "its tokenizer does not end texts with that; use the model's own tokenizer"
            )


def check_tokens(
    rows: Iterable[Mapping[str, Any]], model: Any, tokenizer: PreTrainedTokenizerBase, source: str
) -> None:
    """Check that encoded rows have no token beyond the model's table of embeddings.

    Raises:
        InputError: tokenizer and model do not fit; the token is named, because encoded rows do not know their number.
    """
    size = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if size is None:
        return
    for row in rows:
        for part in [row[name] for name in PARTS if name in row] or [row]:
            largest = max(part.get("input_ids", ()), default=0)
            if largest >= size:
                token = tokenizer.convert_ids_to_tokens(largest)
                raise InputError(
                    f"{source}: the tokenizer makes token {largest} ({token!r}), and the model's table of embeddings "
                    f"has {size} rows; tokenizer and model do not belong together"
                )


def weights_digest(model: PreTrainedModel) -> str:
    """A digest of the body's tensors: their names and shapes, and some values of each.

    A head is left out, because a new one is drawn at random.
    """
    shapes, values = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(model.base_model.state_dict().items()):
        shapes.update(f"{name} {tuple(tensor.shape)}\n".encode())
        values.update(_sample(tensor))
    return f"{shapes.hexdigest()[:16]}-{values.hexdigest()[:16]}"


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // SAMPLED_VALUES)
    return flat[::step].cpu().float().numpy().tobytes()


def check_base(task: Task, model: PreTrainedModel) -> None:
    """Check that a loaded base model is the one on which the run was trained.

    Raises:
        InputError: other tensors, or other values in them.
    """
    if not task.base_digest or (found := weights_digest(model)) == task.base_digest:
        return
    shapes, _, _ = task.base_digest.partition("-")
    what = (
        "the same shapes but other values" if found.startswith(shapes) else "tensors of other names or shapes"
    )
    raise InputError(
        f"{task.model} is not the base model of this run: it has {what}; name the right one with --base"
    )
