"""Chunks are the table, and need memory for one of them only."""

from __future__ import annotations

from textwrap import dedent

import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables.chunks import read_chunks
from corefold.tables.reading import read_table
from corefold.tables.table_writer import TableWriter
from corefold.tables.writing import write_table
from models import fresh_python

SUFFIXES = [".csv", ".tsv", ".jsonl", ".parquet", ".json", ".feather", ".csv.gz", ".jsonl.zst"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_chunks_are_the_table(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    table = pd.DataFrame({"text": [f"text {i}" for i in range(25)], "label": ["a", "b", "01", "1", "é"] * 5})
    if suffix == ".feather":
        table.to_feather(path)
    else:
        write_table(table, path)
    chunks = read_chunks(str(path), 10)
    assert (chunks.columns, chunks.rows, len(chunks)) == (["text", "label"], 25, 25)
    for _ in range(2):  # as often as one likes
        parts = list(chunks)
        assert [len(part) for part in parts] == [10, 10, 5]
        pd.testing.assert_frame_equal(pd.concat(parts), read_table(str(path)))
        assert [part.index[0] for part in parts] == [0, 10, 20]


def test_a_key_that_occurs_late_is_a_column_of_each_chunk_and_of_no_row_before(tmp_path):
    path, copy = tmp_path / "t.jsonl", tmp_path / "copy.jsonl"
    lines = ['{"a": 1}', '{"a": null}', '{"a": 1.0, "b": "x"}', '{"b": null}']
    path.write_text("\n".join(lines) + "\n")
    chunks = read_chunks(str(path), 2)
    with TableWriter(copy) as writer:
        for chunk in chunks:
            assert list(chunk.columns) == ["a", "b"]
            writer.write(chunk)
    assert copy.read_text() == path.read_text()


def test_names_are_written_as_they_were(tmp_path):
    path, copy = tmp_path / "t.csv", tmp_path / "copy.csv"
    path.write_text(",text, label\n0,a, x\n1,b,y \n2,c,z\n")
    chunks = read_chunks(str(path), 2)
    assert chunks.columns == ["Unnamed: 0", "text", "label"]
    with TableWriter(copy) as writer:
        for chunk in chunks:
            writer.write(chunk.assign(prediction="p"))
    assert copy.read_text() == ",text, label,prediction\n0,a, x,p\n1,b,y ,p\n2,c,z,p\n"


def test_a_fault_in_the_last_row_is_found_before_the_first_is_used(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 30 + "3\n")
    with pytest.raises(InputError, match="line 32: fewer cells"):
        read_chunks(str(path), 10)
    with pytest.raises(InputError, match="no such file"):
        read_chunks(str(tmp_path / "no.csv"))


def test_a_large_table_is_copied_in_the_memory_of_a_chunk(tmp_path):
    path, copy = tmp_path / "t.csv", tmp_path / "copy.csv"
    rows, letters = 100_000, 400
    with path.open("w") as file:
        file.write("id,text\n")
        file.writelines(f"{i:08d},{'x' * letters}\n" for i in range(rows))
    code = """
    import resource, sys
    from pathlib import Path
    from corefold.tables.chunks import read_chunks
    from corefold.tables.table_writer import TableWriter

    def copy(source, rows):
        with TableWriter(Path(sys.argv[2])) as writer:
            for chunk in read_chunks(source, rows):
                writer.write(chunk.assign(prediction="pos"))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    Path("small.csv").write_text("id,text\\n1,x\\n")
    print(-copy("small.csv", 1), copy(sys.argv[1], 2000))
    """
    before, after = map(
        int, fresh_python(f"import os; os.chdir({str(tmp_path)!r})\n" + dedent(code), path, copy).split()
    )
    assert (after + before) * 1024 < 0.5 * rows * letters  # Read at once they take three times their letters.
    with copy.open() as file:
        lines = list(file)
    assert len(lines) == rows + 1
    assert lines[8] == f"00000007,{'x' * letters},pos\n"
