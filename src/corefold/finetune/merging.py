"""Merges a run into its base: a plain transformers model that needs neither PEFT nor corefold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import save_file
from torch import nn

from corefold.adapters import DeepLoraModel
from corefold.finetune.folder import TASK, Run
from corefold.finetune.models import EncoderModel
from corefold.tables.writing import check_folder

MODULE = "sentence_transformers.models."


def merge(run: Run, directory: Path, *, overwrite: bool = False) -> float | None:
    """Write the base model with the adapter folded into its weights, and the tokenizer.

    A mean-pooled model is written as its encoder (`AutoModel` loads it) with the pooling and head in
    sentence-transformers' layout beside it, so that `SentenceTransformer(directory).encode(texts)` returns the
    embeddings, or the logits where the run has a head on single texts.

    Args:
        run: a loaded run; its model is merged and cannot be used as an adapter any more.
        directory: the output folder.
        overwrite: use the folder although it is not empty.

    Returns:
        The largest error from rounding to the weights' dtype; None for a LoRA, where PEFT does not measure it.

    Raises:
        InputError: the folder is not empty.
    """
    check_folder(directory, overwrite)
    merged, error = _merged(run.adapted)
    merged.save_pretrained(str(directory))
    run.tokenizer.save_pretrained(str(directory))
    run.task.save(directory / TASK)
    if isinstance(run.model, EncoderModel):
        _write_pooling(run, run.model.head, directory, merged.config.hidden_size)
    return error


def _merged(model: Any) -> tuple[Any, float | None]:
    """The plain model, and the largest error of Deep LoRA; a model that was trained without adapter is one already."""
    if not isinstance(model, PeftModel):
        return model, None
    model.merge_adapter(safe_merge=True)
    tuner = model.base_model
    error = max(tuner.merge_errors().values()) if isinstance(tuner, DeepLoraModel) else None
    return model.unload(), error


def _write_pooling(run: Run, head: nn.Linear | None, directory: Path, width: int) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write(
        directory / "sentence_bert_config.json",
        {"max_seq_length": run.task.max_length, "do_lower_case": False},
    )
    _write(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_cls_token": False,
        },
    )
    if head is not None:
        dense = {
            "in_features": head.in_features,
            "out_features": head.out_features,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        _write(directory / "2_Dense" / "config.json", dense)
        # The head of a regression was trained on standardised labels; turn its outputs into their units.
        weights = {
            "linear.weight": (head.weight * run.task.scale).detach().contiguous(),
            "linear.bias": (head.bias * run.task.scale + run.task.shift).detach().contiguous(),
        }
        save_file(weights, directory / "2_Dense" / "model.safetensors")
        if head.in_features == width:  # a head on [u, v, |u - v|] cannot follow the pooling
            modules.append(("2_Dense", "Dense"))
    listed = [{"idx": i, "name": str(i), "path": p, "type": MODULE + t} for i, (p, t) in enumerate(modules)]
    _write(directory / "modules.json", listed)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
