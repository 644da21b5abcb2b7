"""One cell of a comparison: tries on held-out training rows, a fit of all of them, and its record."""

from __future__ import annotations

import gc
import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save

from corefold.compare.grid import Key, Try
from corefold.compare.identity import machine
from corefold.errors import InputError
from corefold.finetune import RunConfig
from corefold.finetune.data import draw
from corefold.finetune.fitting import Fit, prepare
from corefold.finetune.methods import METHODS
from corefold.finetune.metrics import LOWER_IS_BETTER, MAIN
from corefold.finetune.problem import Tables, decided, draw_rows, encoded
from corefold.finetune.training import versions

RECORDED = ("lr", "weight_decay", "head_lr", "steps")  # settings that a method may choose itself
PLACE = "\0place"  # no column of a table is called so


@dataclass(frozen=True)
class Given:
    """What every cell is run with.

    Attributes:
        config: the settings that cells share.
        tries: settings to choose from, by method.
        tables: the rows, read once.
        about: what each record says of model and data.
    """

    config: RunConfig
    tries: Mapping[str, Sequence[Try]]
    tables: Tables
    about: Mapping[str, Any]


def run_cell(given: Given, key: Key) -> dict[str, Any]:
    """The record of a cell. A method that cannot run on this model says why in "error".

    Raises:
        OSError: a disk that is full, a file that went away: nothing that a method did.
    """
    began = time.perf_counter()
    main = MAIN[given.tables.task.kind]
    found: dict[str, Any]
    try:
        found = _fitted(given, key, main)
    except OSError:
        raise
    except Exception as error:  # PEFT, transformers and torch share no base class
        first = (str(error).strip().splitlines() or [""])[0]
        found = {"error": first if isinstance(error, InputError) else f"{type(error).__name__}: {first}"}
    gc.collect()  # a Trainer is a web of cycles, and holds a model
    return {
        **asdict(key),
        **given.about,
        "task": given.tables.task.kind,
        "main": main,
        "lower_is_better": main in LOWER_IS_BETTER,
        "error": None,
        **found,
        "seconds": time.perf_counter() - began,
        "versions": versions(),
        "machine": machine(),
    }


def _fitted(given: Given, key: Key, main: str) -> dict[str, Any]:
    config = replace(given.config, rank=key.rank or given.config.rank, samples=key.samples, seed=key.seed)
    train, held_out = draw_rows(config, given.tables)
    tries = [
        {**choice, **_tried(given, key, config, choice, train)} for choice in given.tries.get(key.method, ())
    ]
    best = chosen(tries, main) if tries else None
    fit = _fit(given, key, {} if best is None else given.tries[key.method][best], config, train, held_out)
    scores = fit.evaluate()
    if not math.isfinite(scores[main]):
        raise InputError(f"{main} is {scores[main]}")
    return {
        "scores": scores,
        "rows": {"train": len(train), "eval": len(held_out)},
        "settings": {name: getattr(fit.problem.config, name) for name in RECORDED},
        "tries": tries,
        "chosen": best,
        "trainable_parameters": fit.trainable_parameters(),
        "bytes": saved_bytes(fit),
        "seconds_per_step": fit.timer.median(),
    }


def _tried(
    given: Given, key: Key, config: RunConfig, choice: Try, train: pd.DataFrame
) -> Mapping[str, float | str]:
    """Scores on a fifth of the training rows after training on the others, or why there are none."""
    task = given.tables.task
    fitted, held = hold_out_fifth(train, config.seed, task.stratify)
    # As many steps as the fit of all rows will take: a rate chosen for fewer would be another.
    steps = decided(config, task, len(train), METHODS[key.method]).steps
    try:
        scores = _fit(given, key, choice, replace(config, steps=steps), fitted, held).evaluate()
    except InputError as error:  # the loss is no longer finite, say; another choice may do
        return {"error": str(error)}
    return scores


def _fit(
    given: Given, key: Key, choice: Try, config: RunConfig, train: pd.DataFrame, held_out: pd.DataFrame
) -> Fit:
    method, task = METHODS[key.method], given.tables.task
    config = decided(replace(config, **choice), task, len(train), method)
    with tempfile.TemporaryDirectory() as folder:
        fit = prepare(encoded(config, task, train, held_out), method, Path(folder))
        fit.train()
    return fit


def hold_out_fifth(train: pd.DataFrame, seed: int, stratify: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Four fifths of the rows to fit, classes in proportion, and the others; drawn by `seed`."""
    train = train.reset_index(drop=True)
    count = len(train) - len(train) // 5
    order = draw(train.reset_index(names=PLACE), count, seed, stratify, "the training rows")[PLACE]
    return train.loc[order], train.drop(order)


def chosen(tries: Sequence[Mapping[str, Any]], main: str) -> int:
    """The place of the try with the best score; of equals the one with the lower loss, for few rows tie often.

    Raises:
        InputError: none has a score.
    """
    sign = -1 if main in LOWER_IS_BETTER else 1
    scored = {
        place: (sign * each[main], -each.get("loss", 0.0))
        for place, each in enumerate(tries)
        if math.isfinite(each.get(main, math.nan))
    }
    if not scored:
        reasons = "; ".join(dict.fromkeys(str(each.get("error", "no finite score")) for each in tries))
        raise InputError(f"none of {len(tries)} tries has a score: {reasons}")
    return max(scored, key=lambda place: scored[place])


def saved_bytes(fit: Fit) -> int:
    """Size of the file that a user keeps beside the untouched base: adapter and head, or all that trained."""
    if isinstance(fit.adapted, PeftModel):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*invalid shape")  # AdaLoRA leaves some layers no rank at all
            state = get_peft_model_state_dict(fit.adapted, save_embedding_layers=False)
    else:
        state = {name: p for name, p in fit.adapted.named_parameters() if p.requires_grad}
    if fit.model is not fit.adapted:
        state |= {name: p for name, p in fit.model.named_parameters() if name.startswith("head.")}
    if not state:
        return 0
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    return len(save(tensors, metadata={"format": "pt"}))
