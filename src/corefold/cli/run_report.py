"""From the files of a run to its report: the updates of an adapter, and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from corefold.adapters import DeepLoraConfig, saved_updates
from corefold.core import DeepCore
from corefold.finetune import InputError, load_settings
from corefold.finetune.folder import check_adapter
from corefold.report import (
    LayerUpdate,
    Section,
    Table,
    figure_svg,
    learning_curves,
    numerical_ranks,
    update_spectra,
    write_page,
)

# What a report calls the parts of metrics.json; a part may be empty (no constant answer in causal-lm).
STAGES = {"constant answer": "baseline", "before training": "before", "after training": "after"}


def updates_of(folder: Path) -> list[LayerUpdate]:
    """What the adapter in `folder`, Deep LoRA or LoRA, adds to each layer.

    Raises:
        InputError: no such adapter, one that was cut or changed, or of another method.
    """
    config, state = check_adapter(folder)
    try:
        chains = (
            saved_updates(config, state)
            if isinstance(config, DeepLoraConfig)
            else _lora_chains(config, state)
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder}: {error}") from error
    sizes = dict.fromkeys(chains, 0)
    for key, tensor in state.items():
        name = key.removeprefix("base_model.model.").rpartition(".lora_" if ".lora_" in key else ".")[0]
        if name in sizes:
            sizes[name] += tensor.numel() * tensor.element_size()

    def place(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]  # 9 before 10

    return [
        LayerUpdate(name, chain.singular_values(), chain.left.shape[0], chain.right.shape[0], sizes[name])
        for name, chain in sorted(chains.items(), key=lambda pair: place(pair[0]))
    ]


def _lora_chains(config: PeftConfig, state: Mapping[str, Tensor]) -> dict[str, DeepCore]:
    """A LoRA pair as a chain of depth one, so that both methods are looked at alike."""
    if not isinstance(config, LoraConfig):
        raise ValueError(f"a {config.peft_type} adapter; expected Deep LoRA or LoRA")
    chains = {}
    for key in state:
        if key.endswith(".lora_A.weight"):
            a, b = state[key], state[key.replace("lora_A", "lora_B")]
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            patterns = config.alpha_pattern or {}
            alpha = patterns.get(get_pattern_key(list(patterns), name), config.lora_alpha)
            scale = alpha / (len(a) ** 0.5 if config.use_rslora else len(a))
            chains[name] = DeepCore(b.float(), scale * torch.eye(len(a)).unsqueeze(0), a.mT.float())
    if not chains:
        raise ValueError("the adapter holds no linear LoRA layer")
    return chains


def write_report(out: Path) -> Path:
    """Write report.html into the folder of a finished run, from the files in it."""
    metrics, history = (
        json.loads((out / name).read_text(encoding="utf-8")) for name in ("metrics.json", "history.json")
    )
    updates = updates_of(out)
    settings = load_settings(out / "config.yaml")
    names = list(metrics["after"])
    rows_shown = [[label, *map(metrics[key].get, names)] for label, key in STAGES.items() if metrics[key]]
    rows = metrics["rows"]
    said = f"On {rows['eval']:,} rows, after training on {rows['train']:,}."
    sections = [
        Section("Scores", said, Table(["", *names], rows_shown)),
        Section("Learning curves", figure_svg=figure_svg(partial(learning_curves, history)),
                caption="Evaluated on a random part of the evaluation rows during training."),
        *update_sections(updates),
        Section("The adapter", settings={**metrics["adapter"], **metrics["timing"]}),
        Section("Settings", settings=settings),
        Section("Versions", settings=metrics["versions"]),
    ]  # fmt: skip
    return write_page(
        out / "report.html", f"corefold: {settings['method']} on {Path(settings['train']).name}", sections
    )


def update_sections(updates: list[LayerUpdate]) -> list[Section]:
    """The pictures of an adapter's updates."""
    return [
        Section("Spectra", figure_svg=figure_svg(partial(update_spectra, updates))),
        Section("Ranks", figure_svg=figure_svg(partial(numerical_ranks, updates))),
    ]
