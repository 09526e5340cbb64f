# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM selftests of the kernel's tree on stock and on patched modules of one kernel."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import debugkernel, host, initramfs, modules, results
from .config import LAB, PATCHED_KERNELS, Config, LabError
from .emulator import Machine

TABLE = LAB / "selftests.json"
CONFIGS = ("stock", "patched")
# set_memory_region_test adds all the slots there can be: no end in 12 minutes under Bochs.
LABS = ("npt", "ept")
BAD = ("fail", "timeout")
HOST_MEM_MIB = 2560
# More than one is unreliable, see README.rst.
HOST_CPUS = 1
KEY = ("name", "kernel", "lab", "config")
FIELDS = (*KEY, "result", "seconds", "reason")

Row = dict[str, Any]


@dataclass(frozen=True)
class Selftest:
    """A row of selftests.json; without "command" the test has no arguments."""

    name: str
    seconds: int
    command: str = ""
    kernels: list[str] = field(default_factory=lambda: list(PATCHED_KERNELS))
    labs: list[str] = field(default_factory=lambda: list(LABS))
    quick: bool = False
    ours: bool = False
    huge_mib: int = 0
    cpus: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    kvm_parameters: dict[str, str] = field(default_factory=dict)

    @property
    def argv(self) -> list[str]:
        return (self.command or self.name).split()

    @property
    def binary(self) -> str:
        return self.argv[0]

    def run(self) -> Row:
        """The run that the agent gets."""
        command = [f"/lab/selftests/{self.binary}", *self.argv[1:]]
        return {"name": self.name, "scenario": "selftest", "timeout": self.seconds + 60,
                "backend": "hugetlb" if self.huge_mib else "ram",
                "options": {"command": command, "limit": self.seconds,
                            "huge_mib": self.huge_mib, "settings": self.settings}}


def load(kernel: str, full: bool, names: list[str]) -> list[Selftest]:
    """The tests for a kernel: those named, else the quick ones, else all."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    tests = [Selftest(**row) for row in rows]
    if unknown := set(names) - {test.name for test in tests}:
        raise LabError(f"no selftest {', '.join(sorted(unknown))} in {TABLE.name}")
    return [test for test in tests if kernel in test.kernels
            and (test.name in names if names else full or test.quick)]


class Image(initramfs.HostImage):
    """An emulated host with the selftests; "stock" has the same kernel as "patched"."""

    def __init__(self, config: Config, kernel: str, kvm: str, binaries: dict[str, Path]):
        super().__init__(config, "patched" if kvm == "stock" else kvm, kernel)
        if kvm == "stock":
            self._patched = {}
        self.path = config.work / f"host-selftests-{kernel}-{kvm}.cpio"
        self._binaries = binaries

    def _collect(self) -> None:
        super()._collect()
        for name, path in self._binaries.items():
            self._files[f"/lab/selftests/{name}"] = path


class SelftestHost(host.EmulatedHost):
    """The emulated host of any lab, with another image."""

    def __init__(self, config: Config, machine: Machine, image: Image):
        super().__init__(config, machine)
        self._image = image


def directory(config: Config, kernel: str) -> Path:
    return config.build / "kvm" / kernel / "selftests"


def unbuilt(config: Config, kernel: str) -> dict[str, str]:
    """Why a test has no binary, by test."""
    path = directory(config, kernel) / "unbuilt"
    if not path.is_file():
        raise LabError(f"{path} does not exist: run 'scripts/kvm-selftests {kernel}'")
    return dict(line.split(": ", 1) for line in path.read_text().splitlines())


def _host_row(test: Selftest, outcome: host.Outcome) -> Row:
    row = outcome.row(test.name)
    if "error" in row:
        return {"result": "fail", "seconds": 0, "reason": row["error"], "lost": True,
                "output": [row.get("traceback", "")], "kernel_log": outcome.log}
    return {"result": row["result"], "seconds": row["seconds_of_test"],
            "reason": row["reason"], "output": row["output"], "kernel_log": row["kernel_log"]}


def by_parameters(tests: list[Selftest]) -> list[list[Selftest]]:
    """Tests that want KVM's modules loaded alike share an emulated host."""
    groups: dict[tuple[tuple[str, str], ...], list[Selftest]] = {}
    for test in tests:
        groups.setdefault(tuple(sorted(test.kvm_parameters.items())), []).append(test)
    return list(groups.values())


