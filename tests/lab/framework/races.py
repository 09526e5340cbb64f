# SPDX-License-Identifier: GPL-2.0-or-later
"""Life cycles of a QEMU that was built with ThreadSanitizer: runs, table, verdict."""

from typing import Any

from . import results

GROUPS = ("control", "lifecycle", "hotplug", "migration")
# Upper limit of what ThreadSanitizer costs, for time limits.
SLOWER = 5
# ThreadSanitizer remembers who used which memory: two QEMUs did not fit into 2 GiB.
HOST_MEM_MIB = 6144

Row = dict[str, Any]


def scaled(run: Row) -> Row:
    return {**run, "timeout": SLOWER * run["timeout"], "host_mem_mib": HOST_MEM_MIB}


def verdict(row: Row) -> str:
    """A run that nobody watched says nothing; what the row's facts are is for the tests."""
    if "error" in row:
        return "FAILED"
    if not row.get("watched"):
        return "NOT WATCHED"
    return f"{len(row['races'])} RACES" if row["races"] else "ok"


def table(rows: list[Row]) -> str:
    """Other races are upstream's."""
    lines = [["run", "QEMUs", "races of ours", "other races", "result"]]
    lines += [[row["name"], str(row.get("watched", 0)), str(len(row.get("races", []))),
               str(row.get("other_races", 0)), verdict(row)] for row in rows]
    return results.align(lines)
