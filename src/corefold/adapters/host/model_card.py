"""The model card saved beside each adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from peft import PeftConfig

CARD = "README.md"
HEADING = "## How to load this adapter"
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
WITH_LABELS = ("SEQ_CLS", "TOKEN_CLS")


def write_card(
    directory: str | os.PathLike[str], config: PeftConfig, title: str, note: str, preamble: str = ""
) -> None:
    """Write README.md in `directory`, or replace the body of the template that PEFT has just put there.

    A card whose body somebody has edited (one without PEFT's placeholders) keeps its text and gains the section.

    Args:
        directory: the adapter's folder.
        config: its configuration, for the base model and the task.
        title: the method's name, such as "Deep LoRA".
        note: the text of the section on loading.
        preamble: the first lines of the code in that section.
    """
    path = Path(directory, CARD)
    card = ModelCard.load(path) if path.exists() else None
    data, text = (card.data, card.text) if card else (ModelCardData(), "")
    base = config.base_model_name_or_path
    data["library_name"] = "peft"
    data["base_model"] = data.get("base_model") or base
    data["tags"] = sorted({*(data.get("tags") or []), "corefold", title.lower().replace(" ", "-")})
    section = f"{HEADING}\n\n{note}\n\n{_code(config, preamble)}"
    if not text or is_template(text):
        body = f"# {title} adapter" + (f" for {Path(base).name}" if base else "") + f"\n\n{section}"
    elif HEADING in text:
        body = text
    else:
        body = f"{text.rstrip()}\n\n{section}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n", encoding="utf-8")


def is_template(text: str) -> bool:
    """Whether a card's text is the form that PEFT puts down, with nothing filled in."""
    if "[More Information Needed]" not in text:
        return False
    form = {*ModelCard.from_template(ModelCardData()).text.splitlines(), "### Framework versions"}
    return all(line in form or line.startswith("- PEFT ") for line in text.splitlines())


def _code(config: Any, preamble: str) -> str:
    task = str(getattr(config.task_type, "value", config.task_type))
    auto = AUTO_CLASSES.get(task, "AutoModel")
    labels = "  # with the num_labels it was trained with" if task in WITH_LABELS else ""
    base = config.base_model_name_or_path or "BASE_MODEL"
    return (
        f"```python\n{preamble}from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f'base = {auto}.from_pretrained("{base}"){labels}\n'
        f'model = PeftModel.from_pretrained(base, "PATH_TO_THIS_FOLDER")\n'
        "```\n"
    )
