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
from corefold.finetune.prediction import generate
from corefold.finetune.task import Task
from corefold.finetune.tasks.generation import GenerationKind
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
    "bert16": lambda: t.BertModel(t.BertConfig(**SIZES, **WIDE)).bfloat16(),
    "bertner": lambda: t.BertForTokenClassification(t.BertConfig(**SIZES, **WIDE, num_labels=7)),
    # It has a head of another size, and its configuration another padding token than its tokenizer.
    "odd-roberta": lambda: t.RobertaForSequenceClassification(
        t.RobertaConfig(**SIZES, **{**WIDE, "pad_token_id": 1}, max_position_embeddings=66, num_labels=5)
    ),
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
    "llama16": lambda: t.LlamaForCausalLM(
        t.LlamaConfig(**{**DECODER, **WIDE, "pad_token_id": None, "initializer_range": 0.1})
    ).bfloat16(),
}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
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
    pooling: str = "mean"

    def __str__(self) -> str:
        parts = (
            self.family,
            self.head,
            self.classes or "numbers",
            self.pair,
            self.method,
            self.dtype,
            self.kind,
            self.pooling if self.pooling != "mean" else None,
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
        name = "smollm2" if family == "qwen3" else "minilm"  # The former has no padding token.
        tokenizer = AutoTokenizer.from_pretrained(find(name), model_max_length=64)
        if family in ("t5", "llama16"):
            tokenizer.eos_token, tokenizer.chat_template = "[SEP]", TEMPLATE
        tokenizer.save_pretrained(place)
    return str(place)


def make_run(case: Case, folder: Path) -> tuple[Run, Path]:
    """A run and the folder that it is saved in."""
    task = Task(
        kind=case.kind if case.classes or case.head == "lm" else "regression",  # type: ignore[arg-type]
        model=base(case.family, folder),
        head=case.head,  # type: ignore[arg-type]
        columns=Columns("a", "b" if case.pair else None, None if case.kind == "chat" else "label"),
        pair=case.pair,  # type: ignore[arg-type]
        classes=("bad", "so-so", "1")[: case.classes],
        shift=0.0 if case.classes or case.head == "lm" else 69.5,
        scale=1.0 if case.classes or case.head == "lm" else 7.25,
        max_length=16,
        dtype=case.dtype,  # type: ignore[arg-type]
        pooling=case.pooling,
    )
    config = RunConfig(model=task.model, train="t.csv", text="a", method=case.method, rank=2)  # type: ignore[arg-type]
    settings = decide(config, task, 16, METHODS[case.method])
    adapted: Any = adapt(load_base(task), task, settings)
    randomise(adapted, size=0.3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or ("modules_to_save" in name and "bias" in name):
                parameter.normal_()
    model = adapted if task.head in ("own", "lm") else EncoderModel(adapted, task)
    tokenizer = load_tokenizer(task.model)
    kind_of(task).prepare_tokenizer(tokenizer)
    run, out = Run(task, adapted, model.eval(), tokenizer), folder / f"{case}-run"
    save_model(out, run)
    return run, out


@torch.no_grad()
def answers(run: Run) -> np.ndarray:
    """What `corefold predict` says of `TEXTS`: the probabilities of the classes, numbers, tags or texts."""
    kind, table = kind_of(run.task), TEXTS
    if run.task.kind in ("chat", "token-classification"):
        cells = [
            [{"role": "user", "content": text}] if run.task.kind == "chat" else text.split()
            for text in TEXTS["a"]
        ]
        table = pd.DataFrame({"a": pd.Series(cells, dtype=object)})
    if isinstance(kind, GenerationKind):
        prompts = kind.encode_prompts(run.task, run.tokenizer, table)
        return np.array([*generate(run, prompts, 2, 64, progress=False)], dtype=object)
    batch = Collator(run.tokenizer)(kind.encode(run.task, run.tokenizer, table, "t"))
    outputs = run.model(**batch).logits.float()
    if run.task.kind == "token-classification":
        kept = kind.kept_outputs(outputs, batch["labels"]).numpy()
        return np.array(kind.predictions_of(run.task, table, kept)["prediction"], dtype=object)
    if run.task.kind == "multi-label":
        return outputs.sigmoid().numpy()
    if run.task.classes:
        return outputs.softmax(-1).numpy()
    return np.array(kind.predictions(run.task, outputs.numpy())["prediction"])
