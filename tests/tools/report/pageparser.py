# SPDX-License-Identifier: GPL-2.0-or-later
"""A page as a test looks at it: sections, tables, drawings, and whether its markup is right."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = ("meta", "link", "br", "img", "input", "hr")
SVG = "{http://www.w3.org/2000/svg}"

Attributes = list[tuple[str, str | None]]


@dataclass
class Section:
    text: str = ""
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """Elements that are not closed, or closed twice, are in "mistakes"."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, Section] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.mistakes: list[str] = []
        self._open: list[str] = []
        self._section = Section()
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(html)
        self.close()
        self.mistakes += [f"<{tag}> is not closed" for tag in self._open]
        self.drawings = [ElementTree.fromstring(text)
                         for text in re.findall(r"<svg .*?</svg>", html, re.DOTALL)]

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        self._section.classes += (found.get("class") or "").split()
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = self.sections[str(found["id"])] = Section()
        elif tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.mistakes.append(f"</{tag}> at line {self.getpos()[0]} inside {self._open[-3:]}")
        else:
            self._open.pop()
        if tag == "table":
            self._section.tables[self._caption] = self._rows
        elif tag == "section":
            self._section = Section()

    def handle_data(self, data: str) -> None:
        self._section.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self._rows[-1][-1] += data
        elif self._open and self._open[-1] == "caption":
            self._caption += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self, section: str) -> list[list[str]]:
        """Of all tables of a section, without headings."""
        return [row for table in self.sections[section].tables.values() for row in table[1:]]

    def drawing(self, name: str) -> ElementTree.Element:
        return next(svg for svg in self.drawings if svg[0].get("id") == f"{name}-title")


def numbers(path: str) -> list[tuple[float, float]]:
    """The corners of a path that gnuplot has drawn."""
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", path)]


def texts(svg: ElementTree.Element) -> list[str]:
    return [(text.text or "").strip() for text in svg.iter(f"{SVG}text")]


def longest(svg: ElementTree.Element, stroke: str) -> list[tuple[float, float]]:
    """The path of a curve, which goes on from its sample in the key."""
    paths = [path.get("d", "") for path in svg.iter(f"{SVG}path")
             if f"s-{stroke}" in path.get("class", "").split()]
    return numbers(max(paths, key=len).split("M")[-1])
