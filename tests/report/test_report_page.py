from __future__ import annotations

import re
import stat
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from simulated import history, layer_names, still, updates

from corefold.report import (
    Section,
    Table,
    figure_svg,
    learning_curves,
    numerical_ranks,
    score_comparison,
    update_spectra,
    write_page,
)

EVIL = "</script><script>alert(\"1\")</script><img src=x onerror=alert(2)> & 'quoted' {{ 7 * 7 }}"
UPDATES = [still("layer.0.query"), *updates(layer_names(2))]


def _spectra(ax: Axes) -> Axes:
    return update_spectra(UPDATES, ax)


DRAWINGS = [
    _spectra,
    lambda ax: numerical_ranks(UPDATES, ax),
    lambda ax: learning_curves(history(), ax),
    lambda ax: score_comparison({"Deep LoRA": [0.8, 0.9], "LoRA": [0.7]}, ax),
]


class _Page(HTMLParser):
    """A page as a browser sees it: elements with their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def with_class(self, name: str) -> int:
        return sum(attributes.get("class") == name for _, attributes in self.elements)


def _sections() -> list[Section]:
    return [
        Section("Result", "First paragraph.\n\nSecond one.", Table(["method", "accuracy"], [["LoRA", 0.5]])),
        Section("Settings", settings={"width": 8, "seed": 0, "folder": "/tmp/x"}),
        *[
            Section(f"Figure {number}", figure_svg=figure_svg(draw), caption=f"Caption {number}")
            for number, draw in enumerate(DRAWINGS)
        ],
    ]


def _written(tmp_path, *sections: Section, title: str = "Report") -> str:
    return write_page(tmp_path / "report.html", title, sections).read_text(encoding="utf-8")


@pytest.mark.parametrize("draw", DRAWINGS)
class TestFigureSvg:
    def test_is_one_svg_element_of_the_size_asked_for(self, draw):
        root = ElementTree.fromstring(figure_svg(draw, width=5, height=2))
        assert root.tag.endswith("}svg")
        assert root.attrib["viewBox"] == "0 0 360 144"

    def test_is_the_same_each_time(self, draw):
        assert figure_svg(draw) == figure_svg(draw)

    def test_refers_to_nothing_outside(self, draw):
        markup = figure_svg(draw)
        ids = set(re.findall(r' id="([^"]+)"', markup))
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', markup)) == ids
        assert all(link.startswith(("#", "data:image/png")) for link in re.findall(r'href="([^"]*)', markup))
        assert "<style" not in markup
        assert "<metadata" not in markup

    def test_takes_its_ink_from_the_page_and_its_ground_too(self, draw):
        markup = figure_svg(draw)
        assert "currentColor" in markup
        texts = re.findall(r'<text [^>]*style="([^"]*)"', markup)
        assert texts
        assert all("fill: " in style for style in texts)
        assert "fill: #ffffff" not in markup
        # The outline of a white line.
        assert "#000000" not in re.sub(r"<path[^>]*stroke: #000000[^>]*>", "", markup)


class TestFigureSvgText:
    def test_stays_text_and_is_escaped(self):
        markup = figure_svg(lambda ax: ax.set_title("<script>alert(1)</script> & more"))
        assert "<script" not in markup
        root = ElementTree.fromstring(markup)
        assert "<script>alert(1)</script> & more" in {
            text for element in root.iter() for text in element.itertext()
        }

    def test_ids_of_different_figures_differ(self):
        first, second = (set(re.findall(r' id="([^"]+)"', figure_svg(draw))) for draw in DRAWINGS[:2])
        assert first
        assert second
        assert not first & second

    @pytest.mark.parametrize("size", [(0, 3), (3, -1), (float("nan"), 3)])
    def test_sizes_must_be_positive(self, size):
        with pytest.raises(ValueError, match="must be positive"):
            figure_svg(_spectra, width=size[0], height=size[1])


class TestPage:
    def test_stands_alone(self, tmp_path):
        html = _written(tmp_path, *_sections())
        page = _Page(html)
        assert not page.tags() & {"script", "link", "iframe", "object", "embed", "base", "form"}
        for _, attributes in page.elements:
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href", "xlink:href", "action", "srcset"):
                assert (attributes.get(name) or "#").startswith(("#", "data:image/png"))
        assert not re.search(r"@import|url\((?!#)", html)
        assert "default-src 'none'" in html

    def test_equal_input_gives_equal_bytes(self, tmp_path):
        one = write_page(tmp_path / "one.html", "Report", _sections()).read_bytes()
        other = write_page(tmp_path / "other.html", "Report", _sections()).read_bytes()
        assert one == other
        assert b"\r" not in one

    def test_ids_are_unique_and_labels_lead_to_them(self, tmp_path):
        page = _Page(_written(tmp_path, *_sections()))
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        labels = [
            attributes["aria-labelledby"]
            for _, attributes in page.elements
            if "aria-labelledby" in attributes
        ]
        assert labels
        assert set(labels) <= set(ids)

    def test_shows_everything_given(self, tmp_path):
        text = "\n".join(_Page(_written(tmp_path, *_sections(), title="My run")).text)
        for piece in (
            "My run",
            "First paragraph.",
            "Second one.",
            "accuracy",
            "0.5",
            "folder",
            "/tmp/x",
            "Caption 3",
        ):
            assert piece in text

    def test_every_figure_has_a_description(self, tmp_path):
        drawing = figure_svg(_spectra)
        page = _Page(
            _written(
                tmp_path,
                Section("One", figure_svg=drawing),
                Section("Two", figure_svg=figure_svg(DRAWINGS[1]), caption="Ranks."),
            )
        )
        described = [
            attributes["aria-label"] for _, attributes in page.elements if attributes.get("role") == "img"
        ]
        assert described == ["One", "Ranks."]

    def test_works_with_nothing_but_a_title(self, tmp_path):
        assert "<h1>Empty</h1>" in _written(tmp_path, title="Empty")


class TestEscaping:
    def test_text_from_anywhere_is_inert(self, tmp_path):
        section = Section(EVIL, EVIL, Table([EVIL], [[EVIL]]), figure_svg(_spectra), {EVIL: EVIL}, EVIL)
        page = _Page(_written(tmp_path, section, title=EVIL))
        assert not page.tags() & {"script", "img"}
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        # Title and h1; heading, text, header, cell, name and value of the setting, caption.
        assert sum(text == EVIL for text in page.text) == 9
        assert EVIL in {attributes.get("aria-label") for _, attributes in page.elements}

    @pytest.mark.parametrize(
        ("markup", "complaint"),
        [
            ("<svg><script>alert(1)</script></svg>", "active content"),
            ('<svg onload="alert(1)"></svg>', "active content"),
            ('<svg xmlns="http://www.w3.org/2000/svg"><foreignObject/></svg>', "active content"),
            ('<svg><image href="https://example.org/x.png"/></svg>', "outside the page"),
            ('<svg><a href="javascript:alert(1)"/></svg>', "outside the page"),
            ("<p>no figure</p>", "must be one <svg> element"),
            ("<svg>", "not well-formed"),
            ("", "not well-formed"),
        ],
    )
    def test_markup_that_is_no_plain_figure_is_refused(self, markup, complaint):
        with pytest.raises(ValueError, match=complaint):
            Section("Figure", figure_svg=markup)


class TestTable:
    def test_rows_must_match_the_header(self):
        with pytest.raises(ValueError, match=r"needs 2 values, one for each of \['a', 'b'\]; got \[1\]"):
            Table(["a", "b"], [[1, 2], [1]])
        with pytest.raises(ValueError, match="at least one column"):
            Table([], [])

    def test_columns_of_numbers_align_right(self, tmp_path):
        rows = [["x", 1, "0.5 ± 0.1", "12 kB", None], ["y", 2.5, "0.25", "-", 3]]
        page = _Page(_written(tmp_path, Section("T", table=Table(["name", "b", "c", "d", "e"], rows))))
        assert page.with_class("number") == 4 * 3

    def test_columns_with_words_align_left(self, tmp_path):
        page = _Page(
            _written(tmp_path, Section("T", table=Table(["a", "b"], [["layer.0", True], [1, False]])))
        )
        assert page.with_class("number") == 0

    def test_numbers_are_formatted_and_text_is_not(self, tmp_path):
        rows = [[1234567, np.float32(0.123456), float("nan"), "0.10", None, True, np.int64(4096)]]
        page = _Page(_written(tmp_path, Section("T", table=Table(list("abcdefg"), rows))))
        start = page.text.index("1,234,567")
        cells = [text for text in page.text[start:] if text.strip()][:7]
        assert cells == ["1,234,567", "0.1235", "–", "0.10", "–", "yes", "4,096"]

    def test_without_rows_shows_its_header(self, tmp_path):
        assert '<th scope="col">a</th>' in _written(tmp_path, Section("T", table=Table(["a"], [])))


class TestWriting:
    def test_makes_folders_replaces_the_old_page_and_leaves_nothing_else(self, tmp_path):
        target = tmp_path / "new" / "folder" / "report.html"
        write_page(target, "Old", [])
        assert write_page(str(target), "New", []) == target
        assert "<h1>New</h1>" in target.read_text(encoding="utf-8")
        assert [path.name for path in target.parent.iterdir()] == ["report.html"]

    def test_has_the_permissions_of_any_new_file(self, tmp_path):
        (tmp_path / "plain").write_text("")
        page = write_page(tmp_path / "report.html", "Report", [])
        assert stat.S_IMODE(page.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

    def test_a_page_that_cannot_be_made_leaves_the_old_one(self, tmp_path):
        target = write_page(tmp_path / "report.html", "Old", [])

        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no text")

        with pytest.raises(RuntimeError, match="no text"):
            write_page(target, "New", [Section("S", settings={"x": Broken()})])
        assert "<h1>Old</h1>" in target.read_text(encoding="utf-8")
        assert list(tmp_path.iterdir()) == [target]
