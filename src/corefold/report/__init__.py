"""Floor 2: plots of training runs, comparisons and completed matrices, and the self-contained HTML page for them."""

try:
    import jinja2 as _jinja2  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        'corefold.report needs matplotlib and jinja2; install them with: pip install "corefold[plot]"'
    ) from error

from corefold.report.class_plots import confusion_matrix
from corefold.report.page import Section, Table, write_page
from corefold.report.plots import learning_curves, numerical_ranks, score_comparison, update_spectra
from corefold.report.svg import figure_svg
from corefold.report.updates import LayerUpdate

__all__ = [
    "LayerUpdate",
    "Section",
    "Table",
    "confusion_matrix",
    "figure_svg",
    "learning_curves",
    "numerical_ranks",
    "score_comparison",
    "update_spectra",
    "write_page",
]
