# SPDX-License-Identifier: GPL-2.0-or-later
""" "make bench-latency": how long single first accesses take, as rows, table and verdict."""

from typing import Any

from . import results

GROUP = "latency"
# With 4 KiB host pages, what prefault's 99.9th percentile of writes may be of stock's.
SHARE = 5
TIMES = ("p50_ns", "p99_ns", "p999_ns", "max_ns")

Row = dict[str, Any]


def result_rows(rows: list[Row]) -> list[Row]:
    """Rows of latency.json: one per configuration, page size and kind of access."""
    return [{**one, "mem_mib": row["mem_mib"], "lab": row.get("lab"),
             "kernel": row.get("kernel"), "kvm": row.get("kvm")}
            for row in rows for one in row.get("latencies", [])]


def _us(ns: float) -> str:
    return f"{ns / 1000:,.2f}"


def table(rows: list[Row]) -> str:
    """One line per row, in microseconds; "again" is a second access to the same pages."""
    lines = [["first access, us", "page, KiB", "config", "median", "99 %", "99.9 %", "worst",
              "again", "99.9 %", "faults", "samples"]]
    for row in sorted(rows, key=lambda r: (r["access"] != "write", r["host_page_kib"])):
        again = row["again"]
        faults = "-" if row["ram_faults"] is None else f"{row['ram_faults']:,}"
        lines.append([row["access"], str(row["host_page_kib"]), row["config"],
                      *(_us(row[name]) for name in TIMES), _us(again["p50_ns"]),
                      _us(again["p999_ns"]), faults, f"{row['samples']:,}"])
    return results.align(lines)


def _too_slow(rows: list[Row]) -> list[str]:
    """The promise, in numbers of one run on one host."""
    found = {row["config"]: row["p999_ns"] for row in rows
             if row["access"] == "write" and row["host_page_kib"] == 4}
    if not {"stock", "prefault"} <= set(found):
        return ["stock and prefault have not both been measured with 4 KiB host pages"]
    if found["prefault"] * SHARE <= found["stock"]:
        return []
    return [f"writes, 4 KiB host pages: 'p999_ns' of prefault is {found['prefault']:,.0f}, must "
            f"be at most 1/{SHARE} of stock's {found['stock']:,.0f}; run again on a machine "
            "that does nothing else, and look at 'rounds' in latency.json"]


def failures(rows: list[Row]) -> list[str]:
    """What makes the command fail, one text each."""
    bad = [f"{row['access']}, {row['host_page_kib']} KiB host pages: prefault took "
           f"{row['ram_faults']:,} RAM faults, must be 0" for row in rows
           if row["config"] == "prefault" and row["ram_faults"]]
    return bad + _too_slow(rows)
