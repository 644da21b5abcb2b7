"""The report of `initialize_bases`."""

from __future__ import annotations

import pytest

from adapters.deep_lora.chosen_gradients import PREFIX, spread, with_gradients


def test_the_report_is_a_table():
    report = spread(with_gradients({"a": [1.0], "b": [4.0, 2.0], "c": [2.0]}), 8)
    assert report.energies[PREFIX + "b"] == pytest.approx(20 / 25)
    assert sum(report.energies.values()) == pytest.approx(1)
    lines = [line.split() for line in str(report).splitlines()]
    assert lines == [
        ["rank", "energy", "layer"],
        ["4", "80.0%", f"{PREFIX}b"],
        ["2", "16.0%", f"{PREFIX}c"],
        ["2", "4.0%", f"{PREFIX}a"],
    ]
