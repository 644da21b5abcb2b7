"""Predictions of a finished run for new rows, and their scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from corefold.errors import InputError
from corefold.finetune import data
from corefold.finetune.encoding import IGNORED, Collator, encode, encode_prompts
from corefold.finetune.folder import Run
from corefold.finetune.metrics import scores, token_scores
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
    table = read_table(source)
    for name in ("prediction", "probability"):
        if name in table.columns:
            raise InputError(f"{source} already has a column {name!r}; rename it")
    rows = _rows(run, table, source, labelled=False)
    if run.task.kind == "causal-lm":
        return table.assign(prediction=list(generate(run, rows, batch_size, max_new_tokens, progress)))
    outputs = np.concatenate(
        [out.float().cpu().numpy() for out, _ in _outputs(run, rows, batch_size, progress)]
    )
    if run.task.kind == "regression":
        return table.assign(prediction=run.task.shift + run.task.scale * outputs.reshape(-1).astype(float))
    probabilities = torch.from_numpy(outputs).softmax(-1).numpy()
    best = probabilities.argmax(-1)
    return table.assign(
        prediction=[run.task.classes[i] for i in best], probability=probabilities[np.arange(len(best)), best]
    )


def evaluate(run: Run, source: str, *, batch_size: int = 32, progress: bool = True) -> dict[str, float]:
    """The scores of `metrics.scores` on the labelled rows of `source`.

    Raises:
        InputError: the source cannot be read, lacks a column, or has a class that never occurs in training.
    """
    rows = _rows(run, read_table(source), source, labelled=True)
    causal = run.task.kind == "causal-lm"
    outputs, labels = [], []
    for out, batch in _outputs(run, rows, batch_size, progress):
        kept = token_scores(out, batch["labels"]) if causal else out
        outputs.append(kept.float().cpu().numpy())
        labels.append(batch["labels"].cpu().numpy())
    if causal:
        widest = max(each.shape[1] for each in labels)
        outputs = [np.pad(each, ((0, 0), (0, widest - each.shape[1]), (0, 0))) for each in outputs]
        labels = [np.pad(e, ((0, 0), (0, widest - e.shape[1])), constant_values=IGNORED) for e in labels]
    return {"rows": len(rows)} | scores(run.task, np.concatenate(outputs), np.concatenate(labels))


def _rows(run: Run, table: pd.DataFrame, source: str, labelled: bool) -> list[dict[str, Any]]:
    columns = run.task.columns
    if not labelled:
        columns = data.Columns(columns.text, columns.text_pair)
    cleaned = data.clean(table, columns, run.task.kind, source)
    if run.task.kind == "causal-lm" and not labelled:
        return encode_prompts(run.task, run.tokenizer, cleaned)
    return encode(run.task, run.tokenizer, cleaned, source)


def _batches(
    run: Run, rows: list[dict[str, Any]], size: int, progress: bool, what: str
) -> Iterator[dict[str, Any]]:
    collate, device = Collator(run.tokenizer), run.adapted.device
    with torch.no_grad(), tqdm(total=len(rows), desc=what, unit="row", disable=not progress) as bar:
        for start in range(0, len(rows), size):
            yield _to(collate(rows[start : start + size]), device)
            bar.update(min(size, len(rows) - start))


def _outputs(
    run: Run, rows: list[dict[str, Any]], size: int, progress: bool
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    for batch in _batches(run, rows, size, progress, "predict"):
        yield run.model(**batch).logits, batch


def generate(run: Run, rows: list[dict[str, Any]], size: int, longest: int, progress: bool) -> Iterator[str]:
    """Texts that continue the prompts of `encode_prompts`, at most `longest` tokens, likeliest token by token."""
    run.tokenizer.padding_side = "left"  # so that every prompt ends where its continuation begins
    for batch in _batches(run, rows, size, progress, "generate"):
        made = run.adapted.generate(
            **batch, max_new_tokens=longest, do_sample=False, pad_token_id=run.tokenizer.pad_token_id
        )
        new = made[:, batch["input_ids"].shape[1] :]
        yield from (text.strip() for text in run.tokenizer.batch_decode(new, skip_special_tokens=True))


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {name: _to(value, device) for name, value in batch.items()}
    return batch.to(device)
