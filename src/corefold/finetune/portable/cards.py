"""Model cards whose code loads exactly the folder that they lie in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from corefold.adapters.host.model_card import CARD, HEADING, is_template
from corefold.finetune.portable.own_head import LABEL_UNITS, Units, has_own_head
from corefold.finetune.portable.sentence_encoder import fits_modules, is_sentence_encoder, is_whole
from corefold.finetune.portable.setfit import is_multi_label
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of

FOLDER = "PATH_TO_THIS_FOLDER"
MERGED_HEADING = "## How to load this model"
RUN_HEADING = "## How to load this run"
TWO_TEXTS = '[("a text", "its pair"), ("another", "and its pair")]'
ONE_TEXT = '["a text", "another"]'


def write_card(
    folder: Path,
    task: Task,
    arguments: Mapping[str, Any],
    limits: Sequence[str],
    *,
    merged: bool,
    units: Units = LABEL_UNITS,
    heading: str = HEADING,
    preamble: str = "",
) -> None:
    """Write README.md, or replace its section on loading; other text stays.

    Args:
        folder: the folder of the artefact.
        task: the task of the run.
        arguments: of `from_pretrained`, for an adapter under the model's own head.
        limits: the lines of `limits`.
        merged: whether the folder holds a whole model, not an adapter.
        units: of the outputs of a regression with its own head.
        heading: of the section.
        preamble: the first lines of the code.
    """
    path = folder / CARD
    card = ModelCard.load(path) if path.exists() else None
    data, text = (card.data, card.text) if card else (ModelCardData(), "")
    text = "" if is_template(text) else text.strip()
    data["library_name"] = _library(task, merged)
    data["base_model"] = data.get("base_model") or task.model
    data["tags"] = sorted({*(data.get("tags") or []), "corefold"})
    code = _code(task, arguments, merged, units)
    listed = "".join(f"- {line}\n" for line in limits)
    section = f"{heading}\n\n```python\n{preamble}{code}```\n\n{listed}".rstrip() + "\n"
    title = f"# {Path(task.model).name}, fine-tuned"
    body = _with_section(text or title, heading, section)
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n", encoding="utf-8")


def _with_section(text: str, heading: str, section: str) -> str:
    pattern = re.compile(rf"^{re.escape(heading)}$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section + "\n", text, count=1)
    return f"{text}\n\n{section}"


def _library(task: Task, merged: bool) -> str:
    if is_sentence_encoder(task):
        return "sentence-transformers"
    return "transformers" if merged else "peft"


def _code(task: Task, arguments: Mapping[str, Any], merged: bool, units: Units) -> str:
    if has_own_head(task):
        return _own_head(task, arguments, merged, units)
    if is_sentence_encoder(task):
        return _sentence_encoder(task)
    name, _ = kind_of(task).model_class(task)
    auto = name.__name__
    return (
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("{FOLDER}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{FOLDER}")\n'
    )


def _own_head(task: Task, arguments: Mapping[str, Any], merged: bool, units: Units) -> str:
    if merged:
        loaded = "AutoModelForSequenceClassification", "transformers", f'"{FOLDER}"'
        given = {"dtype": "float32"} if task.dtype != "float32" else {}
    else:
        loaded = "AutoPeftModelForSequenceClassification", "peft", f'"{FOLDER}"'
        given = dict(arguments)
    name, library, folder = loaded
    listed = "".join(f", {key}={value!r}" for key, value in given.items())
    texts = '["a text", "another"], ["its pair", "and its pair"]' if task.columns.text_pair else ONE_TEXT
    if task.classes:
        answer = f"probabilities = logits.{'sigmoid()' if is_multi_label(task) else 'softmax(-1)'}"
    else:
        answer = f"numbers = {units.of('logits[:, 0]')}"
    imports = {"transformers": ["AutoTokenizer"]}
    imports.setdefault(library, []).append(name)
    lines = [f"from {each} import {', '.join(sorted(names))}" for each, names in sorted(imports.items())]
    return "\n".join(
        [
            "import torch",
            *lines,
            "",
            f"model = {name}.from_pretrained({folder}{listed}).eval()",
            f'tokenizer = AutoTokenizer.from_pretrained("{FOLDER}")',
            f'batch = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")',
            "with torch.no_grad():",
            "    logits = model(**batch).logits",
            f"{answer}  # {', '.join(task.classes) or 'in the units of the label'}",
            "",
        ]
    )


def _sentence_encoder(task: Task) -> str:
    start = (
        f'from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer("{FOLDER}")\n'
    )
    if is_whole(task):
        return start + (
            f"embeddings = model.encode({ONE_TEXT})\n"
            "similarities = model.similarity(embeddings, embeddings)\n"
        )
    if task.head == "cosine":
        return start + (
            'cosines = model.similarity_pairwise(model.encode(["a text"]), model.encode(["its pair"]))\n'
            f"numbers = {Units(task.shift, task.scale).of('cosines')}\n"
        )
    if not fits_modules(task):
        return (
            "import torch\nfrom safetensors.torch import load_file\n"
            + start
            + (
                'u, v = (model.encode(texts, convert_to_tensor=True) for texts in (["a text"], ["its pair"]))\n'
                f'head = load_file("{FOLDER}/head.safetensors", device=str(u.device))\n'
                'logits = torch.cat([u, v, (u - v).abs()], 1) @ head["weight"].T + head["bias"]\n'
                + (
                    f"probabilities = logits.softmax(-1)  # {', '.join(task.classes)}\n"
                    if task.classes
                    else f"numbers = {Units(task.shift, task.scale).of('logits[:, 0]')}\n"
                )
            )
        )
    texts = TWO_TEXTS if task.columns.text_pair else ONE_TEXT
    if not task.classes:
        return start + f"numbers = model.encode({texts})[:, 0]  # in the units of the label\n"
    function = "sigmoid()" if is_multi_label(task) else "softmax(-1)"
    return start + (
        f"logits = model.encode({texts}, convert_to_tensor=True)\n"
        f"probabilities = logits.{function}  # {', '.join(task.classes)}\n"
        "embedder = SentenceTransformer(modules=list(model)[:2])  # encodes without the head\n\n"
        "from setfit import SetFitModel\n\n"
        f'probabilities = SetFitModel.from_pretrained("{FOLDER}").predict_proba({texts})\n'
    )
