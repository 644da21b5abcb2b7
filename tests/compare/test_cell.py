"""How a cell chooses among tries, and which rows its tries may see."""

from __future__ import annotations

import pandas as pd
import pytest

from corefold.compare.cell import best_try, hold_out_fifth
from corefold.finetune import InputError


def test_a_try_that_diverges_is_told_and_not_chosen():
    tries = [{"error": "the loss is nan"}, {"accuracy": 0.5, "loss": 0.9}, {"accuracy": 0.5, "loss": 0.7}]
    assert best_try(tries, "accuracy") == 2
    assert (
        best_try([{"perplexity": 9.0, "loss": 1.0}, {"perplexity": 3.0, "loss": 2.0}], "perplexity", True)
        == 1
    )
    with pytest.raises(InputError, match="none of 1 tries has a score: the loss is nan"):
        best_try(tries[:1], "accuracy")


def test_the_held_out_fifth_keeps_the_classes_in_proportion():
    table = pd.DataFrame({"text": list(map(str, range(50))), "label": ["a"] * 30 + ["b"] * 20})
    fitted, held = hold_out_fifth(table, 3, "label")
    assert sorted([*fitted["text"], *held["text"]], key=int) == table["text"].tolist()
    assert held["label"].value_counts().to_dict() == {"a": 6, "b": 4}
    assert list(fitted.columns) == ["text", "label"]
    assert not hold_out_fifth(table, 4, "label")[1].equals(held)
