"""A folder is whole or was never there."""

from __future__ import annotations

from pathlib import Path

import pytest

from corefold.tables.whole_folder import whole_folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def fill(folder: Path, error: type[BaseException] | None = None) -> None:
    with whole_folder(folder) as new:
        (new / "inner").mkdir()
        (new / "inner/a.txt").write_text("new")
        assert "new" not in contents(folder).values()
        if error is not None:
            raise error


def test_the_files_appear_when_the_block_ends(tmp_path):
    fill(tmp_path / "one/two")
    assert contents(tmp_path) == {"one/two/inner/a.txt": "new"}


def test_files_of_other_names_stay(tmp_path):
    (tmp_path / "out/inner").mkdir(parents=True)
    (tmp_path / "out/inner/a.txt").write_text("old")
    (tmp_path / "out/mine.txt").write_text("mine")
    fill(tmp_path / "out")
    assert contents(tmp_path) == {"out/inner/a.txt": "new", "out/mine.txt": "mine"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error):
        fill(tmp_path / "one/two", error)
    assert not [*tmp_path.iterdir()]
