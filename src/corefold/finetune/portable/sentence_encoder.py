"""A mean-pooled run in the layout of sentence-transformers, and its classifier in SetFit's.

`SentenceTransformer(folder).encode(texts)` returns what the run predicts from: the logits of the classes, or the
number in the label's units. The head is a `Dense` module behind the pooling. Embeddings would suit a search better, and
they stay one line away (`SentenceTransformer(modules=list(model)[:2])`), but whoever loads a classifier wants its
classes, and every server of this layout applies the modules in their order and knows no output but the last one's. A
head that `encode` passed over would be lost without a word. SetFit's head, which takes what `encode` returns, turns the
logits into probabilities: its logistic regression has the weights of a softmax.

Two embeddings with one head on [u, v, |u - v|] have no such layout: `encode` reads one input. Their folder encodes
texts, holds the head as head.safetensors, and its model card has the formula. Without a head (the cosine of two
embeddings) the folder is a plain sentence encoder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from corefold.finetune.portable import setfit
from corefold.finetune.task import Task

TRANSFORMER = "sentence_bert_config.json"
FILES = ("modules.json", "config_sentence_transformers.json", TRANSFORMER, setfit.HEAD, setfit.CONFIG)
FLOAT32 = {"dtype": "float32"}
FOLDERS = ("1_Pooling", "2_Dense")


def is_sentence_encoder(task: Task) -> bool:
    """Whether sentence-transformers is the home of the run's model."""
    return task.head in ("mean", "cosine")


def fits_modules(task: Task) -> bool:
    """Whether the head can follow the pooling, as it cannot if it joins two embeddings."""
    return task.head == "mean" and task.pair != "separate"


def is_whole(task: Task) -> bool:
    """Whether the run is a plain sentence encoder, of which the layout holds everything."""
    return task.kind == "embedding"


def write_layout(folder: Path, task: Task, head: dict[str, Tensor] | None) -> None:
    """Add sentence-transformers' files, and SetFit's for classes, to a folder with weights and tokenizer.

    sentence-transformers loads the folder to describe it, so a folder that it cannot load is never written.

    Args:
        folder: a merged encoder, or an adapter on one.
        task: the task of the run.
        head: weight and bias of the linear head; None without one.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    # The modules take the precision of the first, in which the head would be rounded.
    transformer = Transformer(str(folder), model_kwargs=FLOAT32)
    # The weights and the tokenizer lie there already.
    transformer.save = transformer.save_config  # type: ignore[method-assign]
    mode: Any = task.pooling
    modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), mode)]
    if head is not None and fits_modules(task):
        # Training saw standardised labels; the layer answers in their units.
        weight, bias = head["weight"].double() * task.scale, head["bias"].double() * task.scale + task.shift
        outputs, width = weight.shape
        modules.append(Dense(width, outputs, True, None, weight.float(), bias.float()))
    model = SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="cosine")
    model.save_pretrained(str(folder), create_model_card=False)
    _compute_in_float32(folder / TRANSFORMER)
    if task.classes and fits_modules(task):
        setfit.write(folder, task)


def copy_layout(source: Path, target: Path) -> None:
    """Give `target`, which holds another adapter of the same model, the layout of `source`, and remove an old one."""
    for name in FILES:
        (target / name).unlink(missing_ok=True)
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    for name in FOLDERS:
        shutil.rmtree(target / name, ignore_errors=True)
        if (source / name).exists():
            shutil.copytree(source / name, target / name)


def remove_layout(folder: Path) -> None:
    """Remove the files of a layout: they would describe another run than the one that is written next."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _compute_in_float32(path: Path) -> None:
    """Load the encoder in float32 whatever its checkpoint holds: a `Dense` module takes nothing else."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model_kwargs"] = FLOAT32
    path.write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")
