from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "complete_months.py"


@pytest.mark.filterwarnings("ignore:.*have no observed entry")
def test_months_without_an_entry_are_predicted_from_their_neighbours():
    errors = runpy.run_path(str(EXAMPLE))["main"]()
    assert errors["time"] < 0.3 * errors["column means"]
