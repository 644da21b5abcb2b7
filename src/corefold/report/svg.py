"""A plot as an inline SVG string that takes its ink colour from the page around it."""

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

INK = "#1b1f24"  # drawn in this colour, written as currentColor: light and dark pages both stay readable
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "corefold",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine lays out alike
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

    Text, axes and whatever else is drawn in the default ink become `currentColor`; the background is clear.
    The element's ids start with a digest of its content, so different figures share a page without clashes.

    Args:
        draw: puts the picture on the Axes that it is given.
        width: in inches.
        height: in inches.

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
    """Without the style element, whose selector `*` would reach the whole page; its rules move to the root."""
    markup = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", markup, count=1, flags=re.DOTALL)
    return markup.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)


def _name_ids(markup: str) -> str:
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', markup))
    prefix = "c" + hashlib.sha256(markup.encode()).hexdigest()[:8] + "-"
    markup = re.sub(
        r'(<[^<>]*?) id="([^"]+)"',
        lambda found: found[1] + (f' id="{prefix}{found[2]}"' if found[2] in used else ""),
        markup,
    )
    return re.sub(r'(url\(|href=")#', rf"\1#{prefix}", markup)
