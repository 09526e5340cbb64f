# SPDX-License-Identifier: GPL-2.0-or-later
""" "make soak": what must not become more, round after round."""

import statistics
from typing import Any, Callable

from agent.scenarios.soak import EVENTS

Row = dict[str, Any]

# After these no RAM fault is allowed; while a guest migrates its pages are write-protected.
WITHOUT_FAULTS = ("guest reboot", "plug, unplug")
EXACT = ("fds", "threads", "ranges", "locked_kib")
# The allocator's own growth and shrinking.
RSS_KIB = 4096
RSS_SHARE = 0.02


def scaled(run: Row, divisor: int) -> Row:
    """A run with a part of the rounds, but four at least: halves are compared."""
    options = {name: max(4, count // divisor) for name, count in run["options"].items()}
    return {**run, "options": options}


def _grows(values: list[int], slack: float,
           of_half: Callable[[list[int]], float] = max) -> bool:
    """Whether the second half has more than the first; the first round is left out."""
    values = values[1:]
    half = len(values) // 2
    return of_half(values[half:]) > of_half(values[:half]) + slack


def failures(rounds: list[Row]) -> list[str]:
    """What is wrong, one text each."""
    texts = []
    for event in EVENTS:
        rows = [row for row in rounds if row["event"] == event]
        if not rows:
            texts.append(f"{event}: no rounds")
            continue
        for name in EXACT:
            if _grows([row[name] for row in rows], 0):
                texts.append(f"{event}: {name} grows: {[row[name] for row in rows]}")
        rss = [row["rss_kib"] for row in rows]
        # One process out of five has had 5 MB more; a leak raises every later round.
        if _grows(rss, max(RSS_KIB, RSS_SHARE * rss[0]), statistics.median_low):
            texts.append(f"{event}: rss_kib grows: {rss}")
        faults = [row["ram_faults"] for row in rows]
        if event in WITHOUT_FAULTS and any(faults):
            texts.append(f"{event}: RAM faults: {faults}")
    return texts


def summary(rounds: list[Row]) -> str:
    lines = []
    for event in EVENTS:
        rows = [row for row in rounds if row["event"] == event]
        if rows:
            first, last = rows[0], rows[-1]
            lines.append(f"{event:14} {len(rows):4} times, RSS {first['rss_kib']:,} to "
                         f"{last['rss_kib']:,} KiB, fds {first['fds']} to {last['fds']}, "
                         f"{sum(row['ram_faults'] or 0 for row in rows)} RAM faults")
    return "\n".join(lines)
