# SPDX-License-Identifier: GPL-2.0-or-later
"""Result files and the table that people read."""

import json
from pathlib import Path
from typing import Any, Callable

from .config import exclusive

Row = dict[str, Any]

# Of QEMU, in scenarios that boot no guest.
EXIT_STATUS = {"refused": 1, "starved": 1, "postcopy_refused": 1, "paused": 0}
# These do without a guest that could be booted.
NO_BOOT = ("populate", "methods", "mtrr_burst", "mtrr_verify", "mtrr_stress",
           "host_validate")

TABLE: list[tuple[str, Callable[[Row], Any]]] = [
    ("machine", lambda r: f"{r['machine']}, {r['firmware']}"),
    ("vCPUs, memory", lambda r: f"{r['smp']}, {r['mem_mib']} MiB"),
    ("host pages", lambda r: "2 MiB" if r["host_page_kib"] == 2048 else "4 KiB"),
    ("booted", lambda r: "yes" if r["booted"] else "NO"),
    ("RAM faults", lambda r: r.get("ram_faults")),
    ("  above 1 MiB", lambda r: r.get("ram_faults_above_1m")),
    ("populate, ms", lambda r: r.get("populate_ms")),
    ("first touch, ms", lambda r: r.get("first_touch_ms")),
    ("second touch, ms", lambda r: r.get("second_touch_ms")),
    ("by a program, ms", lambda r: r.get("program_touch_ms")),
]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def align(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join([line[0].ljust(widths[0]),
                                *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))])
                     .rstrip() for line in lines)


def side_by_side(rows: list[Row]) -> str:
    """One column per run, one line per measured thing."""
    lines = [["", *(row["config"] for row in rows)]]
    lines += [[title, *(_text(value(row)) for row in rows)] for title, value in TABLE]
    return align(lines)


def one_per_line(rows: list[Row]) -> str:
    """One line per run, for the matrix."""
    lines = [["run", "RAM faults", "above 1 MiB", "populate", "first", "second ms", "program",
              "result"]]
    for row in rows:
        lines.append([row["name"], *(_text(row.get(name)) for name in (
            "ram_faults", "ram_faults_above_1m", "populate_ms", "first_touch_ms",
            "second_touch_ms", "program_touch_ms")), verdict(row)])
    return align(lines)


def cow_table(rows: list[Row]) -> str:
    """One line per run: faults per page read then written, and population."""
    lines = [["run", "faults per page", "reading", "writing", "mapped", "host copies",
              "populate, ms", "in two passes", "result"]]
    for row in rows:
        lines.append([row["name"], *(_fraction(row.get(name)) for name in (
            "tdp_faults_per_page", "tdp_read_faults_per_page", "tdp_write_faults_per_page",
            "tdp_mapped_per_page", "host_cow_per_page")), _text(row.get("populate_ms")),
                      _text(row.get("two_pass_populate_ms")), verdict(row)])
    return align(lines)


def populate_table(rows: list[Row]) -> str:
    """One line per way, number of threads and page size."""
    lines = [["population", "threads", "page, KiB", "s per GiB", "over host, %"]]
    host = {(row["host_page_kib"], row["threads"]): row["s_per_gib"]
            for row in rows if row["config"] == "host"}
    for row in rows:
        base = host[row["host_page_kib"], row["threads"]]
        lines.append([row["config"], str(row["threads"]), str(row["host_page_kib"]),
                      f"{row['s_per_gib']:.3f}", f"{100 * (row['s_per_gib'] / base - 1):.1f}"])
    return align(lines)


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def memory_types(row: Row) -> str:
    """Only EPT has memory types, and mode full is to be as upstream: some are stale."""
    checks = [row[key] for key in ("check", "left", "again") if key in row]
    if row.get("lab") == "ept" and row.get("zap") in ("range", "none"):
        if wrong := sum(check["wrong"] for check in checks):
            return f"{wrong} WRONG MEMORY TYPES"
    return "LOST WRITES" if row.get("lost_writes") else ""


def counted(row: Row) -> str:
    """Which faults a prefault run must not have: where each deleted slot drops all
    mappings, firmware takes some."""
    zap_all = (row.get("query") or {}).get("slot-zap") == "all"
    return "ram_faults_os" if zap_all else "ram_faults"


def verdict(row: Row) -> str:
    """A word for the last column; a prefault run that faults has failed."""
    if "error" in row:
        return f"ERROR {row['error']}"[:100]
    wanted = EXIT_STATUS.get(row.get("scenario", ""))
    if wanted is not None:
        return "ok" if row["exit_status"] == wanted else f"EXIT STATUS {row['exit_status']}"
    if not row["booted"] and row.get("scenario") not in NO_BOOT:
        return "NOT BOOTED"
    if wrong := memory_types(row):
        return wrong
    if row.get("scenario") == "mtrr_stress" and row["loops"] <= 2 * row["vcpus"]:
        return "NOTHING HAPPENED"
    if row.get("scenario") == "state":
        # comparing makes the guest run on before slots have settled
        same = not row["differences"] or row.get("options", {}).get("spoil")
        return "ok" if same else "DIFFERENCES"
    if row["config"] == "prefault" and row[counted(row)]:
        return "FAULTS"
    return "ok"


def write(path: Path, host: Row, runs: list[Row]) -> None:
    """{"host": ..., "runs": [...]}, complete or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"host": host, "runs": runs}, indent=2) + "\n")
    part.rename(path)


def merge(path: Path, host: Row, rows: list[Row], key: tuple[str, ...]) -> list[Row]:
    """Add rows to a result file that several tests write; new ones win.  Returns all."""
    with exclusive(path.with_name(f".{path.name}.lock")):
        old = json.loads(path.read_text())["runs"] if path.exists() else []
        named = {tuple(row[k] for k in key): row for row in [*old, *rows]}
        write(path, host, list(named.values()))
        return list(named.values())
