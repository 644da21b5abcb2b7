"""Names of columns as a header has them, and as a table can be asked for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from corefold.errors import InputError

WRITTEN = (
    "header"  # The key of `DataFrame.attrs` under which names that were changed stand as they were written.
)
UNNAMED = "Unnamed: {}"  # pandas' name for a column without one


def column_names(cells: Sequence[str], source: str) -> list[str]:
    """A name for each column: without the blanks around it, and `Unnamed: 0` for the first where it has none.

    Raises:
        InputError: two columns have the same name.
    """
    if "\0" in "".join(cells):
        raise InputError(f"{source}: the header holds zero bytes; if it is UTF-16, add --encoding utf-16-le")
    named = [cell.strip() or UNNAMED.format(place) for place, cell in enumerate(cells)]
    if len(set(named)) < len(named):  # Blanks may be all that tells two names apart.
        named = [cell if cell.strip() else name for cell, name in zip(cells, named, strict=True)]
    require_unique(named, source)
    return named


def require_unique(names: Sequence[str], source: str) -> None:
    """Raise InputError for a name that two columns have."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{source} has two columns with the name {twice[0]!r}; rename one")


def with_written_names(table: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    """The same table, which remembers the names that its file has in other words."""
    changed = {name: cell for name, cell in zip(table.columns, cells, strict=True) if name != cell}
    if changed:
        table.attrs[WRITTEN] = changed
    return table


def written_names(table: pd.DataFrame) -> list[str]:
    """The names of the columns as the file of the table has them."""
    changed = table.attrs.get(WRITTEN, {})
    return [changed.get(name, str(name)) for name in table.columns]
