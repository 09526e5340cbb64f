# SPDX-License-Identifier: GPL-2.0-or-later
"""RAM faults over the guest's time ("lab timeline"), as rows, table and verdict."""

from typing import Any

from . import results

GROUP = "timeline"
FIELDS = ("name", "config", "host_page_kib", "machine", "firmware", "smp", "mem_mib",
          "ram_faults", "ram_faults_above_1m", "faults", "phases", "populate_ms", "lab",
          "kernel", "kvm", "error")
PHASES = ("firmware_end", "linux_init", "touched", "end")

Row = dict[str, Any]


def result_rows(rows: list[Row]) -> list[Row]:
    """Rows of timeline.json; a run that failed has an "error" and no curve."""
    return [{key: row[key] for key in FIELDS if key in row} for row in rows]


def at(row: Row, phase: str) -> float | None:
    """Faults until the end of a phase: the last point of the curve before it."""
    if phase not in row.get("phases", {}):
        return None
    before = [count for seconds, count in row["faults"] if seconds <= row["phases"][phase]]
    return before[-1]


def _phase(row: Row, phase: str) -> str:
    faults = at(row, phase)
    return "-" if faults is None else f"{faults:,.0f} ({row['phases'][phase]:.1f} s)"


def table(rows: list[Row]) -> str:
    """One line per run: RAM faults until the end of each phase, and when that was."""
    lines = [["RAM faults until", "page, KiB", "firmware's end", "Linux's init", "touched",
              "power-off", "populate, ms"]]
    for row in rows:
        populate = row.get("populate_ms")
        lines.append([row["config"], str(row["host_page_kib"]),
                      *(_phase(row, phase) for phase in PHASES),
                      "-" if populate is None else f"{populate:,.0f}"])
    return results.align(lines)


def failures(rows: list[Row]) -> list[str]:
    """What makes the command fail, one text each."""
    bad = [f"{row['name']}: {row['error']}" for row in rows if "error" in row]
    for row in rows:
        if "faults" in row and row["faults"][-1][1] != row["ram_faults"]:
            bad.append(f"{row['name']}: the curve ends at {row['faults'][-1][1]:,.0f} faults, "
                       f"{row['ram_faults']:,} have been counted")
        if row["config"] == "prefault" and row.get("ram_faults"):
            bad.append(f"{row['name']}: {row['ram_faults']:,} RAM faults, must be 0")
    return bad
