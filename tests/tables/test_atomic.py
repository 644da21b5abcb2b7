"""A file is the old one or the new one, whatever goes wrong, and nothing is left beside it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from corefold.tables.atomic import atomic_write, write_json, write_text


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as new:
        new.write_text("half")
        raise error


def test_a_new_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "page.html"
    with atomic_write(path) as new:
        assert new.name == "page.html"  # writers choose a format by the ending
        new.write_bytes(b"half")
        assert not path.exists()
        new.write_bytes(b"whole")
    assert contents(tmp_path) == {"page.html": "whole"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {"page.html": "old"}])
def test_an_error_leaves_the_folder_as_it_was(tmp_path, error, before):
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error):
        write_half(tmp_path / "page.html", error)
    assert contents(tmp_path) == before


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "page.html", "text")


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_stay(tmp_path):
    plain, fresh, kept, link = (tmp_path / name for name in ("plain", "fresh", "kept", "link"))
    plain.write_text("as any program writes it")
    write_text(fresh, "new")
    assert stat.S_IMODE(fresh.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    kept.write_text("old")
    kept.chmod(0o640)
    link.symlink_to(kept)
    write_text(link, "new")
    assert link.is_symlink()
    assert kept.read_text() == "new"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640


def test_text_keeps_its_letters_and_line_ends(tmp_path):
    write_text(tmp_path / "text", "Ünïcode\r\n\n")
    assert (tmp_path / "text").read_bytes() == "Ünïcode\r\n\n".encode()


def test_json_is_readable_by_people_and_programs(tmp_path):
    value = {"name": "Ünïcode", "scores": [1.5, None]}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "Ünïcode" in text
    assert text.endswith("}\n")
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"what JSON cannot say": {1, 2}})
    assert (tmp_path / "value.json").read_text(encoding="utf-8") == text
