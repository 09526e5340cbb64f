# SPDX-License-Identifier: GPL-2.0-or-later
"""What "make check-debug" runs, and what it makes of the results."""

import dataclasses
from typing import Any

from . import debugkernel, host, results, selftests
from .config import DEFAULT_KERNEL, Config, load_matrix, select

# Reports that are provoked turn lockdep off, so they get a host of their own, first.
GROUPS = ("debug-provoke", "debug")
KEPT = ("name", "kernel", "scenario", "config", "machine", "smp", "mem_mib", "host_page_kib",
        "seconds", "ram_faults", "ram_faults_above_1m", "events", "trigger", "reason",
        "kernel_reports", "error")
# CONFIG_KVM_PROVE_MMU has tdp_mmu_zap_root() drop 1 GiB at once, on purpose: it is run for the
# kernel's reports, and what it finds is what that option says.  6.1 has no such option.
BY_DESIGN = {("6.12", "mmu_steps"): "in a recursion that cannot yield"}

Row = dict[str, Any]


def _kernel_of(run: Row) -> str:
    return run.get("kernel", DEFAULT_KERNEL)


def guests(group: str, kernels: list[str]) -> list[Row]:
    """The runs of a group on these kernels."""
    return [run for run in select(load_matrix(), [group]) if _kernel_of(run) in kernels]


def with_kernel(runs: list[Row], rows: list[Row]) -> list[Row]:
    """The series, where a guest's row has the release that ran."""
    return [{**row, "kernel": _kernel_of(run)} for run, row in zip(runs, rows)]


def run_selftests(config: Config, kernel: str,
                  listener: host.Listener) -> tuple[list[host.Outcome], list[Row]]:
    """The quick ones and all of ours; they take several times as long as elsewhere."""
    tests = [dataclasses.replace(test, seconds=test.seconds * debugkernel.SLOWNESS)
             for test in selftests.load(kernel, True, []) if test.quick or test.ours]
    outcomes, rows = selftests.run(config, kernel, "debug", tests, listener)
    reports = {row["name"]: row.get("kernel_reports", [])
               for outcome in outcomes for row in outcome.rows}
    return outcomes, [{**row, "scenario": "selftest",
                      "kernel_reports": reports.get(row["name"], [])} for row in rows]


def verdict(row: Row) -> str:
    """The agent has judged the kernel's log; the rest is as under any other kernel."""
    if row["scenario"] == "selftest":
        expected = BY_DESIGN.get((row["kernel"], row["name"]))
        if expected and expected in row["reason"]:
            return "ok"
        good = ("pass",) if row["ours"] else ("pass", "skip")
        return "ok" if row["result"] in good else f"{row['result'].upper()} {row['reason']}"[:100]
    if row["scenario"] == "provoke" and "error" not in row:
        return "ok"
    return results.verdict(unexplained(row))


def unexplained(row: Row) -> Row:
    """Without the faults of steps that say why there are some (dirty logging)."""
    steps = row.get("events", [])
    if not any("note" in step for step in steps):
        return row
    faults = {key: sum(step.get(key, 0) for step in steps if "note" not in step)
              for key in ("ram_faults", "ram_faults_os")}
    return {**row, **faults}


def first_report(row: Row) -> str:
    """Without the time; "-" where the kernel had nothing to say."""
    lines = row.get("kernel_reports")
    return lines[0].split("] ", 1)[-1][:70] if lines else "-"


def table(rows: list[Row]) -> str:
    """One line per run."""
    lines = [["run", "kernel", "RAM faults", "seconds", "kernel report", "result"]]
    for row in rows:
        faults = row.get("ram_faults")
        lines.append([row["name"], row["kernel"], "-" if faults is None else str(faults),
                      f"{row.get('seconds', 0):.0f}", first_report(row), verdict(row)])
    return results.align(lines)


def kept(rows: list[Row]) -> list[Row]:
    """Rows for debug.json."""
    return [{**{key: row[key] for key in KEPT if key in row}, "result": verdict(row)}
            for row in rows]


def reports(rows: list[Row]) -> str:
    """The text of every report that nobody had asked for."""
    parts = [[f"{row['name']}: {verdict(row)}", *row["kernel_reports"]] for row in rows
             if row.get("kernel_reports") and verdict(row) != "ok"]
    return "\n".join(line for part in parts for line in part)
