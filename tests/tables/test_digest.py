"""Equal cells have equal digests in every process, and other cells have others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from corefold.tables.digest import table_digest

CELLS = {"text": ["a", "ü", None], "n": [1, 2.5, True], "list": [[1], {"b": 2}, None]}


def table(**changed: list) -> pd.DataFrame:
    return pd.DataFrame(
        {name: pd.Series(cells, dtype=object) for name, cells in {**CELLS, **changed}.items()}
    )


def test_the_digest_is_the_same_in_every_process_and_version():
    assert table_digest(table()) == "c4de116115ae294480e866b438933b7c9eece3c8b25568157175b7fd2dcd3d32"


def test_each_change_changes_it():
    changes = [
        {"text": ["a", "u", None]},
        {"text": ["ü", "a", None]},
        {"text": ["a", "ü", "None"]},
        {"n": ["1", 2.5, True]},
        {"n": [1, 2.5, 1]},
        {"list": [[2], {"b": 2}, None]},
        {"more": [1, 2, 3]},
    ]
    digests = [table_digest(table(**change)) for change in [{}, *changes]]
    digests += [table_digest(table().iloc[:2]), table_digest(table().rename(columns={"n": "m"}))]
    assert len(set(digests)) == len(digests)


def test_the_kind_of_gap_and_the_index_do_not_matter():
    gaps = table(text=["a", "ü", np.nan]).set_axis([7, 8, 9], axis=0)
    assert table_digest(gaps) == table_digest(table())


def test_long_columns_count_to_the_end():
    cells = [str(i) for i in range(20_001)]
    assert table_digest(pd.DataFrame({"a": cells})) != table_digest(pd.DataFrame({"a": [*cells[:-1], "x"]}))
