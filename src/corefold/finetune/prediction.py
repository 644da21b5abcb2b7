"""Predictions of a finished run for new rows, and their scores."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from corefold.errors import InputError
from corefold.finetune import data
from corefold.finetune.encoding import Collator
from corefold.finetune.folder import Run
from corefold.finetune.loading import check_tokens
from corefold.finetune.positions import table_positions
from corefold.finetune.scoring import Judgement, Outputs, judge, stacked, stacked_labels
from corefold.finetune.task import Task
from corefold.finetune.tasks.generation import GenerationKind
from corefold.finetune.tasks.kinds import kind_of
from corefold.tables.reading import read_table


def predict(
    run: Run, source: str, *, batch_size: int = 32, max_new_tokens: int = 64, progress: bool = True
) -> pd.DataFrame:
    """The table of `source` with predictions in new columns.

    classification: `prediction`, the class, and its `probability`; regression: `prediction`, in the label's units;
    causal-lm: `prediction`, the text generated after the prompt, likeliest token by token.

    Args:
        run: a loaded run.
        source: csv, tsv, jsonl or parquet file, or hub data set; it needs the text columns alone.
        batch_size: rows at a time.
        max_new_tokens: longest generated text (causal-lm).
        progress: show a progress bar.

    Raises:
        InputError: the source cannot be read, lacks a column, or already has a column of the new names.
    """
    table, kind = read_table(source), kind_of(run.task)
    for name in kind.new_columns:
        if name in table.columns:
            raise InputError(f"{source} already has a column {name!r}; rename it")
    cleaned = data.clean(table, run.task.columns.without_label(), kind.clean_labels, source)
    if isinstance(kind, GenerationKind):
        prompts = kind.encode_prompts(_with_room(run, max_new_tokens), run.tokenizer, cleaned)
        return table.assign(prediction=list(generate(run, prompts, batch_size, max_new_tokens, progress)))
    rows = kind.encode(run.task, run.tokenizer, cleaned, source)
    check_tokens(rows, run.adapted, source)  # type: ignore[arg-type]
    outputs, _ = _outputs(run, rows, batch_size, progress)
    return table.assign(**kind.predictions(run.task, outputs))


def _with_room(run: Run, max_new_tokens: int) -> Task:
    """The task with prompts so short that the model has positions left for `max_new_tokens`.

    Raises:
        InputError: it has no more positions than that.
    """
    positions = table_positions(run.adapted)
    if positions is None:
        return run.task
    if positions <= max_new_tokens:
        raise InputError(
            f"--max-new-tokens {max_new_tokens} leaves no room for a prompt; {run.task.model} has {positions} positions"
        )
    return replace(run.task, max_length=min(run.task.max_length, positions - max_new_tokens))


def evaluate(run: Run, source: str, *, batch_size: int = 32, progress: bool = True) -> dict[str, float]:
    """The number of labelled rows of `source`, and their scores.

    Raises:
        InputError: the source cannot be read, lacks a column, or has a class that never occurs in training.
    """
    found = judge_table(run, source, batch_size=batch_size, progress=progress)
    return {"rows": found.rows} | found.scores


def judge_table(
    run: Run, source: str, *, batch_size: int = 32, progress: bool = True, seed: int = 0
) -> Judgement:
    """Scores, intervals and report of the labelled rows of `source`.

    Args:
        run: a loaded run.
        source: as for `predict`, with the label column.
        batch_size: rows at a time.
        progress: show a progress bar.
        seed: seed of the resamples of the intervals.

    Raises:
        InputError: the source cannot be read, lacks a column, or has a class that never occurs in training.
    """
    kind = kind_of(run.task)
    cleaned = data.clean(read_table(source), run.task.columns, kind.clean_labels, source)
    rows = kind.encode(run.task, run.tokenizer, cleaned, source)
    outputs, labels = _outputs(run, rows, batch_size, progress)
    return judge(run.task, Outputs(outputs, labels, kind.scores(run.task, outputs, labels)), seed)


def _batches(
    run: Run, rows: list[dict[str, Any]], size: int, progress: bool, what: str, side: str | None = None
) -> Iterator[dict[str, Any]]:
    """Batches on the model's device, padded on `side`: the left for prompts, which must end where the answer begins."""
    tokenizer = run.tokenizer
    if side is not None:
        tokenizer = copy.deepcopy(tokenizer)  # The caller's tokenizer keeps its side.
        tokenizer.padding_side = side
    collate, device = Collator(tokenizer), run.adapted.device
    with torch.no_grad(), tqdm(total=len(rows), desc=what, unit="row", disable=not progress) as bar:
        for start in range(0, len(rows), size):
            yield _to(collate(rows[start : start + size]), device)
            bar.update(min(size, len(rows) - start))


def _outputs(
    run: Run, rows: list[dict[str, Any]], size: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs that the kind of task keeps, and the labels; empty labels where the rows have none."""
    kind, outputs, labels = kind_of(run.task), [], []
    for batch in _batches(run, rows, size, progress, "predict"):
        known = batch.get("labels", torch.empty(0))
        outputs.append(kind.kept_outputs(run.model(**batch).logits, known).float().cpu().numpy())
        labels.append(known.cpu().numpy())
    return stacked(outputs), stacked_labels(labels)


def generate(run: Run, rows: list[dict[str, Any]], size: int, longest: int, progress: bool) -> Iterator[str]:
    """Texts that continue the prompts of `encode_prompts`, at most `longest` tokens, likeliest token by token."""
    for batch in _batches(run, rows, size, progress, "generate", side="left"):
        made = run.adapted.generate(
            **batch, max_new_tokens=longest, do_sample=False, pad_token_id=run.tokenizer.pad_token_id
        )
        new = made[:, batch["input_ids"].shape[1] :]
        yield from (text.strip() for text in run.tokenizer.batch_decode(new, skip_special_tokens=True))


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {name: _to(value, device) for name, value in batch.items()}
    return batch.to(device)
