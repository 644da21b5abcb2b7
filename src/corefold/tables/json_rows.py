"""JSON: an object a line, or an array of objects; every value stays as it is typed.

Columns are of dtype object. A value `null` is None there, and NaN stands where an object lacks the key, so that what
is written again has the same keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, TextIO

import pandas as pd

from corefold.errors import InputError

ABSENT = float("nan")


def json_tables(
    file: TextIO, source: str, rows: int, *, one_row_a_line: bool = False
) -> Iterator[pd.DataFrame]:
    """The table in blocks of at most `rows` rows, each with the columns that occur in it.

    Args:
        file: the text.
        source: its name, for messages.
        rows: the most rows of a block.
        one_row_a_line: whether the name of the file says so; a single object may hold lists then, as a row may.

    Raises:
        InputError: not JSON, or not made of objects; the line or row is named.
    """
    records = _records(file, source)
    first = True
    while (block := list(islice(records, rows))) or first:
        if first and len(block) == 1:
            _require_row(block[0], source, may_hold_lists=one_row_a_line)
        first = False
        yield table_of(block)


def table_of(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The table of some objects, their keys in the order of appearance."""
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: pd.Series([each.get(name, ABSENT) for each in records], dtype=object) for name in names}
    return pd.DataFrame(columns, columns=pd.Index(list(names), dtype=object))


def _require_row(record: dict[str, Any], source: str, may_hold_lists: bool) -> None:
    """Refuse whole columns in one object, as pandas' `to_json` writes them."""
    values = list(record.values())
    lists = len(values) > 1 and all(isinstance(each, list) and len(each) > 1 for each in values)
    if values and ((lists and not may_hold_lists) or all(isinstance(each, dict) for each in values)):
        raise InputError(
            f"{source} holds one object with a column under each key; expected an object for each row, which "
            'pandas writes by to_json(..., orient="records")'
        )


def _records(file: TextIO, source: str) -> Iterator[dict[str, Any]]:
    begun: list[str] = []  # A compressed file may not be read twice.
    for line in file:
        begun.append(line)
        if line.strip():
            break
    else:
        raise InputError(f"{source} is empty; expected objects of JSON")
    if begun[-1].lstrip().startswith("["):
        values = _parsed("".join(begun) + file.read(), source)
        yield from (_object(value, f"{source}, row {number}") for number, value in enumerate(values, 1))
    elif _is_whole(begun[-1]):
        yield from _of_lines(chain(begun, file), source)
    else:  # One object over several lines, or a first line that is broken.
        yield from _of_object("".join(begun) + file.read(), source)


def _is_whole(line: str) -> bool:
    try:
        _load(line)
    except (ValueError, RecursionError):
        return False
    return True


def _load(text: str) -> Any:
    return json.loads(text, parse_constant=_constant, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; the json module would keep only the last value of a key that stands twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in an object"
        )
    return made


def _constant(word: str) -> float | None:
    """NaN means a gap; JSON itself has none of these words."""
    return None if word == "NaN" else float(word)


def _parsed(text: str, source: str) -> Any:
    try:
        return _load(text)
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{source}{where} {_fault(error)}") from error


def _fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg}"
    return f"cannot be read: {error}"


def _of_lines(lines: Iterable[str], source: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = _load(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}, line {number} {_fault(error)}") from error
        yield _object(value, f"{source}, line {number}")


def _of_object(text: str, source: str) -> Iterator[dict[str, Any]]:
    try:
        value = _load(text)
    except (ValueError, RecursionError):
        yield from _of_lines(text.splitlines(), source)  # It names the broken line.
        return
    yield _object(value, source)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(
            type(value), "a number"
        )
        raise InputError(f'{where}: expected an object as {{"text": "..."}}; got {kind}')
    return value
