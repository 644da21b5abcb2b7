"""A folder that is written whole: an error while it is filled leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to fill, whose files move into `path` when the block ends.

    `path` and its parents are made if missing. Files of the same names are replaced, no others. An error in the block
    leaves `path` as it was, or missing, and nothing beside it.
    """
    target = Path(path).resolve()
    parent = target.parent
    while not parent.is_dir():
        parent = parent.parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=".corefold-") as temporary:
        new = Path(temporary, target.name)
        new.mkdir()
        yield new
        for source in sorted(new.rglob("*")):
            place = target / source.relative_to(new)
            if source.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(source, place)
