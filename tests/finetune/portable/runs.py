"""Runs in general position without training: tiny random models under real tokenizers, their adapters drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers as t
from transformers import AutoTokenizer

from corefold.finetune import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.encoding import Collator
from corefold.finetune.folder import Run, save_model
from corefold.finetune.loading import load_base, load_tokenizer
from corefold.finetune.method import decide
from corefold.finetune.methods import METHODS
from corefold.finetune.models import EncoderModel, adapt
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of
from models import find, randomise

# Large weights, so that answers to two short texts differ.
WIDE = {"initializer_range": 0.4, "vocab_size": 30522, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
DECODER = {**SIZES, "num_key_value_heads": 1, "max_position_embeddings": 128, "head_dim": 16}
FAMILIES = {
    "bert": lambda: t.BertModel(t.BertConfig(**SIZES, **WIDE)),
    "roberta": lambda: t.RobertaModel(t.RobertaConfig(**SIZES, **WIDE, max_position_embeddings=66)),
    "modernbert": lambda: t.ModernBertModel(t.ModernBertConfig(**SIZES, **WIDE, max_position_embeddings=64)),
    "distilbert": lambda: t.DistilBertModel(
        t.DistilBertConfig(**DISTIL, **{**WIDE, "initializer_range": 0.2})
    ),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5, **WIDE, eos_token_id=102)),
    "qwen3": lambda: t.Qwen3ForCausalLM(
        t.Qwen3Config(**{**DECODER, **WIDE, "vocab_size": 49152, "pad_token_id": None})
    ),
    "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**{**DECODER, **WIDE, "pad_token_id": None})),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**{**DECODER, **WIDE, "pad_token_id": None})),
}
TEXTS = pd.DataFrame({"a": ["a text", "another"], "b": ["its pair", "and its pair"]})


@dataclass(frozen=True)
class Case:
    """A run: a family of models, the head of its task, and how its texts are read."""

    family: str
    head: str = "own"
    classes: int = 3  # none for a regression
    pair: str | None = None
    method: str = "deep-lora"
    dtype: str = "float32"
    kind: str = "classification"

    def __str__(self) -> str:
        parts = (
            self.family,
            self.head,
            self.classes or "numbers",
            self.pair,
            self.method,
            self.dtype,
            self.kind,
        )
        return "-".join(
            str(part) for part in parts if part not in (None, "deep-lora", "float32", "classification")
        )


def base(family: str, folder: Path) -> str:
    """A checkpoint of a family, made once; the real model for a name of one."""
    if family not in FAMILIES:
        return str(find(family))
    place = folder / family
    if not place.exists():
        torch.manual_seed(0)
        FAMILIES[family]().save_pretrained(place)
        tokenizer = "smollm2" if family == "qwen3" else "minilm"  # The former has no padding token.
        AutoTokenizer.from_pretrained(find(tokenizer), model_max_length=64).save_pretrained(place)
    return str(place)


def make_run(case: Case, folder: Path) -> tuple[Run, Path]:
    """A run and the folder that it is saved in."""
    task = Task(
        kind=case.kind if case.classes else "regression",
        model=base(case.family, folder),
        head=case.head,  # type: ignore[arg-type]
        columns=Columns("a", "b" if case.pair else None, "label"),
        pair=case.pair,  # type: ignore[arg-type]
        classes=("bad", "so-so", "1")[: case.classes],
        shift=0.0 if case.classes else 69.5,
        scale=1.0 if case.classes else 7.25,
        max_length=16,
        dtype=case.dtype,  # type: ignore[arg-type]
    )
    config = RunConfig(model=task.model, train="t.csv", text="a", method=case.method, rank=2)  # type: ignore[arg-type]
    settings = decide(config, task, 16, METHODS[case.method])
    adapted: Any = adapt(load_base(task), task, settings)
    randomise(adapted, size=0.3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or ("modules_to_save" in name and "bias" in name):
                parameter.normal_()
    model = adapted if task.head == "own" else EncoderModel(adapted, task)
    run, out = Run(task, adapted, model.eval(), load_tokenizer(task.model)), folder / f"{case}-run"
    save_model(out, run)
    return run, out


@torch.no_grad()
def answers(run: Run) -> np.ndarray:
    """What `corefold predict` says of `TEXTS`: the probabilities of the classes, or numbers."""
    kind = kind_of(run.task)
    batch = Collator(run.tokenizer)(kind.encode(run.task, run.tokenizer, TEXTS, "t"))
    outputs = run.model(**batch).logits.float()
    if run.task.kind == "multi-label":
        return outputs.sigmoid().numpy()
    if run.task.classes:
        return outputs.softmax(-1).numpy()
    return np.array(kind.predictions(run.task, outputs.numpy())["prediction"])
