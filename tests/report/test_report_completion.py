from __future__ import annotations

import io
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from corefold.completion.holdout import HoldoutErrors
from corefold.report import write_page
from corefold.report.completion import CompletionReport, completion_sections
from corefold.report.completion_plots import (
    completion_candidates,
    completion_errors,
    completion_ranks,
    completion_residuals,
    completion_spectrum,
    interval_coverage,
    picture_height,
    side_by_side,
)

STAGES = ["path"] * 4 + ["path with biases"] * 3 + ["refit"]
PATH = [
    {
        "stage": stage,
        "error": 1 / step,
        "held_out": math.nan if stage == "refit" else 2 / step,
        "rank": 9 - step,
        "units": "columns" if step == 2 else "table",
        "fold": 0,
        "relative": math.nan if stage == "refit" else 0.2 / step,
    }
    for step, stage in enumerate(STAGES, 1)
]
RESIDUALS = {
    name: np.random.default_rng(0).normal(size=200) * size for name, size in (("completed", 1), ("means", 3))
}
COVERAGE = [(0.5, 0.48, 0.7), (0.9, 0.91, 1.6)]
IMAGE = np.random.default_rng(0).random((6, 9))
PICTURES = {"before": np.where(IMAGE < 0.5, np.nan, IMAGE), "after": IMAGE}

DRAWINGS = [
    lambda ax: completion_errors(PATH, ax),
    lambda ax: completion_errors([{**PATH[0], "error": 0.0, "held_out": math.nan}], ax),
    lambda ax: completion_candidates(PATH, ax),
    lambda ax: completion_ranks(PATH, ax),
    lambda ax: completion_ranks(PATH[:1], ax),
    lambda ax: completion_spectrum(np.array([3.0, 2.0, 0.01]), ax),
    lambda ax: completion_spectrum(np.array([]), ax),
    lambda ax: completion_residuals(RESIDUALS, ax),
    lambda ax: completion_residuals({"completed": np.zeros(3)}, ax),
    lambda ax: interval_coverage(COVERAGE, ax),
    lambda ax: side_by_side(PICTURES, ax),
]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_every_plot_draws_on_the_axes_given_or_its_own(draw):
    ax = Figure(figsize=(7, 3.6), layout="constrained").subplots()
    assert draw(ax) is ax
    for drawn in (ax, draw(None)):
        FigureCanvasAgg(drawn.figure).print_png(io.BytesIO())


def test_points_are_the_records():
    ax = completion_errors(PATH)
    in_one_unit = [record["error"] if record["units"] == "table" else math.nan for record in PATH]
    np.testing.assert_array_equal(ax.lines[-2].get_ydata(), in_one_unit)
    candidates = completion_candidates(PATH)
    names = [label.get_text() for label in candidates.get_yticklabels()]
    assert names == ["path, columns", "path, table", "path with biases, table"]
    np.testing.assert_allclose(candidates.lines[-1].get_xdata(), [0.1, 0.05, 0.2 / 7])
    np.testing.assert_array_equal(ax.lines[-1].get_ydata(), [record["held_out"] for record in PATH])
    assert ax.get_xlabel() == "step (1–4 path, 5–7 path with biases, 8 refit)"
    np.testing.assert_array_equal(completion_ranks(PATH).lines[-1].get_ydata(), range(8, 0, -1))
    np.testing.assert_array_equal(
        interval_coverage(COVERAGE).lines[-1].get_xydata(), [each[:2] for each in COVERAGE]
    )


def test_all_residuals_count():
    ax = completion_residuals(RESIDUALS)
    for patch in ax.patches:
        assert patch.get_data().values.sum() == pytest.approx(1)


def test_pictures_fit_their_figure():
    assert picture_height(PICTURES, 7.0) == pytest.approx(7 / 2.05 * 6 / 9 + 0.3)


def test_nothing_to_draw_is_refused():
    for draw, empty in (
        (completion_errors, []), (completion_ranks, []), (completion_residuals, {}), (interval_coverage, []), (side_by_side, {}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"no |one shape"):
            draw(empty)


def test_a_page_says_what_was_not_measured(tmp_path):
    misses = np.sort(np.abs(RESIDUALS["completed"]))
    bare = CompletionReport(PATH, np.array([2.0, 1.0]), misses)
    page = write_page(tmp_path / "bare.html", "Bare", completion_sections(bare)).read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "Not measured" in page
    errors = HoldoutErrors(RESIDUALS, COVERAGE)
    full = CompletionReport(PATH, np.array([2.0, 1.0]), misses, errors, {"a": 1}, {"b": "2"}, PICTURES)
    page = write_page(tmp_path / "full.html", "Full", completion_sections(full, "here")).read_text(
        encoding="utf-8"
    )
    assert page.count("<svg") == 7
    assert "Settings: here" in page
