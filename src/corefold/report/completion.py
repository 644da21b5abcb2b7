"""Matrix completion in a report: the sections that show one completed matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from corefold.report.completion_plots import (
    HISTOGRAM_PERCENTILE,
    Picture,
    completion_candidates,
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

if TYPE_CHECKING:
    from corefold.completion.holdout import HoldoutErrors, MeasuredFit
    from corefold.completion.observed import Observed

LIBRARIES = ("corefold", "torch", "numpy", "scipy", "scikit-learn", "numba")
HOW_TO_HOLD_OUT = "--holdout 0.1 holds out a tenth."


@dataclass(frozen=True)
class CompletionReport:
    """The content of a page on one completed matrix.

    Attributes:
        path: a dictionary for each step, as `DeepMatrixCompletion.path_` has them.
        singular_values: of the low-rank part, largest first.
        validation_errors: absolute errors at the entries that the fit held out to choose by.
        holdout: errors at entries held out of everything; None without such entries.
        settings: of the fit and its data.
        versions: of the libraries.
        pictures: matrices before and after, by name; none by default.
        caption: a sentence on what the pictures show of the matrices.
    """

    path: Sequence[Mapping[str, Any]]
    singular_values: Float[np.ndarray, " rank"]
    validation_errors: Float[np.ndarray, " chosen"]
    holdout: HoldoutErrors | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, object] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    caption: str = ""


def completion_report(
    fit: MeasuredFit,
    observed: Observed,
    source: str,
    settings: Mapping[str, object],
    notes: Sequence[str] = (),
    pictures: Mapping[str, Picture] | None = None,
    caption: str = "",
) -> CompletionReport:
    """The content of the page on a fit.

    Args:
        fit: the fit.
        observed: the entries of the matrix.
        source: their origin.
        settings: of the fit.
        notes: warnings of reading the matrix; those of the fit follow them.
        pictures: as in `CompletionReport`.
        caption: as in `CompletionReport`.
    """
    height, width = observed.shape
    about = {
        "data": source,
        "rows": height,
        "columns": width,
        "observed entries": len(observed),
        "observed share": len(observed) / (height * width),
        "rank found": fit.estimator.rank_,
        "steps": fit.estimator.n_iter_,
        "seconds": fit.seconds,
        "stopped by Ctrl-C": fit.interrupted,
        "notes": [*notes, *fit.notes],
    }
    return CompletionReport(
        fit.estimator.path_,
        fit.estimator.singular_values_,
        fit.estimator.model_.calibration.errors.cpu().numpy(),
        fit.errors,
        {**about, **settings},
        {name: version(name) for name in LIBRARIES},
        pictures or {},
        caption,
    )


def _candidate_section(path: Sequence[Mapping[str, Any]]) -> list[Section]:
    names = {(record["stage"], record["units"]) for record in path if math.isfinite(record["relative"])}
    if len(names) < 2:
        return []
    height = 1.2 + 0.2 * len(names)
    caption = (
        "Each at its best step, on the first entries held out, over the deviation of their columns or of all "
        "entries (--error). The best of them are compared again on more entries and blended if that helps."
    )
    drawing = figure_svg(partial(completion_candidates, path), height=height)
    return [Section("Candidates", figure_svg=drawing, caption=caption)]


def completion_sections(matrix: CompletionReport, label: str = "") -> list[Section]:
    """The parts of a page on one completed matrix.

    Args:
        matrix: the content.
        label: put behind each heading, where a page shows several matrices.
    """
    suffix = f": {label}" if label else ""
    sections = []
    if matrix.pictures:
        height = picture_height(matrix.pictures, 7.0)
        sections.append(
            Section(
                "Before and after",
                figure_svg=figure_svg(partial(side_by_side, matrix.pictures), height=height),
                caption=f"Removed entries are clear in the first picture. {matrix.caption}".strip(),
            )
        )
    spectrum = partial(completion_spectrum, matrix.singular_values)
    sections += [
        _error_section(matrix.holdout),
        *_candidate_section(matrix.path),
        Section("Error along the path", figure_svg=figure_svg(partial(completion_errors, matrix.path)),
                caption="In units of the data; the fitted entries' where a candidate has no others."),
        Section("Rank", figure_svg=figure_svg(partial(completion_ranks, matrix.path), height=2.6)),
        Section("Singular values", figure_svg=figure_svg(spectrum, height=2.8)),
        _residual_section(matrix),
        _coverage_section(matrix),
        Section("Settings", settings=matrix.settings),
        Section("Versions", settings=matrix.versions),
    ]  # fmt: skip
    return [
        Section(each.heading + suffix, each.text, each.table, each.figure_svg, each.settings, each.caption)
        for each in sections
        if each.settings != {}
    ]


def _error_section(holdout: HoldoutErrors | None) -> Section:
    if holdout is None:
        return Section(
            "Error", f"No entry was held out of everything, so no error is measured: {HOW_TO_HOLD_OUT}"
        )
    rows = [[name, *pair] for name, pair in holdout.scores().items()]
    text = f"At {len(holdout):,} entries that took no part in the fit, nor in any choice that it made."
    return Section("Error", text, Table(["", "root mean square", "mean absolute"], rows))


def _residual_section(matrix: CompletionReport) -> Section:
    bars = f"The outer bars hold all beyond the {HISTOGRAM_PERCENTILE:g}th percentile of absolute residuals."
    if matrix.holdout is not None:
        drawn = figure_svg(partial(completion_residuals, matrix.holdout.residuals))
        return Section(
            "Residuals", figure_svg=drawn, caption=f"At the entries held out of everything. {bars}"
        )
    errors = matrix.validation_errors
    if not len(errors):
        return Section("Residuals", "No entry was held out.")
    drawn = figure_svg(partial(completion_residuals, {"completed": errors}, quantity="absolute error"))
    where = f"At {len(errors):,} entries held out to choose by; the choice makes them look a little too good."
    return Section("Residuals", figure_svg=drawn, caption=f"{where} {bars}")


def _coverage_section(matrix: CompletionReport) -> Section:
    heading = "Interval coverage"
    if matrix.holdout is None:
        return Section(
            heading, f"Not measured, because no entry was held out of everything: {HOW_TO_HOLD_OUT}"
        )
    coverage = matrix.holdout.coverage
    if not coverage:
        return Section(heading, "No intervals: too few entries were held out to choose by.")
    table = Table(["nominal", "measured", "half width"], [list(each) for each in coverage])
    caption = (
        f"The width of an interval follows from the errors at {len(matrix.validation_errors):,} entries held out to "
        "choose by."
    )
    drawn = figure_svg(partial(interval_coverage, coverage), width=7.0, height=3.4)
    return Section(heading, "", table, drawn, caption=caption)
