# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that fail, on purpose: faults.json as cases, runs and result rows."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any, Iterator

from . import results
from .config import LAB, Config, LabError

CASES = LAB / "faults.json"
EVERY = 0x7fffffff
# Cases that share one QEMU or one configuration; a host that dies takes these with it.
CASES_PER_RUN = 40

# Files of ours, as they are compiled into QEMU, and functions that others may call.
OUR_FILE = re.compile(r"kvm-prefault[\w-]*\.c$")
OUR_NAME = re.compile(r"(kvm_(arch_)?prefault|qmp_(query_)?kvm_prefault)")

# In the names of cases: before a vCPU does our work, and when it gets its state back.
WITHIN = {"": "", "kvm_arch_prefault_vcpu_enter": "entering",
          "kvm_arch_prefault_vcpu_leave": "leaving", "kvm_arch_prefault_leave_as": "leaving"}

Case = dict[str, Any]
Row = dict[str, Any]


def our_functions(qemu: Path) -> str:
    """Offsets of our functions in an unstripped QEMU, a line "START END NAME" of each.

    nm -p keeps the order of the symbol table, where local symbols follow their file's name.
    """
    text = subprocess.run(["nm", "-S", "-p", "-a", str(qemu)], capture_output=True, text=True,
                          timeout=120, check=True).stdout
    lines, ours = [], False
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == "a":
            ours = bool(OUR_FILE.match(words[2]))
        elif len(words) == 4 and words[2] in "tT":
            if (words[2] == "t" and ours) or OUR_NAME.match(words[3]):
                start, size = int(words[0], 16), int(words[1], 16)
                # without what the compiler adds to parts of a function
                name = words[3].split(".")[0]
                lines.append(f"{start:x} {start + size:x} {name[:39]}\n")
    return "".join(lines)


def functions_file(config: Config) -> Path:
    """Of the guests' QEMU, made again when that has been; nothing in it for upstream's."""
    target = config.work / f"functions-{'-'.join(config.qemu.parent.parts[-2:])}"
    if not target.exists() or target.stat().st_mtime < config.qemu.stat().st_mtime:
        target.write_text(our_functions(config.qemu), encoding="ascii")
    return target


def _times(text: str) -> tuple[int, int]:
    """First call that fails, and how many do."""
    word, _, number = text.partition(" ")
    kinds = {"always": (1, EVERY), "once": (1, 1), "at": (int(number or 1), 1),
             "from": (int(number or 1), EVERY)}
    if word not in kinds:
        raise LabError(f"{CASES}: times '{text}', must be one of {sorted(kinds)}")
    return kinds[word]


def _is_quick(patterns: list[str], words: set[str]) -> bool:
    return any(set(pattern.split()) <= words for pattern in patterns)


def _expected(row: Row, mode: str) -> list[str]:
    expect = row["expect"]
    one = expect[mode] if isinstance(expect, dict) else expect
    return one.split("|")


def _expand(row: Row) -> Iterator[Case]:
    """One case per combination of the lists."""
    for part, when, error, times, mode in itertools.product(
            row.get("vary", [""]), row["when"], row["errno"], row["times"], row["mode"]):
        first, count = _times(times)
        call = row["call"].format(part)
        accel = {"prefault": mode, "prefault-method": row["method"], **row["accel"]}
        more = " ".join(f"{k}={v}" for k, v in row["accel"].items())
        smp = f"{row['smp']} vCPUs" if row["smp"] > 1 else ""
        late = f"after {row['late_ms']} ms" if row["late_ms"] else ""
        page = "one page" if row["one_page"] else ""
        yield {"id": " ".join(filter(None, (
                   call, error, page, times, late, WITHIN[row["within"]], when, mode,
                   row["method"], smp, more))),
               "call": call, "errno": error, "times": times, "when": when, "mode": mode,
               "first": first, "count": count, "anyone": row["anyone"],
               "from_mib": row["from_mib"], "within": row["within"], "cpus": row["cpus"],
               "late_ms": row["late_ms"], "one_page": row["one_page"],
               "says": row["says"], "missing_mib": row["missing_mib"], "heals": row["heals"],
               "expect": _expected(row, mode),
               "spec": {"accel": accel, "smp": row["smp"], "mem_mib": row.get("mem_mib", 64),
                        "args": row["args"], "host_page_kib": row["host_page_kib"],
                        "options": {"quiet": row["quiet"]}},
               "quick": _is_quick(row["quick"], {part, when, error, mode, *times.split()})}


def load(path: Path = CASES) -> list[Case]:
    data = json.loads(path.read_text(encoding="utf-8"))
    cases = [case for row in data["rows"] for case in _expand({**data["defaults"], **row})]
    names = [case["id"] for case in cases]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise LabError(f"{path}: cases twice: {doubled}")
    return cases


def select(cases: list[Case], quick: bool, words: list[str]) -> list[Case]:
    """Those that have all the words in their id."""
    chosen = [case for case in cases if (case["quick"] or not quick)
              and all(word in case["id"] for word in words)]
    if not chosen:
        raise LabError(f"no case of {CASES.name} has {' '.join(words)} in its name")
    return chosen


def runs(cases: list[Case]) -> list[Row]:
    """Runs of the scenario "faults": one per configuration."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(json.dumps(case["spec"], sort_keys=True), []).append(case)
    parts = [group[at:at + CASES_PER_RUN] for group in groups.values()
             for at in range(0, len(group), CASES_PER_RUN)]
    return [_run(f"faults-{number}", part) for number, part in enumerate(parts, 1)]


def _run(name: str, cases: list[Case]) -> Row:
    """Cases of one configuration."""
    spec = cases[0]["spec"]
    return {"name": name, "scenario": "faults", "groups": ["faults"], "machine": "pc",
            "firmware": "seabios", "timeout": 1200, **spec,
            "options": {**spec["options"], "cases": cases}}


def result_rows(cases: list[Case], found: list[Row]) -> list[Row]:
    """Rows of faults.json; a case whose run gave no result has failed."""
    by_id = {row["id"]: row for run in found for row in run.get("cases", [])}
    errors = {case["id"]: run["error"] for run in found if "error" in run
              for case in run["options"]["cases"]}
    return [_result_row(case, by_id.get(case["id"]), errors.get(case["id"], ""))
            for case in cases]


def _result_row(case: Case, row: Row | None, error: str) -> Row:
    whole = {"id": case["id"],
             "case": {"call": case["call"], "errno": case["errno"], "mode": case["mode"],
                      "when": f"{case['when']}, {case['times']}"}}
    if row is None:
        return {**whole, "passed": False, "outcome": "none", "wrong": error or "no result"}
    return {**whole, **row, "passed": not row["wrong"]}


def table(rows: list[Row]) -> str:
    """What went wrong, and how many did not."""
    lines = [f"FAILED {row['id']}: {row['outcome']}: {row['wrong']}"
             for row in rows if not row["passed"]]
    passed = sum(row["passed"] for row in rows)
    return "\n".join([*lines, f"{passed} of {len(rows)} cases passed"])


def tap(rows: list[Row]) -> str:
    """The same for meson."""
    lines = [f"1..{len(rows)}"]
    for number, row in enumerate(rows, 1):
        lines.append(f"{'ok' if row['passed'] else 'not ok'} {number} {row['id']}")
        if not row["passed"]:
            lines.append(f"# {row['outcome']}: {row['wrong']}".replace("\n", " "))
    return "\n".join(lines)


def keep(path: Path, host: Row, rows: list[Row]) -> None:
    results.merge(path, host, rows, ("id",))
