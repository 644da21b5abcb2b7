"""One cell of a comparison: tries on held-out training rows, training on all rows, and its record."""

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
from corefold.compare.identity import machine, recorded
from corefold.errors import InputError, reason
from corefold.finetune import RunConfig
from corefold.finetune.data import draw
from corefold.finetune.finetuning import versions
from corefold.finetune.method import decide
from corefold.finetune.methods import METHODS
from corefold.finetune.run_data import SourceTables, class_column, draw_rows, prepare_data
from corefold.finetune.tasks.kinds import kind_of
from corefold.finetune.trainer import TrainingRun, prepare

PLACE = "\0place"  # a name that no column of a table has


@dataclass(frozen=True)
class SharedInputs:
    """The inputs that all cells share.

    Attributes:
        config: the settings.
        tries: settings to choose from, by method.
        tables: the rows, read once.
        about: entries of each record that describe model and data.
    """

    config: RunConfig
    tries: Mapping[str, Sequence[Try]]
    tables: SourceTables
    about: Mapping[str, Any]


def run_cell(shared: SharedInputs, key: Key) -> dict[str, Any]:
    """The record of a cell. If a method cannot run on this model, "error" says why.

    Raises:
        OSError: a full disk or a missing file, for which no method is to blame.
    """
    began = time.perf_counter()
    kind = kind_of(shared.tables.task)
    main = kind.main_score
    result: dict[str, Any]
    try:
        result = _train_and_score(shared, key, main, kind.lower_is_better)
    except OSError:
        raise
    except Exception as error:  # PEFT, transformers and torch share no base class
        name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        result = {"error": name + reason(error)}
    gc.collect()  # a Trainer refers to itself, so that only the collector frees it and its model
    return {
        **asdict(key),
        **shared.about,
        "task": shared.tables.task.kind,
        "main": main,
        "lower_is_better": kind.lower_is_better,
        "error": None,
        **result,
        "seconds": time.perf_counter() - began,
        "versions": versions(),
        "machine": machine(),
    }


def _train_and_score(shared: SharedInputs, key: Key, main: str, lower_is_better: bool) -> dict[str, Any]:
    config = replace(shared.config, rank=key.rank or shared.config.rank, samples=key.samples, seed=key.seed)
    train, held_out = draw_rows(config, shared.tables)
    tries = [
        {**settings, **_try(shared, key, config, settings, train)}
        for settings in shared.tries.get(key.method, ())
    ]
    best = best_try(tries, main, lower_is_better) if tries else None
    settings = {} if best is None else shared.tries[key.method][best]
    run = _train(shared, key, replace(config, **settings), train, held_out)
    scores = run.evaluate()
    if not math.isfinite(scores[main]):
        raise InputError(f"{main} is {scores[main]}")
    return {
        "scores": scores,
        "rows": {"train": len(train), "eval": len(held_out)},
        "settings": recorded(run.data.settings),
        "tries": tries,
        "chosen": best,
        "trainable_parameters": run.trainable_parameters(),
        "bytes": saved_bytes(run),
        "seconds_per_step": run.timer.median(),
    }


def _try(
    shared: SharedInputs, key: Key, config: RunConfig, settings: Try, train: pd.DataFrame
) -> Mapping[str, float | str]:
    """Scores on a fifth of the training rows after training on the others, or the reason why there are none."""
    task = shared.tables.task
    kept, held_out = hold_out_fifth(train, config.seed, class_column(task))
    # As many steps as training on all rows will take, since the best rate depends on them.
    steps = decide(config, task, len(train), METHODS[key.method]).steps
    try:
        config = replace(replace(config, steps=steps), **settings)
        return _train(shared, key, config, kept, held_out).evaluate()
    except InputError as error:  # the loss is no longer finite, for example; another try may do better
        return {"error": str(error)}


def _train(
    shared: SharedInputs, key: Key, config: RunConfig, train: pd.DataFrame, held_out: pd.DataFrame
) -> TrainingRun:
    data = prepare_data(config, shared.tables.task, train, held_out, METHODS[key.method])
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(data, Path(folder))
        run.train()
    return run


def hold_out_fifth(train: pd.DataFrame, seed: int, stratify: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Four fifths of the rows to train on, classes in proportion, and the others; drawn by `seed`."""
    count = len(train) - len(train) // 5
    order = draw(train.reset_index(names=PLACE), count, seed, stratify, "the training rows")[PLACE]
    return train.loc[order], train.drop(order)


def best_try(tries: Sequence[Mapping[str, Any]], main: str, lower_is_better: bool = False) -> int:
    """The place of the try with the best score; among equal scores, which few rows often give, of the lowest loss.

    Raises:
        InputError: none has a score.
    """
    sign = -1 if lower_is_better else 1
    scored = {
        place: (sign * each[main], -each.get("loss", 0.0))
        for place, each in enumerate(tries)
        if math.isfinite(each.get(main, math.nan))
    }
    if not scored:
        reasons = "; ".join(dict.fromkeys(str(each.get("error", "no finite score")) for each in tries))
        raise InputError(f"none of {len(tries)} tries has a score: {reasons}")
    return max(scored, key=lambda place: scored[place])


def saved_bytes(run: TrainingRun) -> int:
    """Size of the file that a user keeps beside the untouched base: adapter and head, or all trained weights."""
    if isinstance(run.adapted, PeftModel):
        with warnings.catch_warnings():
            # AdaLoRA leaves some layers without any rank.
            warnings.filterwarnings("ignore", ".*invalid shape")
            state = get_peft_model_state_dict(run.adapted, save_embedding_layers=False)
    else:
        state = {name: p for name, p in run.adapted.named_parameters() if p.requires_grad}
    if run.model is not run.adapted:
        state |= {name: p for name, p in run.model.named_parameters() if name.startswith("head.")}
    if not state:
        return 0
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    return len(save(tensors, metadata={"format": "pt"}))
