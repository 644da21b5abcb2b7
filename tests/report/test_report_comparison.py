"""The picture of methods over numbers of rows or ranks draws the points that it is given."""

from __future__ import annotations

import numpy as np
import pytest

from corefold.report import figure_svg
from corefold.report.comparison_plots import Point, score_lines


def test_each_method_is_a_line_through_its_points_with_bars_of_one_spread():
    lines = {
        "lora": [Point(64, 0.8, 0.02), Point(16, 0.6, 0.1)],
        "head": [Point(16, 0.5), Point(64, 0.55, 0.01)],
    }
    ax = score_lines(lines, metric="accuracy")
    drawn = {bar.get_label(): bar for bar in ax.containers}
    line, _, (bars,) = drawn["lora"]
    assert line.get_ydata().tolist() == [0.6, 0.8]  # in the order of x
    assert np.allclose(line.get_xdata(), [16, 64], rtol=0.05)
    assert np.allclose(np.ptp([each[:, 1] for each in bars.get_segments()], axis=1), [0.2, 0.04])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["16", "64"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["lora", "head"]
    assert figure_svg(lambda axes: score_lines(lines, axes)).count("<svg") == 1


def test_a_method_looks_alike_beside_others_and_ten_differ():
    points = [Point(8, 0.5), Point(16, 0.6)]
    whole = score_lines({f"m{i}": points for i in range(10)})
    part = score_lines({f"m{i}": points if i in (3, 7) else [] for i in range(10)})

    def looks(ax):
        return {bar.get_label(): (bar[0].get_color(), bar[0].get_linestyle()) for bar in ax.containers}

    assert len(set(looks(whole).values())) == 10
    assert looks(part) == {name: look for name, look in looks(whole).items() if name in ("m3", "m7")}


def test_nothing_to_draw_and_what_is_not_finite_are_refused():
    for lines in ({}, {"lora": []}, {"lora": [Point(8, float("nan"))]}):
        with pytest.raises(ValueError, match="finite scores"):
            score_lines(lines)
