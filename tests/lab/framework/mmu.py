# SPDX-License-Identifier: GPL-2.0-or-later
""" "make bench-mmu": what the KVM selftests of the MMU count, stock and patched modules."""

from typing import Any

from . import host, modules, results, selftests
from .config import PATCHED_KERNELS, Config

PREFIX = "mmu_"
# These depend on when things happen: only whether the test passes says something.
TIMED = ("zap_pressure", "live_tables")
# More of these is worse; the rest says how much was done.
COSTS = ("shadow_pages_looked_up", "shadow_pages_synced", "shadow_pages_created",
         "shadow_pages_zapped", "flush_requests", "faults", "faults_afterwards",
         "vcpu_tlb_flushes", "parents_marked", "pages_unmapped_without_yield")

Row = dict[str, Any]


def statements(kernel: str) -> list[selftests.Selftest]:
    """The selftests that count something in the MMU."""
    return [test for test in selftests.load(kernel, True, []) if test.name.startswith(PREFIX)]


def counts(output: list[str]) -> dict[str, int]:
    """The lines "count NAME VALUE" of a test's output."""
    words = [line.split() for line in output if line.startswith("count ")]
    return {name: int(value) for _, name, value in words}


def cost(row: Row, name: str) -> int:
    """A count; where a test counts yields, flushes beyond one and one for each of them."""
    value: int = row["counts"].get(name, 0)
    if name == "flush_requests" and "yields" in row["counts"]:
        return max(value - row["counts"]["yields"] - 1, 0)
    return value


def worse(patched: Row, stock: Row) -> bool:
    """Patched modules fail where stock ones pass, or cost more in any way."""
    if patched["result"] != "pass" and stock["result"] == "pass":
        return True
    if patched["statement"] in TIMED or "skip" in (patched["result"], stock["result"]):
        return False
    return any(cost(patched, name) > cost(stock, name) for name in COSTS)


def _rows(found: list[Row]) -> list[Row]:
    rows = [{"statement": row["name"].removeprefix(PREFIX), "kernel": row["kernel"],
             "config": row["config"], "lab": row["lab"], "result": row["result"],
             "reason": row["reason"], "counts": counts(row["output"]), "worse": False}
            for row in found]
    stock = {row["statement"]: row for row in rows if row["config"] == "stock"}
    for row in rows:
        if row["config"] == "patched":
            row["worse"] = worse(row, stock[row["statement"]])
    return rows


def run(config: Config, listener: host.Listener) -> tuple[list[host.Outcome], list[Row]]:
    """All statements, on every kernel, with stock and with patched modules."""
    outcomes, rows = [], []
    for kernel in PATCHED_KERNELS:
        modules.patched(config, kernel)
        found: list[Row] = []
        for kvm in selftests.CONFIGS:
            ended, more = selftests.run(config, kernel, kvm, statements(kernel), listener)
            outcomes += ended
            found += more
        rows += _rows(found)
    return outcomes, rows


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row["result"] == "skip":
        return "skip"
    shown = [f"{name} {value:,}" for name, value in row["counts"].items()
             if name in COSTS and value]
    return ", ".join([*shown, *(["FAIL"] if row["result"] != "pass" else [])]) or "0"


def table(rows: list[Row]) -> str:
    """One line per statement and kernel: what is not zero."""
    by = {(row["statement"], row["kernel"], row["config"]): row for row in rows}
    lines = [["statement", "kernel", "stock", "patched", ""]]
    for statement, kernel in dict.fromkeys(key[:2] for key in by):
        pair = [by.get((statement, kernel, kvm)) for kvm in selftests.CONFIGS]
        mark = "WORSE" if pair[1] and pair[1]["worse"] else ""
        lines.append([statement, kernel, _cell(pair[0]), _cell(pair[1]), mark])
    return results.align(lines)


def failures(rows: list[Row]) -> list[str]:
    """What patched modules must not do: fail a statement, or cost more than stock ones."""
    bad = []
    for row in rows:
        name = f"{row['statement']}, {row['kernel']}"
        if row["config"] == "patched" and row["result"] != "pass":
            bad.append(f"{name}: {row['result']} with patched modules: {row['reason']}")
        elif row["worse"]:
            bad.append(f"{name}: patched modules cost more than stock ones: {row['counts']}")
    return bad
