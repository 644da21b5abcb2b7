from __future__ import annotations

import gc
import sys

import pytest


@pytest.fixture
def run(monkeypatch):
    """Runs a benchmark's `main` with these arguments."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        gc.freeze()  # benchmarks collect garbage often, which takes long over everything that pytest has imported
        try:
            module.main()
        finally:
            gc.unfreeze()

    return run
