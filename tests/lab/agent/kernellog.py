# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel under debugging has to say: lockdep, KASAN, RCU, hung tasks, oopses."""

import os
import re
from pathlib import Path

KMSG = Path("/dev/kmsg")
LOCKDEP_STATS = Path("/proc/lockdep_stats")
RECORD_SIZE = 8192
KEPT_LINES = 200

# Most reports begin with one of the first two; the others have a line of their own as well.
REPORT = re.compile("|".join((
    r"BUG:", r"WARNING:", r"KASAN:", r"kernel BUG at", r"Oops", r"general protection fault",
    r"possible circular locking", r"suspicious RCU usage", r"inconsistent lock state",
    r"sleeping function called", r"INFO: task .* blocked", r"rcu: INFO",
    r"INFO: rcu_\w+ detected", r"INFO: trying to register non-static key",
    r"turning off the locking correctness validator", r"list_(add|del) corruption",
    r"refcount_t:")))


class LostMessages(Exception):
    """The kernel overwrote messages that nobody had read."""


def message(record: bytes) -> str:
    """ "LEVEL,NUMBER,MICROSECONDS,FLAGS;TEXT" and lines of details, as dmesg shows it."""
    head, _, text = record.decode(errors="replace").partition(";")
    seconds = int(head.split(",")[2]) / 1e6
    return f"[{seconds:12.6f}] {text.splitlines()[0] if text else ''}"


def reports(lines: list[str]) -> list[str]:
    """From the first line that is a report on; nothing where there is none."""
    for number, line in enumerate(lines):
        if REPORT.search(line):
            return lines[number:number + KEPT_LINES]
    return []


class KernelLog:
    """Follows the kernel's log, from the oldest message that is still there."""

    def __init__(self, path: Path = KMSG):
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def new_lines(self) -> list[str]:
        lines = []
        while True:
            try:
                record = os.read(self._fd, RECORD_SIZE)
            except BlockingIOError:
                return lines
            except BrokenPipeError as error:
                raise LostMessages(f"{KMSG} has overwritten messages before they were read: "
                                   "raise CONFIG_LOG_BUF_SHIFT in debug.config") from error
            lines.append(message(record))


def lockdep_is_on() -> bool:
    """Lockdep ends with its first report, and with any other that taints the kernel."""
    stats = LOCKDEP_STATS.read_text(encoding="ascii")
    return re.search(r"debug_locks:\s+1$", stats, re.M) is not None


def verdict(found: list[str], expected: str = "") -> str:
    """Why a run has failed, by the reports that came in it; "" if it has not."""
    if expected:
        seen = any(expected in line for line in found)
        return "" if seen else f"the kernel's log has no '{expected}', which was provoked"
    if found:
        return f"kernel report: {found[0].split('] ', 1)[-1]}"
    return "" if lockdep_is_on() else "lockdep has turned itself off, so no run can be judged"
