"""The rows of many runs, for training and for judging, drawn and encoded as in `corefold compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from corefold.compare.cell import hold_out_fifth
from corefold.finetune import RunConfig
from corefold.finetune.loading import load_tokenizer
from corefold.finetune.run_data import SourceTables, class_column, draw_rows
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of
from reproduce.defaults.run import SHUFFLE_SEED
from reproduce.many.batched_training import BatchedHeads, EncodedTexts


@dataclass(frozen=True)
class RunRows:
    """The rows of many runs on one set, a run a seed.

    Attributes:
        task: the task of the set.
        texts: all rows.
        train: places of the rows for training, (runs, rows).
        judged: places of the rows for judging, (runs, rows).
        heads: at their start.
    """

    task: Task
    texts: EncodedTexts
    train: Tensor
    judged: Tensor
    heads: BatchedHeads

    def repeated(self, times: int) -> RunRows:
        """All runs, so many times one after the other."""
        train, judged = (each.repeat(times, 1) for each in (self.train, self.judged))
        return replace(self, train=train, judged=judged, heads=self.heads.repeated(times))

    def scored(self, answers: Tensor) -> list[dict[str, float]]:
        """Scores and loss of each run's answers."""
        true = self.texts.labels[self.judged]
        if self.task.kind == "regression":
            losses = (answers - true).square().mean(1)
        else:
            losses = nn.functional.cross_entropy(answers.mT, true, reduction="none").mean(1)
        return [
            {**kind_of(self.task).scores(self.task, answer.numpy(), labels.numpy()), "loss": float(loss)}
            for answer, labels, loss in zip(answers.cpu(), true.cpu(), losses.cpu(), strict=True)
        ]


def hold_back(tables: SourceTables, rows: int) -> SourceTables:
    """The training file cut in two: so many rows judge, training rows are drawn from the others."""
    shuffled = tables.train.sample(frac=1, random_state=SHUFFLE_SEED).reset_index(drop=True)
    return replace(tables, train=shuffled[rows:].reset_index(drop=True), held_out=shuffled[:rows])


def draw_many(
    config: RunConfig,
    tables: SourceTables,
    seeds: Sequence[int],
    width: int,
    device: torch.device,
    *,
    fifth: bool = False,
) -> RunRows:
    """Rows for each seed.

    Args:
        config: model, data, number of samples.
        tables: those of `config`.
        seeds: of the runs.
        width: of the encoder's embeddings.
        device: where the tensors lie.
        fifth: train on four fifths of the samples and judge by the others, as for the choice of a rate.
    """
    task, parts = tables.task, []
    for seed in seeds:
        rows, held = draw_rows(replace(config, seed=seed), tables)
        parts.append(hold_out_fifth(rows, seed, class_column(task)) if fifth else (rows, held))
    tokenizer, table = load_tokenizer(config.model), pd.concat([table for pair in parts for table in pair])
    places = torch.arange(len(table)).split([len(table) for pair in parts for table in pair])
    train, judged = torch.stack(places[::2]), torch.stack(places[1::2])
    heads = BatchedHeads()
    if task.head == "mean":
        weights, biases = zip(*(_head(width, task.outputs, seed) for seed in seeds), strict=True)
        heads = BatchedHeads(torch.stack(weights).to(device), torch.stack(biases)[:, None].to(device))
    texts = _texts(kind_of(task).encode(task, tokenizer, table, config.train)).to(device)
    return RunRows(task, texts, train.to(device), judged.to(device), heads)


def _head(width: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """The head that `EncoderModel` draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(width, outputs)
    return head.weight.detach(), head.bias.detach()


def _texts(rows: Sequence[dict[str, Any]]) -> EncodedTexts:
    parts = [name for name in ("first", "second") if name in rows[0]]
    longest = max(len(row[part]["input_ids"]) for row in rows for part in parts)
    tokens = torch.full((len(parts), len(rows), longest), -1)
    for place, row in enumerate(rows):
        for text, part in enumerate(parts):
            ids = row[part]["input_ids"]
            tokens[text, place, : len(ids)] = torch.tensor(ids)
    return EncodedTexts(tokens, torch.tensor([row["labels"] for row in rows]))
