"""A report as one HTML page that loads nothing: no script, no font, no style sheet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from corefold.report.formatting import Value, as_text, column_as_text, is_number
from corefold.tables.atomic import write_text


@dataclass(frozen=True)
class Table:
    """A table of text and numbers. A column whose every cell is a number, or starts like one, aligns right.

    Attributes:
        header: names of the columns.
        rows: as many values in each as the header has names. Text is shown as it stands, a whole number with
            separators of thousands, any other number with four significant digits, None and NaN as a dash.

    Raises:
        ValueError: no columns, or a row of another length.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Value]]

    def __post_init__(self) -> None:
        if not self.header:
            raise ValueError("a table needs at least one column; got an empty header")
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"each row needs {len(self.header)} values, one for each of {list(self.header)}; got {list(row)}"
                )


@dataclass(frozen=True)
class Section:
    """One part of a report. Its contents appear in the order of the attributes.

    Attributes:
        heading: the section's title.
        text: plain text, a blank line between paragraphs.
        settings: names and values, shown as a list of pairs.
        table: a table.
        figure_svg: the result of the function `figure_svg`. All other arguments are text, never markup.
        caption: stands below the figure, and describes it to screen readers, which read the heading if it is empty.

    Raises:
        ValueError: figure_svg is not an SVG element, or holds scripts or links to the outside.
    """

    heading: str
    text: str = ""
    table: Table | None = None
    figure_svg: str | None = None
    settings: Mapping[str, object] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        if self.figure_svg is not None:
            _check_svg(self.figure_svg, self.heading)


def write_page(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> Path:
    """Write the report and return its path; equal arguments give equal bytes.

    The page appears at `path` whole or not at all. Missing folders are made. All text is escaped, and the
    page's content security policy forbids scripts and everything from outside.

    Args:
        path: the file to write, such as "report.html"; an existing file is replaced.
        title: the page's title.
        sections: the page's parts, in this order.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    template = files("corefold.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        markup=Markup, paragraphs=_paragraphs, numeric=_numeric, rows=_rows, text=as_text
    )
    page = environment.from_string(template).render(title=title, sections=sections)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _columns(table: Table) -> list[list[Value]]:
    return [[row[column] for row in table.rows] for column in range(len(table.header))]


def _numeric(table: Table) -> list[bool]:
    return [bool(column) and all(map(is_number, column)) for column in _columns(table)]


def _rows(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*map(column_as_text, _columns(table)), strict=True))


def _check_svg(markup: str, heading: str) -> None:
    try:
        root = ElementTree.fromstring(markup)
    except ElementTree.ParseError as error:
        raise ValueError(f"figure_svg of section {heading!r} is not well-formed SVG: {error}") from error
    if root.tag.rpartition("}")[2] != "svg":
        raise ValueError(f"figure_svg of section {heading!r} must be one <svg> element; got <{root.tag}>")
    for element in root.iter():
        name = element.tag.rpartition("}")[2].lower()
        links = [value for key, value in element.attrib.items() if key.endswith("href")]
        events = [key for key in element.attrib if key.lower().startswith("on")]
        if name in ("script", "foreignobject") or events:
            raise ValueError(f"figure_svg of section {heading!r} holds active content: <{name}> {events}")
        if not all(link.startswith(("#", "data:image/")) for link in links):
            raise ValueError(
                f"figure_svg of section {heading!r} refers to something outside the page: {links}"
            )
