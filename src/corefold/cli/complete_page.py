"""From a fit to its page."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from corefold.cli.complete_data import Matrix
from corefold.cli.complete_fit import Fit
from corefold.report import write_page
from corefold.report.completion import Completed, completion_sections

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "numba")


def completed(matrix: Matrix, done: Fit, settings: dict[str, Any]) -> Completed:
    """What the page shows of a fit."""
    from corefold import __version__

    height, width = matrix.observed.shape
    about = {
        "data": matrix.source,
        "rows": height,
        "columns": width,
        "observed entries": len(matrix.observed),
        "observed share": len(matrix.observed) / (height * width),
        "rank found": done.estimator.rank_,
        "steps": done.estimator.n_iter_,
        "seconds": done.seconds,
        "stopped by Ctrl-C": done.stopped,
        "notes": [*matrix.notes, *done.notes],
    }
    return Completed(
        done.estimator.path_,
        done.estimator.singular_values_,
        done.estimator.model_.held_out_errors.cpu().numpy(),
        {} if done.held is None else done.held.residuals,
        [] if done.held is None else done.held.coverage,
        {**about, **settings},
        {"corefold": __version__, **{name: version(name) for name in LIBRARIES}},
    )


def write_report(path: Path, matrix: Matrix, done: Fit, settings: dict[str, Any]) -> Path:
    """Write the page on one completed matrix."""
    sections = completion_sections(completed(matrix, done, settings))
    return write_page(path, f"corefold: {Path(matrix.source).name} completed", sections)
