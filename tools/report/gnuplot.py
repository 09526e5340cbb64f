# SPDX-License-Identifier: GPL-2.0-or-later
"""Charts, drawn by gnuplot: once for a wide page, once for a phone."""

import itertools
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from . import svg
from .text import printable

GNUPLOT = Path("/usr/bin/gnuplot")
TIMEOUT = 60
# Width and height in pixels of the page. A wide drawing would have tiny letters on a phone.
SIZES = {"wide": (1000, 430), "narrow": (360, 340)}
LINE_HEIGHT = 20
FONT_SIZES = {"wide": 15, "narrow": 13}

# Colour, dashes and points: each configuration looks the same wherever it is, the fork is
# green, and no two differ by the colour alone.
LOOKS = {"stock": ("one", "solid", 5), "naive": ("two", "'-'", 13),
         "prealloc": ("three", "'_.'", 7), "prefault": ("four", "solid", 9),
         "always-writable": ("five", "'_'", 11), "none": ("four", "solid", 9),
         "range": ("three", "'_.'", 7), "full": ("two", "'-'", 13)}
OTHER_LOOKS = (("five", "'_'", 11), ("six", "'.'", 4), ("seven", "'-..'", 6), ("eight", "'-'", 8),
               ("two", "'.'", 12), ("three", "'_'", 10))
LINE_WIDTHS = {"prefault": 4, "none": 4}


class CannotDraw(Exception):
    """No gnuplot, or it complains."""


@dataclass
class Curve:
    """One series."""

    config: str
    points: list[tuple[float, float]]
    style: str = "linespoints"
    title: str = ""


@dataclass
class Chart:
    """A diagram. Its title is a heading of the page and part of a file of its own."""

    name: str
    title: str
    alt: str
    curves: list[Curve]
    xlabel: str = ""
    ylabel: str = ""
    yformat: str = "%g"
    log: str = ""
    xticks: dict[float, str] = field(default_factory=dict)
    yticks: dict[float, str] = field(default_factory=dict)
    labels: list[tuple[float, float, str]] = field(default_factory=list)
    xrange: str = ""
    yrange: str = ""
    bar_width: float = 0.0


def _looks(curves: list[Curve]) -> list[tuple[str, str, int]]:
    """Of each curve; configurations that nobody knows take turns."""
    others = itertools.cycle(OTHER_LOOKS)
    return [LOOKS.get(curve.config) or next(others) for curve in curves]


def quoted(text: str) -> str:
    """A string of gnuplot's: nothing is special between single quotes but themselves."""
    plain = printable(text)
    if len(plain) > 60:
        plain = plain[:57] + "..."
    return "'" + plain.replace("'", "''") + "'"


def _colour(name: str) -> str:
    return f"rgb '{svg.COLOURS[name][0]}'"


def _style(curve: Curve, look: tuple[str, str, int]) -> str:
    colour, dash, points = look
    if curve.style == "boxes":
        return f"with boxes fillstyle solid 1 noborder linecolor {_colour(colour)}"
    shape = f" pointtype {points} pointsize 0.8" if "points" in curve.style else ""
    return (f"with {curve.style} linewidth {LINE_WIDTHS.get(curve.config, 2.5)} dashtype {dash} "
            f"linecolor {_colour(colour)}{shape}")


def _data(number: int, curve: Curve) -> list[str]:
    return [f"$d{number} << END_OF_DATA", *(f"{x:.10g} {y:.10g}" for x, y in curve.points),
            "END_OF_DATA"]


def _ticks(axis: str, ticks: dict[float, str]) -> list[str]:
    """These texts are formats, in which "%" has to be doubled."""
    texts = [f"{quoted(text.replace('%', '%%'))} {at:.10g}" for at, text in ticks.items()]
    return [f"set {axis}tics ({', '.join(texts)})"] if texts else []


def _axes(chart: Chart, size: str) -> list[str]:
    lines = [f"set format y {quoted(chart.yformat)}",
             f"set xlabel {quoted(chart.xlabel)}", f"set ylabel {quoted(chart.ylabel)}"]
    if chart.log:
        lines.append(f"set logscale {chart.log}")
    xticks = chart.xticks
    if size == "narrow" and "x" in chart.log:
        # there is no room for the name of each power of ten
        xticks = dict(list(xticks.items())[::2])
    lines += _ticks("x", xticks) + _ticks("y", chart.yticks)
    for axis, limits in (("x", chart.xrange), ("y", chart.yrange)):
        if limits:
            lines.append(f"set {axis}range [{limits}]")
    if chart.bar_width:
        lines.append(f"set boxwidth {chart.bar_width:g}")
    return lines


def _script(chart: Chart, size: str, titled: bool) -> str:
    """All of gnuplot's commands for one drawing."""
    width, height = SIZES[size]
    if size == "narrow":
        # two names of curves fit into a line
        height += LINE_HEIGHT * max(0, len(chart.curves) - 2)
    ink, axis, grid = (_colour(name) for name in ("ink", "axis", "grid"))
    lines = ["set encoding utf8",
             f"set terminal svg size {width},{height} noenhanced "
             f"font 'system-ui,sans-serif,{FONT_SIZES[size]}'",
             f"set border 3 linecolor {axis}", f"set tics nomirror scale 0.5 textcolor {axis}",
             f"set grid ytics linetype 1 linecolor {grid}", "set rmargin 3",
             f"set key outside top left horizontal Left reverse textcolor {ink} samplen 2.5",
             f"set xlabel textcolor {axis}", f"set ylabel textcolor {axis}"]
    if titled:
        # gnuplot's own title would be below the names of the curves
        lines += [f"set label {quoted(chart.title)} at screen 0.02,0.95 left textcolor {ink}",
                  "set tmargin 4", "set key at screen 0.06,0.91 left top"]
    lines += _axes(chart, size)
    lines += [f"set label {quoted(text)} at {x:.10g},{y:.10g} center offset 0,0.6 textcolor {ink}"
              for x, y, text in chart.labels]
    for number, curve in enumerate(chart.curves):
        lines += _data(number, curve)
    curves = ", ".join(
        f"$d{number} {_style(curve, look)} title {quoted(curve.title or curve.config)}"
        for number, (curve, look) in enumerate(zip(chart.curves, _looks(chart.curves))))
    return "\n".join([*lines, f"plot {curves}", ""])


def _run(script: str) -> str:
    try:
        done = subprocess.run([str(GNUPLOT)], input=script.encode(), capture_output=True,
                              timeout=TIMEOUT, check=False)
    except OSError as error:
        raise CannotDraw(f"{GNUPLOT}: {error.strerror}; the charts need package gnuplot-nox: "
                         "run 'scripts/deps install'") from error
    except subprocess.TimeoutExpired as error:
        raise CannotDraw(f"{GNUPLOT} took longer than {TIMEOUT} s") from error
    if done.returncode:
        raise CannotDraw(f"{GNUPLOT}: {done.stderr.decode(errors='replace')[-1000:].strip()}")
    return done.stdout.decode()


def draw(chart: Chart, size: str, titled: bool = False) -> str:
    """An <svg> element."""
    try:
        return svg.themed(_run(_script(chart, size, titled)), f"{chart.name}-{size}",
                          chart.alt)
    except svg.BadDrawing as error:
        raise CannotDraw(str(error)) from error
