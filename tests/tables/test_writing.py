"""A written table is read back, and no file is lost to an output of the same name."""

from __future__ import annotations

import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table
from corefold.tables.table_writer import TableWriter
from corefold.tables.writing import TABLE_SUFFIXES, check_file, check_folder, write_table


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_a_table_is_read_back(tmp_path, suffix):
    table = pd.DataFrame({"text": ["a,b", 'c "d"'], "score": [0.1, 2.0]})
    write_table(table, tmp_path / f"t{suffix}")
    again = read_table(str(tmp_path / f"t{suffix}"))
    assert again["text"].tolist() == table["text"].tolist()
    typed = suffix.startswith((".json", ".parquet", ".xlsx"))
    assert again["score"].tolist() == ([0.1, 2.0] if typed else ["0.1", "2.0"])


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_a_failed_write_keeps_the_old_file(tmp_path, suffix, monkeypatch):
    def fail(self, table):
        self._file.append(table)
        raise OSError("no space left")

    monkeypatch.setattr(TableWriter, "write", fail)
    path = tmp_path / f"t{suffix}"
    path.write_text("old")
    with pytest.raises(OSError, match="no space left"):
        write_table(pd.DataFrame({"a": [1]}), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_not_lost(tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("all my work")
    check_file(mine, True, TABLE_SUFFIXES)
    check_file(tmp_path / "new.CSV", False, TABLE_SUFFIXES)
    (tmp_path / "folder.csv").mkdir()
    for path, says in (
        (mine, "mine.csv exists; choose another name or add --force"),
        (tmp_path / "new.txt", "new.txt: expected a name ending in one of .csv"),
        (tmp_path / "folder.csv", "folder.csv is a folder"),
        (tmp_path / "no" / "new.csv", "no: no such folder"),
    ):
        with pytest.raises(InputError, match=says):
            check_file(path, False, TABLE_SUFFIXES, "--force")


def test_a_folder_is_not_lost(tmp_path):
    check_folder(tmp_path / "new", False)
    check_folder(tmp_path, False)
    (tmp_path / "thesis.txt").write_text("all my work")
    check_folder(tmp_path, True)
    with pytest.raises(InputError, match="is not empty; choose another -o or add --overwrite"):
        check_folder(tmp_path, False)
    with pytest.raises(InputError, match="is a file"):
        check_folder(tmp_path / "thesis.txt", True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
