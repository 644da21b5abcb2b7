"""A digest of a table's cells, by which a later process knows the same rows again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pandas as pd

DIGESTED_CELLS = 10_000  # at a time


def table_digest(table: pd.DataFrame) -> str:
    """The SHA-256 of names and cells in their order, with their types: the text "1" is not the number 1."""
    digest = hashlib.sha256()
    for name in table.columns:
        cells = table[name]
        digest.update(json.dumps(["column", str(name), len(cells)]).encode())
        for start in range(0, len(cells), DIGESTED_CELLS):
            block = cells.iloc[start : start + DIGESTED_CELLS]
            filled = [None if gap else cell for cell, gap in zip(block.tolist(), block.isna(), strict=True)]
            digest.update(json.dumps(filled, default=_value).encode())
    return digest.hexdigest()


def _value(cell: Any) -> str | list[Any]:
    return cell.tolist() if hasattr(cell, "tolist") else f"{type(cell).__name__} {cell}"
