# SPDX-License-Identifier: GPL-2.0-or-later
"""Sections that are tables: boots, support, population, and what tests have found."""

import collections
import importlib.util
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from framework import mmu as lab_mmu
from framework import results as lab_results
from framework import soak as lab_soak

from .load import Row
from .markup import Column, field, lists, number, paragraph, table
from .pictures import Part, has
from .text import NONE, count, fraction, milliseconds, pages, plural

ROOT = Path(__file__).resolve().parent.parent.parent
# Of a long list of failures the first ones are enough.
SHOWN = 50


def _script(name: str) -> ModuleType:
    """A script of ours as a module; it has no .py in its name."""
    path = ROOT / "scripts" / name
    loader = SourceFileLoader(name.replace("-", "_"), str(path))
    spec = ModuleSpec(loader.name, loader, origin=str(path))
    # the script looks at its own __file__
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _limited(caption: str, lines: list[str]) -> str:
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"and {len(lines) - SHOWN:,} more"]
    return lists(caption, lines)


def _verdict(row: Row) -> str:
    """The lab's, where the row has what that looks at."""
    try:
        return lab_results.verdict(row)
    except KeyError:
        return NONE


def _machine(row: Row) -> str:
    parts = [row.get("machine"), row.get("firmware")]
    return ", ".join(part for part in parts if part) or NONE


def boots(rows: list[Row]) -> list[Part]:
    """boot.json and matrix.json."""
    columns = [field("run", "name"), field("configuration", "config"), Column("machine", _machine),
               number("vCPUs", "smp", count), number("MiB", "mem_mib", count),
               Column("host pages", lambda row: pages(row.get("host_page_kib")), True),
               number("RAM faults", "ram_faults", count),
               number("above 1 MiB", "ram_faults_above_1m", count),
               *(number(title, name, milliseconds) for title, name in (
                   ("populate, ms", "populate_ms"), ("first touch, ms", "first_touch_ms"),
                   ("second touch, ms", "second_touch_ms"),
                   ("by a program, ms", "program_touch_ms"))), Column("result", _verdict)]
    good = sum(_verdict(row) == "ok" for row in rows)
    return [paragraph(f"{good} of {plural(len(rows), 'run')} without a mistake."),
            table("Boots", columns, rows)]


