"""parquet, feather and data sets keep their types, their named index and the names of their classes."""

from __future__ import annotations

from datetime import date

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table

IDS = ["00123", "7"]


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"id": IDS, "text": ["a", "b"]})


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_types_stay(tmp_path, ending):
    columns = {
        "whole": pa.array([2**53 + 1, None]),
        "day": pa.array([date(2024, 1, 5), None]),
        "time": pa.array([1, None], pa.timestamp("us", "UTC")),
        "list": pa.array([[1, None], None]),
        "object": pa.array([{"a": 1}, None]),
        "small": pa.array([0.1, None], pa.float32()),
        "bytes": pa.array([b"\0", None]),
    }
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        from pyarrow import feather

        feather.write_feather(pa.table(columns), path)
    table = read_table(str(path))
    assert {name: table[name].dtype.pyarrow_dtype for name in columns} == {
        name: values.type for name, values in columns.items()
    }
    for name, values in columns.items():
        assert table[name].iloc[0] == values[0].as_py(), name
        assert table[name].isna().tolist() == [False, True]


def test_categories_and_periods_are_their_values(tmp_path):
    frame = pd.DataFrame(
        {"a": pd.Categorical(["x", None, "y"]), "p": pd.period_range("2024-01", periods=3, freq="M")}
    )
    table = columns_of(frame, tmp_path)
    assert table["a"][::2] == ["x", "y"]
    assert pd.isna(table["a"][1])
    assert len(set(table["p"])) == 3


def columns_of(frame: pd.DataFrame, tmp_path) -> dict[str, list]:
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(str(tmp_path / "t.parquet"))
    assert isinstance(table.index, pd.RangeIndex)
    return table.to_dict("list")


def test_a_named_index_is_a_column(frame, tmp_path):
    assert columns_of(frame.set_index("id"), tmp_path) == {"id": IDS, "text": ["a", "b"]}
    assert columns_of(frame.set_index(["id", "text"]).assign(n=[1, 2]), tmp_path) == {
        "id": IDS, "text": ["a", "b"], "n": [1, 2],
    }  # fmt: skip
    counted = frame.rename_axis("row")
    assert columns_of(counted, tmp_path) == {"row": [0, 1], "id": IDS, "text": ["a", "b"]}
    counted.index = pd.RangeIndex(10, 30, 10, name="row")
    assert columns_of(counted, tmp_path)["row"] == [10, 20]


def test_numbers_of_rows_without_a_name_are_none(frame, tmp_path):
    assert list(columns_of(frame, tmp_path)) == ["id", "text"]
    assert columns_of(frame.iloc[[1]], tmp_path) == {"id": ["7"], "text": ["b"]}


def test_words_without_a_name_are_a_column(frame, tmp_path):
    frame = frame.set_index("id").rename_axis(None)
    assert columns_of(frame, tmp_path) == {"index": IDS, "text": ["a", "b"]}


def test_a_class_of_a_data_set_has_its_name(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

    names = ClassLabel(names=["neg", "pos"])
    features = Features({"text": Value("string"), "label": names, "tags": List(names), "n": Value("int64")})
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1], "tags": [[0, 1], [], None], "n": [1, None, 3]}
    data = Dataset.from_dict(rows, features=features)
    data.save_to_disk(tmp_path / "one")
    table = read_table(str(tmp_path / "one"))
    assert table["label"].tolist()[:2] == ["pos", "neg"]
    assert table["label"].isna().tolist() == [False, False, True]
    assert table["tags"].tolist()[:2] == [["neg", "pos"], []]
    assert table["n"].iloc[0] == 1
    DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "two")
    assert read_table(f"{tmp_path / 'two'}:test")["text"].tolist() == ["b"]
    for source, says in (
        ("two", "has the splits train, test; write .*two:train"),
        ("two:validation", "has the splits train, test"),
        ("one:train", "has no splits"),
        ("", "is a folder; expected a file"),
    ):
        with pytest.raises(InputError, match=says):
            read_table(str(tmp_path / source))
