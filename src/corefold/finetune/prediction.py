"""Predictions of a finished run for new rows, and their scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.utils import send_to_device
from tqdm.auto import tqdm

from corefold.errors import InputError
from corefold.finetune import data
from corefold.finetune.encoding import Collator
from corefold.finetune.folder import Run
from corefold.finetune.loading import check_tokens
from corefold.finetune.positions import table_positions
from corefold.finetune.run_data import window_notes
from corefold.finetune.scoring import Judgement, Outputs, judge, stacked
from corefold.finetune.task import Task
from corefold.finetune.tasks.generation import GenerationKind, text_scores
from corefold.finetune.tasks.kinds import kind_of
from corefold.tables.chunks import TableChunks, read_chunks
from corefold.tables.columns import require_columns
from corefold.tables.reading import read_table


def predict(
    run: Run, source: str, *, batch_size: int = 32, max_new_tokens: int = 64, progress: bool = True
) -> pd.DataFrame:
    """The table of `source` with predictions in new columns, as `predict_chunks` makes them.

    Raises:
        InputError: the source cannot be read, lacks a column, or already has a column of the new names.
    """
    options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "progress": progress}
    return pd.concat(list(predict_chunks(run, read_chunks(source), source, **options)))  # type: ignore[arg-type]


def predict_chunks(
    run: Run,
    chunks: TableChunks,
    source: str,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """A table in chunks with predictions in new columns; memory is needed for one chunk only.

    classification: `prediction`, the class, and its `probability`; multi-label: `prediction`, a list of labels, and
    `probabilities`, the probability of each; token-classification: `prediction`, a list with a tag for each word;
    regression: `prediction`, in the label's units; causal-lm, chat and seq2seq: `prediction`, the text generated from
    the prompt, likeliest token by token; embedding: `similarity`, the cosine of both texts, or where the table has the
    first alone its `embedding`, a list of numbers. Rows without text get no prediction.

    Args:
        run: a loaded run.
        chunks: the table; it needs the text columns alone.
        source: the name of the table, for messages.
        batch_size: rows at a time.
        max_new_tokens: longest generated text (causal-lm, chat, seq2seq).
        progress: show a progress bar.
        note: called with a line on the rows that get no prediction.

    Raises:
        InputError: the table lacks a column, or already has a column of the new names.
    """
    for name in kind_of(run.task).new_columns:
        if name in chunks.columns:
            raise InputError(f"{source} already has a column {name!r}; rename it")
    columns = kind_of(run.task).columns_to_predict(run.task.columns, list(chunks.columns))
    if columns != run.task.columns.without_label() and note is not None:
        note(
            f"{source} has no column {run.task.columns.text_pair!r}: rows get the embedding of {columns.text!r}, "
            "and no similarity"
        )
    numbers: list[int] = []
    for chunk in chunks:
        cleaned, empty = clean_texts(run.task, chunk, source)
        numbers += (chunk.index[empty] + 1).tolist()
        what = (
            "predict" if len(chunk) == len(chunks) else f"predict {chunk.index[0] + 1:,}+ of {len(chunks):,}"
        )
        found = _predictions(run, cleaned, source, batch_size, max_new_tokens, progress, what)
        yield chunk.assign(**{name: _blanked(values, empty) for name, values in found.items()})
    if numbers and note is not None:
        listed = ", ".join(f"{number:,}" for number in numbers[:5]) + (", ..." if len(numbers) > 5 else "")
        note(f"{source}: {len(numbers):,} rows without text have no prediction (row {listed})")


def clean_texts(task: Task, chunk: pd.DataFrame, source: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The texts of a chunk as the kind of task reads them, and which rows have none, where a placeholder stands.

    Raises:
        InputError: a missing column, or a cell that is no text of this kind; its row is named.
    """
    columns = kind_of(task).columns_to_predict(task.columns, list(chunk.columns))
    require_columns(chunk, columns.names(), source)
    empty = data.empty_rows(chunk, columns)
    kind = kind_of(task)

    def filled(column: pd.Series) -> pd.Series:
        """Something to read in empty rows, so that all rows keep their numbers."""
        cells = [kind.placeholder if gap else cell for cell, gap in zip(column.tolist(), empty, strict=True)]
        return pd.Series(cells, index=column.index, name=column.name, dtype=object)

    texts = pd.DataFrame({name: filled(chunk[name]) for name in columns.names()})
    return kind.clean(texts, columns, source), empty