def _is_usable(script: ModuleType, row: Row) -> bool:
    try:
        return bool(script.lines([row]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def support(rows: list[Row]) -> list[Part]:
    """The same table as in the documentation, made by the same script."""
    script = _script("support-table")
    usable = [row for row in rows if _is_usable(script, row)]
    columns = [Column(title, itemgetter(str(at)), at >= 3)
               for at, title in enumerate(script.TITLES)]
    lines = [{str(at): cell for at, cell in enumerate(line)} for line in script.lines(usable)]
    left_out = len(rows) - len(usable)
    parts: list[Part] = [table("RAM faults with prefault=on", columns, lines, fold=False)]
    if left_out:
        parts.append(paragraph(f"{plural(left_out, 'run')} without the fields that this table "
                               "needs: left out."))
    return parts


def _over_host(row: Row, host: dict[tuple[Any, Any], float]) -> str:
    base = host.get((row.get("host_page_kib"), row.get("threads")))
    if not base or not has(row, "s_per_gib"):
        return NONE
    return f"{100 * (row['s_per_gib'] / base - 1):+.1f}"


def populate(rows: list[Row]) -> list[Part]:
    """Against the bare allocation of the same memory."""
    host = {(row.get("host_page_kib"), row.get("threads")): row["s_per_gib"] for row in rows
            if row.get("config") == "host" and row.get("s_per_gib")}
    columns = [field("population", "config"), number("threads", "threads", count),
               Column("host pages", lambda row: pages(row.get("host_page_kib")), True),
               number("s per GiB", "s_per_gib", fraction),
               Column("over host, %", lambda row: _over_host(row, host), True)]
    return [table("Seconds per GiB", columns, rows)]


def lifecycle(rows: list[Row]) -> list[Part]:
    """Each event's faults."""
    counted = [row for row in rows if has(row, "ram_faults")]
    zero = sum(row["ram_faults"] == 0 for row in counted)
    columns = [field("event", "event"), field("machine", "machine"),
               number("RAM faults", "ram_faults", count), field("run", "note")]
    return [paragraph(f"{zero:,} of {plural(len(counted), 'event')} without a RAM fault."),
            table("Events", columns, rows)]


def _change(rows: list[Row], name: str) -> str:
    values = [row[name] for row in rows if has(row, name)]
    return f"{count(values[0])} to {count(values[-1])}" if values else NONE


def soak(rows: list[Row]) -> list[Part]:
    """The first and the last round of each event."""
    shown = []
    for event in dict.fromkeys([*lab_soak.EVENTS, *(row.get("event") for row in rows)]):
        mine = [row for row in rows if row.get("event") == event]
        if mine:
            shown.append({"event": event, "rounds": len(mine),
                          "faults": sum(row.get("ram_faults") or 0 for row in mine),
                          **{name: _change(mine, name) for name in
                             ("rss_kib", "locked_kib", "fds", "threads", "ranges")}})
    columns = [field("event", "event"), number("rounds", "rounds", count),
               number("RAM faults", "faults", count),
               *(Column(title, itemgetter(name), True) for title, name in (
                   ("resident KiB", "rss_kib"), ("locked KiB", "locked_kib"),
                   ("descriptors", "fds"), ("threads", "threads"), ("ranges", "ranges")))]
    return [table("From the first round to the last", columns, shown)]


def faults(rows: list[Row]) -> list[Part]:
    """How many cases passed; the others by name."""
    passed = [row for row in rows if row.get("passed")]
    calls = collections.Counter((row.get("case") or {}).get("call", NONE) for row in rows)
    good = collections.Counter((row.get("case") or {}).get("call", NONE) for row in passed)
    lines = [{"call": call, "cases": number_of, "passed": good[call]}
             for call, number_of in sorted(calls.items())]
    columns = [field("call", "call"), number("cases", "cases", count),
               number("passed", "passed", count)]
    bad = [f"{row.get('id', NONE)}: {row.get('outcome', NONE)}: {row.get('wrong') or ''}"
           for row in rows if not row.get("passed")]
    return [paragraph(f"{len(passed):,} of {plural(len(rows), 'case')} passed."),
            _limited("Failed", bad), table("Cases by call", columns, lines, fold=False)]


def _tallied(outcome: str, row: Row) -> str:
    return count(row["tally"][outcome])


def _tally(rows: list[Row], names: dict[str, str]) -> str:
    """Results counted, one line for each combination of these fields."""
    tallies: dict[tuple[str, ...], collections.Counter[str]] = {}
    for row in rows:
        key = tuple(str(row.get(name) or NONE) for name in names)
        tallies.setdefault(key, collections.Counter())[row.get("result") or NONE] += 1
    outcomes = list(dict.fromkeys(name for tally in tallies.values() for name in tally))
    lines: list[Row] = [{**dict(zip(names, key)), "tally": tally}
                        for key, tally in tallies.items()]
    columns = [*(field(title, name) for name, title in names.items()),
               *(Column(name, partial(_tallied, name), True) for name in outcomes)]
    return table("Results", columns, lines)


def selftests(rows: list[Row]) -> list[Part]:
    """Counted, then what did not pass with our modules."""
    bad = [f"{row.get('name', NONE)}, Linux {row.get('kernel', NONE)}, {row.get('lab', NONE)}: "
           f"{row.get('result', NONE)}: {row.get('reason') or ''}" for row in rows
           if row.get("config") == "patched" and row.get("result") in ("fail", "timeout")]
    return [_tally(rows, {"kernel": "Linux", "lab": "lab", "config": "KVM"}),
            _limited("Not passed with patched modules", bad)]


def _counts(row: Row | None) -> str:
    """What is not zero, and costs."""
    if row is None:
        return NONE
    if row.get("result") not in ("pass", None):
        return str(row["result"])
    shown = [f"{name.replace('_', ' ')} {count(value)}"
             for name, value in (row.get("counts") or {}).items()
             if name in lab_mmu.COSTS and value]
    return ", ".join(shown) or "0"


def mmu(rows: list[Row]) -> list[Part]:
    """One line per statement and kernel, stock beside patched."""
    found = {(row.get("statement"), row.get("kernel"), row.get("config")): row for row in rows}
    lines = []
    for statement, kernel in dict.fromkeys(key[:2] for key in found):
        stock, patched = (found.get((statement, kernel, kvm)) for kvm in ("stock", "patched"))
        lines.append({"statement": (statement or NONE).replace("_", " "), "kernel": kernel,
                      "stock": _counts(stock), "patched": _counts(patched),
                      "mark": "worse" if (patched or {}).get("worse") else ""})
    worse = sum(line["mark"] == "worse" for line in lines)
    columns = [field("statement", "statement"), field("Linux", "kernel"),
               field("stock modules", "stock"),
               field("patched modules", "patched"), field("verdict", "mark")]
    return [paragraph(f"{worse} of {plural(len(lines), 'statement')} cost more with patched "
                      "modules."), table("Counts", columns, lines)]


def upstream(rows: list[Row]) -> list[Part]:
    """Cases of QEMU's own qtests, and those where the fork is worse."""
    script = _script("check-upstream")
    found: dict[str, dict[str, str]] = {name: {} for name in script.CONFIGS}
    for row in rows:
        if row.get("config") in found and row.get("result") in script.RANK and has(row, "name"):
            found[row["config"]][row["name"]] = row["result"]
    bad = script.worse(found["upstream"], found["fork"])
    return [paragraph(f"{len(bad)} of {plural(len(found['upstream']), 'case')} with a worse "
                      "result than upstream's."),
            _limited("Worse", bad), _tally(rows, {"config": "QEMU"})]


def debug(rows: list[Row]) -> list[Part]:
    """Guests and selftests under a debugging kernel."""
    bad = [f"{row.get('name', NONE)}: {row['result']}" for row in rows
           if row.get("result") not in ("ok", None)]
    good = sum(row.get("result") == "ok" for row in rows)
    return [paragraph(f"{good:,} of {plural(len(rows), 'run')} without a mistake and without an "
                      "unexpected report of the kernel."), _limited("Others", bad)]
