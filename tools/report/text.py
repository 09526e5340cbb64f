# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers as people read them; nothing is "-"."""

from typing import Any

NONE = "-"
UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns"))


def count(value: float | None) -> str:
    """Whole numbers with commas; others with as many decimals as tell something."""
    if value is None:
        return NONE
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def fraction(value: float | None) -> str:
    return NONE if value is None else f"{value:,.3f}"


def milliseconds(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def nanoseconds(value: float | None) -> str:
    """With three digits in the unit that fits."""
    if value is None:
        return NONE
    size, unit = next(((s, u) for s, u in UNITS if value >= s), UNITS[-1])
    scaled = value / size
    digits = 0 if scaled >= 100 or size == 1 else 1 if scaled >= 10 else 2
    return f"{scaled:,.{digits}f} {unit}"


def pages(kib: float | None) -> str:
    """The size of host pages."""
    if kib is None:
        return NONE
    for size, unit in ((1 << 20, "GiB"), (1 << 10, "MiB")):
        if kib >= size:
            return f"{kib / size:g} {unit}"
    return f"{kib:g} KiB"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Without control characters and halves of pairs, which neither HTML nor XML may have."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def words(value: Any) -> str:
    """Anything, short enough for a line."""
    if value is None or value == "":
        return NONE
    text = " ".join(printable(str(value)).split())
    return text if len(text) <= 200 else text[:197] + "..."
