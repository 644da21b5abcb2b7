"""Adapted models under torch.compile: `compiled_checks.py` runs in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import corefold
from adapters.host import compiled_checks


@pytest.fixture(scope="module")
def results():
    """For each check "" or the traceback of its failure."""
    done = subprocess.run(
        [sys.executable, compiled_checks.__file__],
        capture_output=True,
        text=True,
        # Inductor would compile a program with large headers only to see that the compiler knows the processor.
        env=os.environ | {"SOURCE": str(Path(corefold.__file__).parents[1]), "TORCHINDUCTOR_VEC_ISA_OK": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("check", compiled_checks.CHECKS)
def test_compiled(check, results):
    if check == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    if "is not installed" in results[check]:  # It names the package of a real model.
        pytest.skip(results[check].splitlines()[-1])
    assert not results[check], results[check]
