# SPDX-License-Identifier: GPL-2.0-or-later
"""Gather build/results/*.json into one HTML page with charts.

The page needs no other file and no network. A result file that is not there yet is no
mistake: its section says which command makes it. A file that cannot be shown is named with
the reason, all others are shown, and the exit status is 1.
"""

import argparse
import os
import sys
from pathlib import Path

from . import gnuplot, markup, pictures, summary, svg
from .load import Result, load
from .sections import SECTIONS, Section
from .text import plural, words

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("BUILD_DIR", ROOT / "build"))
README_CHART = ROOT / "docs" / "images" / "ram-faults.svg"
# More has no place in a repository.
README_CHART_KIB = 60
EMULATED = {"npt": "emulated with NPT by QEMU's TCG", "ept": "emulated with EPT by Bochs",
            "host": "this machine"}

# The page's own colours in the dark; style.css has the light ones.
DARK = (":root { --paper: #0d1117; --raised: #161b22; --ink: #e6edf3; --dim: #9aa4af; "
        "--line: #3d444d; --link: #6cb2ff; --bad: #ff8f86; }")


class Failed(Exception):
    """The message says what is wrong and how to put it right."""


def _measured(section: Section, result: Result) -> str:
    """Where and when."""
    host = result.host
    lab = words(host.get("lab"))
    texts = [f"Measured {result.when}",
             f"lab {lab} ({EMULATED[lab]})" if lab in EMULATED else f"lab {lab}"]
    texts += [f"{title} {words(host[name])}" for title, name in (("Linux", "kernel"),
                                                                 ("KVM", "kvm")) if host.get(name)]
    note = (" Times inside an emulated host can be compared within this section only, with each "
            "other." if section.has_times and lab in ("npt", "ept") else "")
    return markup.paragraph(f"{', '.join(texts)}; {plural(len(result.runs), 'run')}.{note}",
                            "measured")


def _draw(chart: gnuplot.Chart, chart_dir: Path | None) -> str:
    if chart_dir:
        write(chart_dir / f"{chart.name}.svg",
              svg.standalone(gnuplot.draw(chart, "wide", titled=True)))
    return markup.figure(chart.title, gnuplot.draw(chart, "wide"), gnuplot.draw(chart, "narrow"))


def _parts(section: Section, result: Result) -> list[pictures.Part]:
    """What fields are is known, what is inside of some is not."""
    try:
        return section.parts(result.runs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        result.damage = f"cannot be shown: {type(error).__name__}: {words(error)}"
        return [markup.paragraph(f"{section.name} {result.damage}", "damage")]


def _body(section: Section, result: Result, chart_dir: Path | None) -> str:
    """What a section shows; a chart that cannot be drawn is damage, too."""
    html = ""
    for part in _parts(section, result):
        try:
            html += part if isinstance(part, str) else _draw(part, chart_dir)
        except gnuplot.CannotDraw as error:
            result.damage = f"has a chart that cannot be drawn: {error}"
            html += markup.paragraph(f"{section.name} {result.damage}", "damage")
    return html


def _section(section: Section, result: Result, chart_dir: Path | None) -> str:
    html = markup.paragraph(section.says)
    if result.damage:
        html += markup.paragraph(f"{section.name} {result.damage}. '{section.command}' makes it "
                                 "again.", "damage")
    elif not result.runs:
        html += markup.paragraph(f"Not measured yet: '{section.command}' makes {section.name}.",
                                 "dim")
    else:
        html += _measured(section, result) + _body(section, result, chart_dir)
    return markup.section(section.key, section.title, html)


def _state(result: Result) -> str:
    return "damaged" if result.damage else "made" if result.runs else "none"


def _others(directory: Path) -> str:
    """Result files that no section is about."""
    known = {section.name for section in SECTIONS}
    names = sorted(path.name for path in directory.glob("*.json") if path.name not in known)
    return markup.paragraph("Not shown: " + ", ".join(names) + ".", "dim") if names else ""


def make_page(directory: Path, chart_dir: Path | None) -> tuple[str, list[str]]:
    """The page, and what is wrong with result files."""
    results = {section.name: load(directory, section.name, section.fields)
               for section in SECTIONS}
    body = "".join(_section(section, results[section.name], chart_dir) for section in SECTIONS)
    made = sum(bool(result.runs) for result in results.values())
    intro = markup.paragraph(
        "A guest stalls whenever it touches memory that KVM has not mapped yet. With prefault=on "
        "all of it is mapped before the first instruction, and stays so.")
    intro += markup.tiles(summary.tiles(results))
    intro += markup.paragraph(f"{made} of {len(results)} result files are there.", "dim")
    contents = [(section.key, section.title, _state(results[section.name]))
                for section in SECTIONS]
    rules = svg.rules(0) + "\n@media (prefers-color-scheme: dark) {" + svg.rules(1) + DARK + "}\n"
    page = markup.page("qemu-prefault: what was measured", rules, intro, contents,
                       body + _others(directory))
    return page, [f"{directory / name} {result.damage}" for name, result in results.items()
                  if result.damage]


def write(path: Path, text: str) -> None:
    """Complete or not there at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from error


def readme_chart(directory: Path) -> str:
    """The first chart of the page as a file of its own."""
    section = SECTIONS[0]
    result = load(directory, section.name, section.fields)
    charts = pictures.fault_charts(result.runs)
    if result.damage:
        raise Failed(f"{directory / section.name} {result.damage}")
    if not charts:
        raise Failed(f"{directory / section.name} has no runs to draw: run '{section.command}'")
    text = svg.standalone(gnuplot.draw(charts[0], "wide", titled=True))
    if len(text) > README_CHART_KIB << 10:
        raise Failed(f"the chart has {len(text) >> 10} KiB, must have at most {README_CHART_KIB}: "
                     f"it has {len(charts[0].curves)} curves, which are too many")
    return text


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="DIR", default=BUILD / "results",
                        help="where the result files are (default: build/results)")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        default=BUILD / "report" / "index.html",
                        help="the page (default: build/report/index.html)")
    parser.add_argument("--chart-dir", type=Path, metavar="DIR",
                        help="also write each chart to a file of its own, DIR/NAME.svg")
    parser.add_argument("--readme-chart", type=Path, metavar="FILE", nargs="?",
                        const=README_CHART, help="write only the first chart, for the README "
                        "(default: docs/images/ram-faults.svg)")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    if not args.results.is_dir() and args.results.exists():
        raise Failed(f"--results {args.results} is not a directory")
    if args.readme_chart:
        write(args.readme_chart, readme_chart(args.results))
        print(args.readme_chart)
        return 0
    page, damages = make_page(args.results, args.chart_dir)
    write(args.output, page)
    for text in damages:
        print(f"report: error: {text}", file=sys.stderr)
    print(args.output)
    return 1 if damages else 0


def main(argv: list[str]) -> int:
    try:
        return _run(parse_args(argv))
    except (Failed, gnuplot.CannotDraw) as error:
        print(f"report: error: {error}", file=sys.stderr)
        return 1