def run(config: Config, kernel: str, kvm: str, tests: list[Selftest],
        listener: host.Listener) -> tuple[list[host.Outcome], list[Row]]:
    """All tests, on one emulated host for each way to load KVM's modules."""
    outcomes, rows = [], []
    for group in by_parameters(tests):
        outcome, found = _run_group(config, kernel, kvm, group, listener)
        outcomes.append(outcome)
        rows += found
    return outcomes, rows


def _run_group(config: Config, kernel: str, kvm: str, tests: list[Selftest],
               listener: host.Listener) -> tuple[host.Outcome, list[Row]]:
    """On one emulated host; a test without a binary is a named skip."""
    parameters = tests[0].kvm_parameters
    missing, bin_dir = unbuilt(config, kernel), directory(config, kernel) / "bin"
    reasons = {test.name: f"not built: {missing.get(test.binary, 'not in this kernel')}"
               for test in tests if not (bin_dir / test.binary).is_file()}
    reasons |= {test.name: f"needs {test.cpus} host CPUs, the emulated host has {HOST_CPUS}"
                for test in tests if test.cpus > HOST_CPUS}
    reasons |= {test.name: f"takes too long in the lab {config.lab}"
                for test in tests if config.lab not in test.labs}
    present = [test for test in tests if test.name not in reasons]
    image = Image(config, kernel, kvm, {test.binary: bin_dir / test.binary for test in present})
    append = debugkernel.command_line(kernel, parameters) if kvm == "debug" else ""
    machine = Machine(cpus=HOST_CPUS, mem_mib=HOST_MEM_MIB, append=append, kvm=kvm,
                      kernel=kernel)
    outcome = SelftestHost(config, machine, image).run(
        {"runs": [test.run() for test in present], "kvm_parameters": parameters}, listener)
    rows = []
    for test in tests:
        why = reasons.get(test.name)
        found = ({"result": "skip", "seconds": 0, "reason": why, "output": [], "kernel_log": []}
                 if why else _host_row(test, outcome))
        rows.append({"name": test.name, "kernel": kernel, "lab": config.lab, "config": kvm,
                     "ours": test.ours, **found})
    return outcome, rows


def run_all(config: Config, kernel: str, tests: list[Selftest],
            listener: host.Listener) -> tuple[list[host.Outcome], list[Row]]:
    """Stock, then patched; results are kept in selftests.json, output of failures in lab/."""
    if config.lab == "host":
        raise LabError("the selftests need modules exchanged: use --lab npt")
    modules.patched(config, kernel)
    outcomes, rows = [], []
    for kvm in CONFIGS:
        ended, found = run(config, kernel, kvm, tests, listener)
        outcomes += ended
        rows += found
    for row in rows:
        _keep_output(config, row)
    results.merge(config.results / "selftests.json", outcomes[-1].host,
                  [{k: row[k] for k in FIELDS} for row in rows], KEY)
    return outcomes, rows


def _keep_output(config: Config, row: Row) -> None:
    name = f"{row['kernel']}-{row['lab']}-{row['config']}-{row['name']}.log"
    path = config.work / "selftests" / name
    path.unlink(missing_ok=True)
    if row["result"] in BAD:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([row["reason"], "", *row["output"], "",
                                   "kernel log:", *row["kernel_log"], ""]))


def regressions(rows: list[Row]) -> list[str]:
    """What patched modules break, our own tests that they do not pass, and lost runs."""
    stock = {row["name"]: row["result"] for row in rows if row["config"] == "stock"}
    bad = []
    for row in rows:
        if row.get("lost"):
            bad.append(f"{row['name']}: no result with {row['config']} modules: {row['reason']}")
            continue
        if row["config"] != "patched" or row["result"] == "pass":
            continue
        worse = row["result"] in BAD and stock.get(row["name"]) not in BAD
        if worse or row["ours"]:
            bad.append(f"{row['name']}: {row['result']} with patched modules "
                       f"({stock.get(row['name'], 'not run')} with stock): {row['reason']}")
    return bad


def table(rows: list[Row]) -> str:
    """One line per test, one column per kernel, lab and configuration; then the reasons."""
    columns = list(dict.fromkeys((r["kernel"], r["lab"], r["config"]) for r in rows))
    cells = {(r["name"], r["kernel"], r["lab"], r["config"]):
             f"{r['result']} {r['seconds']:5.1f} s" for r in rows}
    lines = [["selftest", *(" ".join(column) for column in columns)]]
    for name in dict.fromkeys(row["name"] for row in rows):
        lines.append([name, *(cells.get((name, *column), "-") for column in columns)])
    reasons = [f"{r['name']}, {r['config']}: {r['result']}: {r['reason']}"
               for r in rows if r["result"] != "pass"]
    return "\n".join([results.align(lines), *reasons])
