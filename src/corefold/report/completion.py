"""Matrix completion in a report: the sections that show one completed matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from corefold.report.completion_plots import (
    WIDEST,
    Picture,
    completion_errors,
    completion_ranks,
    completion_residuals,
    completion_spectrum,
    interval_coverage,
    picture_height,
    side_by_side,
)
from corefold.report.page import Section, Table
from corefold.report.svg import figure_svg


@dataclass(frozen=True)
class Completed:
    """What a page shows of one completed matrix.

    Attributes:
        path: a dictionary for each step, as `DeepMatrixCompletion.path_` has them.
        singular_values: of the low-rank part, largest first.
        misses: absolute errors at the entries held out to choose by.
        residuals: observed less predicted at entries held out of everything, by method; empty without such entries.
        coverage: nominal and measured coverage at these, and half the width, of some intervals.
        settings: of the fit and its data.
        versions: of the libraries.
        pictures: matrices before and after, by what they are; empty for none.
        pictured: what the pictures show of the matrices, a sentence.
    """

    path: Sequence[Mapping[str, Any]]
    singular_values: Float[np.ndarray, " rank"]
    misses: Float[np.ndarray, " chosen"]
    residuals: Mapping[str, Float[np.ndarray, " held"]] = field(default_factory=dict)
    coverage: Sequence[tuple[float, float, float]] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, object] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    pictured: str = ""


def completion_sections(done: Completed, label: str = "") -> list[Section]:
    """The parts of a page on one completed matrix.

    Args:
        done: what there is to show.
        label: put behind each heading, where a page shows several matrices.
    """
    suffix = f": {label}" if label else ""
    sections = []
    if done.pictures:
        height = picture_height(done.pictures, 7.0)
        sections.append(
            Section(
                "Before and after",
                figure_svg=figure_svg(partial(side_by_side, done.pictures), height=height),
                caption=f"Removed entries are clear in the first picture. {done.pictured}".strip(),
            )
        )
    spectrum = partial(completion_spectrum, done.singular_values)
    sections += [
        _error_section(done),
        Section("Error along the path", figure_svg=figure_svg(partial(completion_errors, done.path)),
                caption="In units of the data. The best step at the entries held out is refitted on all."),
        Section("Rank", figure_svg=figure_svg(partial(completion_ranks, done.path), height=2.6)),
        Section("Singular values", figure_svg=figure_svg(spectrum, height=2.8)),
        _residual_section(done),
        _coverage_section(done),
        Section("Settings", settings=done.settings),
        Section("Versions", settings=done.versions),
    ]  # fmt: skip
    return [
        Section(each.heading + suffix, each.text, each.table, each.figure_svg, each.settings, each.caption)
        for each in sections
        if each.settings != {}
    ]


def _error_section(done: Completed) -> Section:
    if not done.residuals:
        text = (
            "No entry was held out of everything, so no error is measured: --holdout 0.1 holds out a tenth."
        )
        return Section("Error", text)
    rows = [
        [name, float(np.sqrt(np.square(each).mean())), float(np.abs(each).mean())]
        for name, each in done.residuals.items()
    ]
    count = len(next(iter(done.residuals.values())))
    text = f"At {count:,} entries that took no part in the fit, nor in choosing anything in it."
    return Section("Error", text, Table(["", "root mean square", "mean absolute"], rows))


def _residual_section(done: Completed) -> Section:
    ends = f"The outer bars hold what lies beyond the {WIDEST:g}th percentile of absolute residuals."
    if done.residuals:
        drawn = figure_svg(partial(completion_residuals, done.residuals))
        return Section(
            "Residuals", figure_svg=drawn, caption=f"At the entries held out of everything. {ends}"
        )
    if not len(done.misses):
        return Section("Residuals", "No entry was held out.")
    drawn = figure_svg(partial(completion_residuals, {"completed": done.misses}, of="absolute error"))
    said = f"At {len(done.misses):,} entries held out to choose by, which makes them look a little too good."
    return Section("Residuals", figure_svg=drawn, caption=f"{said} {ends}")


def _coverage_section(done: Completed) -> Section:
    heading = "Interval coverage"
    if not done.residuals:
        return Section(
            heading, "Not measured, for no entry was held out of everything: --holdout 0.1 holds out a tenth."
        )
    if not done.coverage:
        return Section(heading, "No intervals: too few entries were held out to choose by.")
    table = Table(["nominal", "measured", "half width"], [list(each) for each in done.coverage])
    said = f"Intervals are as wide as the errors at {len(done.misses):,} entries held out to choose by say."
    drawn = figure_svg(partial(interval_coverage, done.coverage), width=7.0, height=3.4)
    return Section(heading, "", table, drawn, caption=said)
