"""The model card saved beside each adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from peft import PeftConfig

HEADING = "## How to load this adapter"


def write_card(directory: str | os.PathLike[str], config: PeftConfig) -> None:
    """Write README.md in `directory`, or replace the body of the template that PEFT has just put there.

    A card whose body somebody has edited (one without PEFT's placeholders) keeps its text and gains the section.
    """
    path = Path(directory, "README.md")
    data = ModelCard.load(path).data if path.exists() else ModelCardData()
    data["library_name"] = "peft"
    data["base_model"] = data.get("base_model") or config.base_model_name_or_path
    data["tags"] = sorted({*(data.get("tags") or []), "corefold", method_of(config)})
    text = ModelCard.load(path).text if path.exists() else ""
    if not text or _is_template(text):
        body = f"# {_title(config)}\n\n{_section(config)}"
    elif HEADING in text:
        body = text
    else:
        body = f"{text.rstrip()}\n\n{_section(config)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n", encoding="utf-8")


def _is_template(text: str) -> bool:
    """Whether a card's text is the form that PEFT puts down, with nothing filled in."""
    if "[More Information Needed]" not in text:
        return False
    form = {*ModelCard.from_template(ModelCardData()).text.splitlines(), "### Framework versions"}
    return all(line in form or line.startswith("- PEFT ") for line in text.splitlines())


def method_of(config: PeftConfig) -> str:
    """`"deep-lora"` or `"lora"`: the name of a configuration's method on the command line and on cards."""
    return "lora" if config.peft_type == "LORA" else "deep-lora"


def _title(config: PeftConfig) -> str:
    name = "LoRA" if method_of(config) == "lora" else "Deep LoRA"
    base = config.base_model_name_or_path
    return f"{name} adapter" + (f" for {Path(base).name}" if base else "")


def _section(config: Any) -> str:
    base = config.base_model_name_or_path or "BASE_MODEL"
    auto = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}.get(
        str(getattr(config.task_type, "value", config.task_type)), "AutoModel"
    )
    if method_of(config) == "lora":
        whole = config.modules_to_save or config.trainable_token_indices or config.bias != "none"
        first, note = (
            "",
            "A plain LoRA with layers trained in full beside it: PEFT loads it, without corefold; most servers take\n"
            "low-rank updates alone."
            if whole
            else "A plain LoRA: any tool that reads PEFT's LoRA format loads it; corefold is not needed.",
        )
    else:
        first = "import corefold  # makes Deep LoRA known to PEFT\n"
        note = (
            f"Deep LoRA, rank {config.r}, width {config.width or config.r}, depth {config.depth}.\n"
            "`import corefold` must run before loading; without it PEFT stops at `KeyError: 'DEEPLORA'`. For\n"
            'tools that do not know corefold, write a plain LoRA with `corefold.export_lora(model, "out-lora")`.'
        )
    labels = "  # with the num_labels it was trained with" if config.task_type == "SEQ_CLS" else ""
    return (
        f"{HEADING}\n\n{note}\n\n```python\n{first}from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f'base = {auto}.from_pretrained("{base}"){labels}\n'
        f'model = PeftModel.from_pretrained(base, "PATH_TO_THIS_FOLDER")\n'
        f"```\n"
    )
