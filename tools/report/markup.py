# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML: all that comes from a result file passes through text() here."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .load import Row
from .text import printable, words

STYLE = Path(__file__).with_name("style.css")
# Longer tables are folded up.
OPEN_ROWS = 12
# Longer texts may be broken into lines.
LONG_TEXT = 40
# Nothing may be fetched, and no script runs, whatever a result file has in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Column:
    """A heading and what a row has there."""

    title: str
    value: Callable[[Row], Any]
    is_number: bool = False


def text(value: Any) -> str:
    return html.escape(words(value))


def field(title: str, name: str) -> Column:
    return Column(title, lambda row: row.get(name))


def number(title: str, name: str, form: Callable[[Any], str]) -> Column:
    return Column(title, lambda row: form(row.get(name)), True)


def _kind(name: str) -> str:
    return f" class=\"{name}\"" if name else ""


def _cell(column: Column, row: Row) -> str:
    shown = words(column.value(row))
    kind = "number" if column.is_number else "long" if len(shown) > LONG_TEXT else ""
    return f"<td{_kind(kind)}>{html.escape(shown)}</td>"


def _head(columns: list[Column]) -> str:
    return "".join(f"<th scope=\"col\"{_kind('number' if column.is_number else '')}>"
                   f"{text(column.title)}</th>" for column in columns)


def table(caption: str, columns: list[Column], rows: list[Row], fold: bool = True) -> str:
    """In a box of its own that scrolls, so that the page does not."""
    body = "".join(f"<tr>{''.join(_cell(c, row) for c in columns)}</tr>\n" for row in rows)
    box = (f"<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{text(caption)}\">"
           f"<table><caption>{text(caption)}</caption>"
           f"<thead><tr>{_head(columns)}</tr></thead>\n<tbody>{body}</tbody></table></div>\n")
    if fold and len(rows) > OPEN_ROWS:
        return f"<details><summary>{text(caption)}: {len(rows):,} rows</summary>{box}</details>\n"
    return box


def lists(caption: str, lines: list[str]) -> str:
    """What went wrong, one line each; nothing if nothing did."""
    if not lines:
        return ""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<p>{text(caption)}:</p><ul>{items}</ul>\n"


def paragraph(line: str, kind: str = "") -> str:
    start = f"<p class=\"{kind}\">" if kind else "<p>"
    return f"{start}{html.escape(printable(line))}</p>\n"


def figure(title: str, wide: str, narrow: str) -> str:
    """The same chart twice; the style sheet shows one of them."""
    return (f"<figure><figcaption>{text(title)}</figcaption>"
            f"<div class=\"wide\">{wide}</div><div class=\"narrow\">{narrow}</div></figure>\n")


def tiles(found: list[tuple[str, str, str]]) -> str:
    """The few numbers at the top: what, value, and what it is compared with."""
    cells = "".join(f"<div><dt>{text(what)}</dt><dd><strong>{text(value)}</strong> "
                    f"<span>{text(than)}</span></dd></div>" for what, value, than in found)
    return f"<dl class=\"tiles\">{cells}</dl>\n" if found else ""


def section(key: str, title: str, body: str) -> str:
    return (f"<section id=\"{key}\" aria-labelledby=\"{key}-title\">"
            f"<h2 id=\"{key}-title\">{text(title)}</h2>\n{body}</section>\n")


def page(title: str, rules: str, intro: str, contents: list[tuple[str, str, str]],
         body: str) -> str:
    """The whole page; contents are key, title and state of each section."""
    links = "".join(f"<li class=\"{state}\"><a href=\"#{key}\">{text(name)}</a></li>"
                    for key, name, state in contents)
    style = STYLE.read_text(encoding="utf-8").replace("/* colours of charts */", rules)
    return (f"<!DOCTYPE html>\n<!-- SPDX-License-Identifier: GPL-2.0-or-later -->\n"
            f"<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            f"<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n"
            f"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            f"<meta name=\"color-scheme\" content=\"light dark\">\n"
            f"<link rel=\"icon\" href=\"data:,\">\n"
            f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            f"<header><h1>{text(title)}</h1>\n{intro}</header>\n"
            f"<nav aria-label=\"Sections\"><ul>{links}</ul></nav>\n<main>\n{body}</main>\n"
            f"</body>\n</html>\n")
