# SPDX-License-Identifier: GPL-2.0-or-later
"""What gnuplot has drawn, made fit for a page: themed, named, without ids that clash.

Colours stay as attributes, and each gets a class besides (f-NAME for what is filled, s-NAME
for what is stroked, c-NAME for points), so that a style sheet can give the dark ones.
"""

import re
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .text import printable

SPACE = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
LINK = f"{{{XLINK}}}href"

# Light and dark; the names of series say nothing about what they stand for.
COLOURS = {
    "ink": ("#1f2328", "#e6edf3"), "axis": ("#59636e", "#9aa4af"), "grid": ("#d1d9e0", "#3d444d"),
    "one": ("#c2410c", "#ff8f4c"), "two": ("#7e3fa8", "#cf9bf2"), "three": ("#0b62b0", "#6cb2ff"),
    "four": ("#0a7d55", "#3fd69a"), "five": ("#8a6400", "#e3b341"), "six": ("#b0246b", "#ff8ac0"),
    "seven": ("#4d5560", "#b5bec8"), "eight": ("#0b7285", "#56d4dd")}
PAPER = ("#ffffff", "#0d1117")

# Elements that gnuplot draws with; others are left out.
DRAWN = ("svg", "g", "path", "text", "tspan", "polygon", "polyline", "circle", "rect", "use",
         "defs")
CLASSES = {"fill": "f", "stroke": "s", "color": "c"}

ElementTree.register_namespace("", SPACE)
ElementTree.register_namespace("xlink", XLINK)


class BadDrawing(Exception):
    """Not what gnuplot is known to write."""


def _hex(value: str) -> str:
    """rgb( 68,  68,  68) as #444444, other words as they are."""
    match = re.fullmatch(r"rgb\(\s*(\d+),\s*(\d+),\s*(\d+)\)", value)
    if match:
        return "#" + "".join(f"{int(part):02x}" for part in match.groups())
    return {"black": COLOURS["ink"][0]}.get(value, value)


NAMES = {light: name for name, (light, _) in COLOURS.items()}


def _colour(element: ElementTree.Element) -> None:
    """Classes for colours; gnuplot's own class "gridline" means nothing here."""
    classes = []
    for attribute, prefix in CLASSES.items():
        value = _hex(element.get(attribute, ""))
        if value in NAMES:
            element.set(attribute, value)
            classes.append(f"{prefix}-{NAMES[value]}")
    element.attrib.pop("class", None)
    if classes:
        element.set("class", " ".join(classes))


def _is_empty(element: ElementTree.Element) -> bool:
    """A group without content, of which gnuplot writes many."""
    return element.tag == f"{{{SPACE}}}g" and len(element) == 0


def _clean(element: ElementTree.Element, drawn: set[str]) -> None:
    """Only what is drawn, from the inside out."""
    for child in list(element):
        if child.tag not in drawn:
            element.remove(child)
            continue
        _clean(child, drawn)
        if _is_empty(child):
            element.remove(child)
    _colour(element)
    if not (element.text or "").strip():
        element.text = None
    element.tail = None


def _used(root: ElementTree.Element) -> set[str]:
    """Names of shapes that are drawn, and of those that these are made of."""
    defined = {shape.get("id", ""): shape for defs in root.iter(f"{{{SPACE}}}defs")
               for shape in defs}
    pending = [use.get(LINK, "")[1:] for group in root.findall(f"{{{SPACE}}}g")
            for use in group.iter(f"{{{SPACE}}}use") if use.get("id") not in defined]
    used: set[str] = set()
    while pending:
        name = pending.pop()
        if name in defined and name not in used:
            used.add(name)
            pending.append(defined[name].get(LINK, "")[1:])
    return used


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """One page has many drawings, and all have the same ids."""
    used = _used(root)
    for defs in root.iter(f"{{{SPACE}}}defs"):
        for shape in list(defs):
            if shape.get("id") not in used:
                defs.remove(shape)
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", f"{prefix}-{name}")
        if link := element.get(LINK):
            element.set(LINK, f"#{prefix}-{link[1:]}")


def themed(drawing: str, name: str, alt: str) -> str:
    """An <svg> element for a page; it takes its colours from the page's style sheet."""
    try:
        # the one thing in texts that gnuplot does not escape
        root = ElementTree.fromstring(drawing.replace("]]>", "]]&gt;"))
    except ElementTree.ParseError as error:
        raise BadDrawing(f"gnuplot has drawn no SVG: {error}") from error
    _clean(root, {f"{{{SPACE}}}{tag}" for tag in DRAWN})
    _rename(root, name)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    title = ElementTree.Element(f"{{{SPACE}}}title", {"id": f"{name}-title"})
    title.text = printable(alt)
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def rules(dark: int) -> str:
    """The style sheet for the classes; dark is 0 or 1."""
    return "".join(f".{prefix}-{name}{{{attribute}:{pair[dark]}}}"
                   for name, pair in COLOURS.items() for attribute, prefix in CLASSES.items())


def standalone(element: str) -> str:
    """A file of its own. The paper is part of it, so that it can be read on any page."""
    names = {f"{match}" for match in re.findall(r"[fsc]-[a-z]+", element)}
    dark = "".join(rule + "}" for rule in rules(1).split("}")[:-1]
                   if rule.split("{")[0][1:] in names)
    style = f"@media (prefers-color-scheme:dark){{.paper{{fill:{PAPER[1]}}}{dark}}}"
    head, body = element.split("</title>", 1)
    return ("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"
            "<!-- SPDX-License-Identifier: GPL-2.0-or-later -->\n"
            f"{head}</title><style>{escape(style)}</style>"
            f"<rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{PAPER[0]}\"/>"
            f"{body}\n")
