# SPDX-License-Identifier: GPL-2.0-or-later
"""What ThreadSanitizer says about a QEMU that was built with it, and what of it is ours.

Upstream's own races are some (aio_bh_enqueue() reads a list's head that another thread
exchanges), so only a report counts in which our code makes one of the accesses.
"""

import re
from pathlib import Path
from typing import Any

from .faultplan import FUNCTIONS

LOG = "threads"
# Says in the log of each process that it is under ThreadSanitizer.
RUNNING = "Running under ThreadSanitizer"
BEGIN = "WARNING: ThreadSanitizer: "
# Of QEMU; functions of the C library may be inside, inline functions are the caller's.
FRAME = re.compile(r"#\d+ .*\(qemu[\w-]*\+0x([0-9a-f]+)\)")
# Where a thread, a lock or memory comes from is no access.
ORIGIN = re.compile(r"(created|Location is|As if synchronized)")
# Both accesses of a data race: what they hold at the time.
HELD = re.compile(r"(?m)^  [^#\n]*\b(?:[Rr]ead|[Ww]rite) of size [^\n]* by [^\n]*$")
WRITE_LOCK = re.compile(r"write (M\d+)")
KEPT = 4000

Functions = list[tuple[int, int, str]]


def environment(work: Path) -> dict[str, str]:
    """For any QEMU: one without ThreadSanitizer does not look at it."""
    return {"TSAN_OPTIONS": f"log_path={work / LOG}:verbosity=1:exitcode=0:history_size=4"}


def our_functions(path: Path = Path(FUNCTIONS)) -> Functions:
    """Addresses in QEMU, which is a position-independent executable."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return [(int(start, 16), int(end, 16), name) for start, end, name in lines]


def _name(address: int, functions: Functions) -> str:
    """A frame's address is that of the call's last byte."""
    return next((name for start, end, name in functions if start <= address < end), "")


def our_accesses(report: str, functions: Functions) -> list[str]:
    """Those of ours that are QEMU's innermost frame of an access, or hold or take a lock."""
    found = []
    for part in report.split("\n\n"):
        frame = FRAME.search(part)
        if frame and not ORIGIN.search(part[:frame.start()]):
            found.append(_name(int(frame[1], 16), functions))
    return sorted(set(filter(None, found)))


def under_one_lock(report: str) -> bool:
    """Two accesses that hold the same lock are none at once, whatever TSan says.

    It says so of those of a thread that has changed stacks (coroutines) in between.
    """
    held = [set(WRITE_LOCK.findall(line)) for line in HELD.findall(report)]
    return len(held) == 2 and bool(held[0] & held[1])


def reports(log: str) -> list[str]:
    """Each from its first line to its SUMMARY, which says the kind once more."""
    return [BEGIN + text.split("\nSUMMARY:")[0] for text in log.split(BEGIN)[1:]]


def collect(work: Path, functions: Functions) -> dict[str, Any]:
    """Of all QEMUs that ran here since the last time; empty without ThreadSanitizer."""
    logs = sorted(work.glob(f"**/{LOG}.*"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in logs]
    for path in logs:
        path.unlink()
    watched = sum(RUNNING in text for text in texts)
    if not watched:
        return {}
    found = [report for text in texts for report in reports(text)]
    ours = [report for report in found
            if our_accesses(report, functions) and not under_one_lock(report)]
    return {"watched": watched, "races": [report[:KEPT] for report in ours],
            "other_races": len(found) - len(ours)}
