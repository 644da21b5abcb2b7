"""A plot as an inline SVG string, drawn in the text colour of the page around it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#1b1f24"  # replaced by currentColor, so that the plot is readable on light and dark pages
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be searched, copied and read aloud
    "svg.hashsalt": "corefold",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the layout is the same on every machine
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8.5,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def figure_svg(draw: Callable[[Axes], object], *, width: float = 7.0, height: float = 3.6) -> str:
    """Draw on a fresh figure and return it as one `<svg>` element, the same string for the same drawing.

    Everything drawn in the default ink, text and axes included, becomes `currentColor`; the background is clear. The
    element's ids start with a digest of its content, so that ids of several figures on one page do not clash.

    Args:
        draw: draws on the Axes passed to it.
        width: inches.
        height: inches.

    Raises:
        ValueError: width or height not positive.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"a figure's width and height in inches must be positive; got {width} x {height}")
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        FigureCanvasSVG(figure).print_svg(out, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    markup = out.getvalue()
    markup = markup[markup.index("<svg") :].strip().replace(INK, "currentColor")
    return _name_ids(_unstyled(markup))


def _unstyled(markup: str) -> str:
    """Move the rules of the style element to the root, since its selector `*` would reach the whole page."""
    markup = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", markup, count=1, flags=re.DOTALL)
    return markup.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)


def _name_ids(markup: str) -> str:
    """Put a digest before the ids that are referred to, and drop the others."""
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', markup))
    prefix = "c" + hashlib.sha256(markup.encode()).hexdigest()[:8] + "-"
    markup = re.sub(
        r'(<[^<>]*?) id="([^"]+)"',
        lambda match: match[1] + (f' id="{prefix}{match[2]}"' if match[2] in used else ""),
        markup,
    )
    return re.sub(r'(url\(|href=")#', rf"\1#{prefix}", markup)
