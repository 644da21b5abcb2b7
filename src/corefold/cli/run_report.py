"""The report of a run, made from its files: the updates of the adapter, and report.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftType
from peft.utils.other import get_pattern_key
from torch import Tensor

from corefold.adapters import DeepLoraConfig, saved_updates
from corefold.cli.score_tables import class_table, fold_table, interval_notes, stage_table
from corefold.core import DeepCore, Update
from corefold.errors import InputError
from corefold.finetune import load_settings
from corefold.finetune.evaluation.classes import CALIBRATION_BINS
from corefold.finetune.evaluation.verdict import verdict
from corefold.finetune.folder import HISTORY, METRICS, REPORT, SETTINGS, check_adapter, read_json
from corefold.finetune.methods import METHODS
from corefold.report import (
    LayerUpdate,
    Section,
    Table,
    confusion_matrix,
    figure_svg,
    learning_curves,
    numerical_ranks,
    update_spectra,
    write_page,
)

LORA_A = re.compile(r"(?:base_model\.model\.)?(?P<name>.+)\.lora_(?:A\.weight|embedding_A)")


def updates_of(folder: Path) -> list[LayerUpdate]:
    """The update of each layer by the adapter in `folder`, Deep LoRA or LoRA.

    Raises:
        InputError: there is no adapter, it was cut or changed, or it is of another method.
    """
    config, state = check_adapter(folder)
    try:
        updates = (
            saved_updates(config, state)
            if isinstance(config, DeepLoraConfig)
            else _lora_updates(config, state)
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder}: {error}") from error
    sizes = dict.fromkeys(updates, 0)
    for key, tensor in state.items():
        name = key.removeprefix("base_model.model.").rpartition(".lora_" if ".lora_" in key else ".")[0]
        if name in sizes:
            sizes[name] += tensor.numel() * tensor.element_size()

    def place(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]  # 9 before 10

    return [
        LayerUpdate(name, update.singular_values(), *_shape(update), sizes[name])
        for name, update in sorted(updates.items(), key=lambda pair: place(pair[0]))
    ]


def kind_of_adapter(config: PeftConfig) -> str:
    """The name of an adapter's method as PEFT has it; DoRA is a kind of LoRA there."""
    return (
        "DoRA"
        if getattr(config, "use_dora", False)
        else str(getattr(config.peft_type, "value", config.peft_type))
    )


def _shape(update: Update) -> tuple[int, int]:
    thin = update.thin()
    return (len(thin[0]), len(thin[1])) if thin is not None else tuple(update.dense().shape)  # type: ignore[return-value]


def _lora_updates(config: PeftConfig, state: Mapping[str, Tensor]) -> Mapping[str, Update]:
    """LoRA pairs as updates with a core of depth one, so that one function describes both methods."""
    if (
        not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA
    ):  # AdaLoRA's is a LoraConfig too.
        raise ValueError(f"a {kind_of_adapter(config)} adapter; expected Deep LoRA or LoRA")
    if config.use_dora or any("lora_magnitude_vector" in key for key in state):
        raise ValueError(
            "a DoRA adapter, whose update depends on the base weights; expected Deep LoRA or LoRA"
        )
    updates = {}
    for key in state:
        match = LORA_A.fullmatch(key)
        if match is not None:
            a, b = state[key], state[key.replace("_A", "_B")]
            patterns = config.alpha_pattern or {}
            alpha = patterns.get(get_pattern_key(list(patterns), match["name"]), config.lora_alpha)
            scale = alpha / (len(a) ** 0.5 if config.use_rslora else len(a))
            # A convolution's kernel is one side of the matrix, as in its own weight.
            left, right = b.flatten(1).float(), a.flatten(1).mT.float()
            updates[match["name"]] = DeepCore(left, scale * torch.eye(len(a)).unsqueeze(0), right)
    if not updates:
        raise ValueError("the adapter holds no LoRA layer of a kind that is known here")
    return updates


def write_report(out: Path) -> Path:
    """Write report.html into the folder of a finished run, from the files in it."""
    metrics, history = read_json(out / METRICS), read_json(out / HISTORY)
    method, settings = METHODS[metrics["adapter"]["method"]], load_settings(out / SETTINGS)
    sections = score_sections(metrics)
    if method.trains:
        curves = figure_svg(partial(learning_curves, history))
        sections.append(Section("Learning curves", figure_svg=curves, caption=_judged_in_training(metrics)))
    if method.low_rank:  # DoRA, VeRA and methods without adapter have no spectra to draw.
        sections += update_sections(updates_of(out))
    sections += [
        Section("The adapter", settings={**metrics["adapter"], **metrics["timing"]}),
        Section("Settings", settings=settings),
        Section("Versions", settings=metrics["versions"]),
    ]
    return write_page(
        out / REPORT, f"corefold: {settings['method']} on {Path(settings['train']).name}", sections
    )


def run_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Lines on the step that was kept, where training rows were held out to choose it."""
    if "kept" not in metrics:
        return []
    kept, rows = metrics["kept"], metrics["rows"]["selection"]
    stopped = (
        f"stopped after {kept['stopped']} of {kept['steps']} steps; "
        if kept["stopped"] < kept["steps"]
        else ""
    )
    return [
        f"{stopped}kept step {kept['step']} ({kept['keep']}), by the loss on {rows} held-out training rows"
    ]


def score_sections(metrics: Mapping[str, Any]) -> list[Section]:
    """Verdict, scores with intervals, folds, classes and the confusion matrix."""
    rows, report = metrics["rows"], metrics.get("report", {})
    caption = f"On {rows['eval']:,} rows, after training on {rows['train']:,}."
    lines = [verdict(metrics), caption, *interval_notes(metrics), *run_notes(metrics)]
    if "calibration_error" in metrics["after"]:
        lines.append(
            "The calibration error is the mean distance between accuracy and the probability of the predicted class, "
            f"over {CALIBRATION_BINS} equal bins of that probability."
        )
    sections = [Section("Scores", "\n\n".join(line for line in lines if line), Table(*stage_table(metrics)))]
    if "folds" in metrics:
        sections.append(Section("Folds", table=Table(*fold_table(metrics["folds"]))))
    if report:
        classes = [each["class"] for each in report["classes"]]
        sections.append(Section("Classes", table=Table(*class_table(report, metrics["class_rows"]))))
    if "confusion" in report:
        side = min(9.0, 2.4 + 0.3 * len(classes))
        draw = partial(confusion_matrix, report["confusion"], classes)
        sections.append(Section("Confusion matrix", figure_svg=figure_svg(draw, width=side + 2, height=side)))
    return sections


def _judged_in_training(metrics: Mapping[str, Any]) -> str:
    if "kept" in metrics:
        return "Evaluated on the held-out training rows that choose the step."
    if metrics["rows"]["eval"] and not ("folds" in metrics and metrics["after"] == metrics["folds"]["mean"]):
        return "Evaluated on a random part of the evaluation rows during training."
    return "The model that is kept trains on all rows, so that none are left to evaluate it on."


def update_sections(updates: list[LayerUpdate]) -> list[Section]:
    """The pictures of an adapter's updates."""
    return [
        Section("Spectra", figure_svg=figure_svg(partial(update_spectra, updates))),
        Section("Ranks", figure_svg=figure_svg(partial(numerical_ranks, updates))),
    ]
