"""A comparison in words and rounded numbers, the same on its page, in its table and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corefold.compare.summary import SummaryRow

DIGESTS = ("model", "train", "eval")  # settings that are stored as digests


def names_of(cell: Mapping[str, Any]) -> dict[str, str]:
    """Model, data and task of a cell by their names."""
    data = cell["data"]
    return {
        "model": _short(cell["model"]["name"]),
        "train": _short(data["train"]),
        "eval": _short(data["eval"]) if data["eval"] else "a fifth of the rows",
        "task": cell["task"],
    }


def title_of(cell: Mapping[str, Any]) -> str:
    """The comparison in one line."""
    names = names_of(cell)
    return f"{names['model']} on {names['train']}, evaluated on {names['eval']}: {names['task']}"


def settings_in_words(settings: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, with names in the place of digests."""
    given = {
        name: value
        for name, value in settings.items()
        if value is not None and name not in (*DIGESTS, "tries")
    }
    return {**names_of(cell), **given}


def score_text(row: SummaryRow) -> str:
    """Mean and spread.

    >>> score_text(SummaryRow(16, 2, "lora", 3, 0.81234, 0.0123))
    '0.812 ± 0.012'
    """
    spread = "" if row.spread is None else f" ± {row.spread:.3f}"
    return "" if row.mean is None else f"{row.mean:.3f}{spread}"


def difference_text(row: SummaryRow) -> str:
    """The difference to the baseline with its interval."""
    if row.difference is None:
        return ""
    interval = "no interval" if row.low is None else f"{row.low:+.3f} to {row.high:+.3f}"
    return f"{row.difference:+.3f} ({interval})"


def won_and_lost(row: SummaryRow) -> str:
    """Seeds won and lost against the baseline."""
    return "" if row.wins is None else f"{row.wins}:{row.losses}"


def headings(cell: Mapping[str, Any], baseline: str) -> Sequence[str]:
    """Headings of score, difference and seeds won and lost."""
    metric = cell["main"] + (", lower is better" if cell["lower_is_better"] else "")
    return metric, f"less {baseline} (95 %)", "won:lost"


def _short(source: str) -> str:
    return Path(source).name if Path(source).is_absolute() else source
