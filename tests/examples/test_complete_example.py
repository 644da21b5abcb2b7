from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "complete.py"


def test_complete_example():
    accuracy = runpy.run_path(str(EXAMPLE))["main"](rows=600)
    assert accuracy["completed"] > accuracy["column means"] + 0.02
