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
MESSAGES = '[{"role": "user", "content": "a text"}]'
TAGS = """\
texts = [["a", "text"], ["another"]]
batch = tokenizer(texts, is_split_into_words=True, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
tags = []
for row, text in enumerate(texts):
    places = [batch.word_ids(row).index(word) for word in range(len(text))]  # the first token of each word
    tags.append([model.config.id2label[number] for number in logits[row, places].argmax(-1).tolist()])  # {names}
"""
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
    return _language_model(task, arguments, merged)


def _loading(task: Task, arguments: Mapping[str, Any], merged: bool) -> str:
    """The lines that load model and tokenizer."""
    auto = kind_of(task).model_class(task)[0].__name__
    name, library = (auto, "transformers") if merged else (f"AutoPeft{auto.removeprefix('Auto')}", "peft")
    listed = "".join(f", {key}={value!r}" for key, value in arguments.items())
    imports = {"transformers": ["AutoTokenizer"]}
    imports.setdefault(library, []).append(name)
    lines = [f"from {each} import {', '.join(sorted(names))}" for each, names in sorted(imports.items())]
    return "\n".join(
        [
            *lines,
            "",
            f'model = {name}.from_pretrained("{FOLDER}"{listed}).eval()',
            f'tokenizer = AutoTokenizer.from_pretrained("{FOLDER}")',
            "",
        ]
    )


def _language_model(task: Task, arguments: Mapping[str, Any], merged: bool) -> str:
    if task.kind == "chat":
        prompt = (
            f"messages = {MESSAGES}\n"
            "prompt = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
            ")\n"
        )
    else:
        separator = f" + {task.separator!r}" if task.kind == "causal-lm" and task.columns.label else ""
        prompt = f'prompt = tokenizer("a text"{separator}, return_tensors="pt")\n'
    shared = "" if task.kind == "seq2seq" else '[prompt["input_ids"].shape[1] :]'
    return (
        _loading(task, {} if merged else arguments, merged) + prompt + "written = model.generate(\n"
        '    input_ids=prompt["input_ids"],\n'
        '    attention_mask=prompt["attention_mask"],\n'
        "    max_new_tokens=64,\n"
        "    do_sample=False,\n"
        ")\n"
        f"text = tokenizer.decode(written[0]{shared}, skip_special_tokens=True)\n"
    )


def _own_head(task: Task, arguments: Mapping[str, Any], merged: bool, units: Units) -> str:
    if merged:
        arguments = {"dtype": "float32"} if task.dtype != "float32" else {}
    loading = "import torch\n" + _loading(task, arguments, merged)
    if kind_of(task).peft_task_type(task) == "TOKEN_CLS":
        return loading + TAGS.format(names=_class_list(task))
    texts = '["a text", "another"], ["its pair", "and its pair"]' if task.columns.text_pair else ONE_TEXT
    if task.classes:
        answer = f"probabilities = logits.{'sigmoid()' if is_multi_label(task) else 'softmax(-1)'}"
    else:
        answer = f"numbers = {units.of('logits[:, 0]')}"
    return (
        loading + f'batch = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")\n'
        "with torch.no_grad():\n"
        "    logits = model(**batch).logits\n"
        f"{answer}  # {_class_list(task) or 'in the units of the label'}\n"
    )


def _class_list(task: Task) -> str:
    """The names of the classes on one line, for a comment."""
    return " ".join(", ".join(task.classes).split())


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
                    f"probabilities = logits.softmax(-1)  # {_class_list(task)}\n"
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
        f"probabilities = logits.{function}  # {_class_list(task)}\n"
        "embedder = SentenceTransformer(modules=list(model)[:2])  # encodes without the head\n\n"
        "from setfit import SetFitModel\n\n"
        f'probabilities = SetFitModel.from_pretrained("{FOLDER}").predict_proba({texts})\n'
    )