def _predictions(
    run: Run, cleaned: pd.DataFrame, source: str, batch_size: int, longest: int, progress: bool, what: str
) -> Mapping[str, Sequence[Any]]:
    kind = kind_of(run.task)
    if isinstance(kind, GenerationKind):
        prompts = kind.encode_prompts(_with_room(run, longest), run.tokenizer, cleaned)
        return {"prediction": list(generate(run, prompts, batch_size, longest, progress, what))}
    rows = kind.encode(run.task, run.tokenizer, cleaned, source)
    check_tokens(rows, run.adapted, run.tokenizer, source)
    outputs, _ = _outputs(run, rows, batch_size, progress, what)
    return kind.predictions_of(run.task, cleaned, outputs)


def _blanked(values: Sequence[Any], empty: np.ndarray) -> Any:
    """A column of predictions, with None in rows that have no text."""
    if not empty.any():
        return list(values)
    return pd.Series(
        [None if gap else value for value, gap in zip(values, empty, strict=True)], dtype=object
    ).array


def _with_room(run: Run, max_new_tokens: int) -> Task:
    """The task with prompts so short that the model has positions left for `max_new_tokens`.

    Raises:
        InputError: it has no more positions than that.
    """
    kind, positions = kind_of(run.task), table_positions(run.adapted)
    if positions is None or not (isinstance(kind, GenerationKind) and kind.shares_positions):
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
    run: Run,
    source: str,
    *,
    batch_size: int = 32,
    progress: bool = True,
    seed: int = 0,
    encoding: str | None = None,
    delimiter: str | None = None,
    notes: list[str] | None = None,
) -> Judgement:
    """Scores, intervals and report of the labelled rows of `source`.

    Args:
        run: a loaded run.
        source: as for `predict`, with the label column.
        batch_size: rows at a time.
        progress: show a progress bar.
        seed: seed of the resamples of the intervals.
        encoding: as for `read_table`.
        delimiter: as for `read_table`.
        notes: as for `read_table`.

    Raises:
        InputError: the source cannot be read, lacks a column, or has a class that never occurs in training.
    """
    kind = kind_of(run.task)
    table = read_table(source, encoding=encoding, delimiter=delimiter, notes=notes)
    cleaned = kind.clean(table, run.task.columns, source)
    rows = kind.encode(run.task, run.tokenizer, cleaned, source)
    check_tokens(rows, run.adapted, run.tokenizer, source)
    if notes is not None:
        notes += window_notes(len(rows), len(cleaned), run.task.max_length)
    outputs, labels = _outputs(run, rows, batch_size, progress, "evaluate")
    scores = kind.scores(run.task, outputs, labels)
    if isinstance(kind, GenerationKind) and kind.judges_texts:
        prompts = kind.encode_prompts(run.task, run.tokenizer, cleaned)
        longest = max(len(row["labels"]) for row in rows)
        written = [*generate(run, prompts, batch_size, longest, progress, "write")]
        scores |= text_scores(written, cleaned[run.task.columns.label].tolist())
    return replace(judge(run.task, Outputs(outputs, labels, scores), seed), rows=len(cleaned))


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
            batch: Any = send_to_device(collate(rows[start : start + size]), device)
            yield batch
            bar.update(min(size, len(rows) - start))


def _outputs(
    run: Run, rows: list[dict[str, Any]], size: int, progress: bool, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs that the kind of task keeps, and the labels; empty labels where the rows have none."""
    kind, outputs, labels = kind_of(run.task), [], []
    for batch in _batches(run, rows, size, progress, what):
        known = batch.get("labels", torch.empty(0))
        outputs.append(kind.kept_outputs(run.model(**batch).logits, known).float().cpu().numpy())
        labels.append(known.cpu().numpy())
    return stacked(outputs), stacked(labels)


def generate(
    run: Run, rows: list[dict[str, Any]], size: int, longest: int, progress: bool, what: str = "generate"
) -> Iterator[str]:
    """Texts that answer the prompts of `encode_prompts`, at most `longest` tokens, likeliest token by token."""
    kind = kind_of(run.task)
    if not isinstance(kind, GenerationKind):
        raise InputError(f"a task of kind {run.task.kind} has no texts to write")
    positions = table_positions(run.adapted)
    if positions is not None and not kind.shares_positions:
        longest = min(longest, positions - 1)  # the decoder's first place holds the token that it starts from
    options = {"max_new_tokens": longest, "do_sample": False, "num_beams": 1}
    for batch in _batches(run, rows, size, progress, what, side=kind.padding_side):
        written = run.adapted.generate(**batch, **options, pad_token_id=run.tokenizer.pad_token_id)
        new = kind.new_tokens(written, batch)
        yield from (text.strip() for text in run.tokenizer.batch_decode(new, skip_special_tokens=True))
