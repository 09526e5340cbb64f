# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are, and the matrix of runs (machines.json)."""

import contextlib
import fcntl
import itertools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

LAB = Path(__file__).resolve().parent.parent
SOURCE = LAB.parent.parent
MATRIX = LAB / "machines.json"
SYSTEM_PYTHON = Path("/usr/bin/python3")
KERNELS = ("6.1", "6.12", "7.3")
DEFAULT_KERNEL = "6.12"
# Those that have modules of ours; scripts/kvm-lib.sh goes by the same.
PATCHED_KERNELS = tuple(series for series in KERNELS
                        if (SOURCE / "patches" / "kvm" / f"linux-{series}").is_dir())


class LabError(Exception):
    """Something that the user can put right; the message says how."""


@dataclass
class Config:
    """The files that a lab is made of."""

    build: Path
    qemu: Path
    qemu_img: Path
    emulator: Path | None
    lab: str = "npt"
    keep: bool = False
    verbose: bool = True

    @property
    def qemu_upstream(self) -> Path:
        """The unchanged QEMU of 'make stock'."""
        return self.build / "stock" / "qemu" / "qemu-system-x86_64"

    @property
    def work(self) -> Path:
        return self.build / "lab"

    @property
    def results(self) -> Path:
        return self.build / "results"

    @property
    def host_validate(self) -> Path:
        """Built by 'make host-validate'; only the rows of its own need it."""
        return self.build / "prefault-host-validate"

    @property
    def cache(self) -> Path:
        return self.build / "cache"

    def say(self, text: str) -> None:
        if self.verbose:
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One thread of one process at a time; tests run beside each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def configure(build: str | None = None, lab: str = "npt", qemu: str | None = None,
              emulator: str | None = None, keep: bool = False,
              verbose: bool = True) -> Config:
    """Fill in what is not given; QEMU must have been built."""
    directory = Path(build or os.environ.get("BUILD_DIR") or SOURCE / "build").resolve()
    binary = Path(qemu or directory / "qemu" / "qemu-system-x86_64").resolve()
    if not os.access(binary, os.X_OK):
        raise LabError(f"{binary} does not exist: run './configure && ninja -C build' "
                       "first, or name a QEMU with --qemu")
    return Config(build=directory, qemu=binary, qemu_img=binary.with_name("qemu-img"),
                  emulator=Path(emulator).resolve() if emulator else None,
                  lab=lab, keep=keep, verbose=verbose)


def check_patches(series: str, wanted: str) -> None:
    """KVM of ours needs a queue for that kernel."""
    if series not in PATCHED_KERNELS:
        raise LabError(f"there are no KVM patches for Linux {series} yet, but {wanted} needs "
                       f"them: use the stock KVM, or Linux {' or '.join(PATCHED_KERNELS)}")


def on_kernel(runs: list[dict[str, Any]], series: str) -> list[dict[str, Any]]:
    """The runs with that kernel, unless one is about another or needs what it lacks."""
    if others := [run["name"] for run in runs if run.get("kernel", series) != series]:
        raise LabError(f"{', '.join(others)}: the row has a kernel of its own, which is not "
                       f"{series}")
    for run in runs:
        if run.get("kvm", "stock") != "stock":
            check_patches(series, f"'{run['name']}' ('kvm: {run['kvm']}')")
    return [{**run, "kernel": series} for run in runs]


def _expand(row: dict[str, Any], defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One run per combination of the lists in "vary"; names are made of them."""
    vary = row.get("vary", {})
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values))
        run = {**defaults, **{k: v for k, v in row.items() if k != "vary"}, **chosen}
        run["name"] = row["name"].format(**run)
        run["groups"] = run["groups"].split()
        yield run


def load_matrix(path: Path = MATRIX) -> list[dict[str, Any]]:
    """All runs of machines.json, in its order; names are unique."""
    data = json.loads(path.read_text(encoding="utf-8"))
    runs = [run for row in data["rows"] for run in _expand(row, data["defaults"])]
    names = [run["name"] for run in runs]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise LabError(f"{path}: names used twice: {sorted(doubled)}")
    return runs


def select(runs: list[dict[str, Any]], words: list[str]) -> list[dict[str, Any]]:
    """Runs by name or by group, in the order of the matrix."""
    chosen = [run for run in runs if run["name"] in words or set(run["groups"]) & set(words)]
    known = {run["name"] for run in runs} | {g for run in runs for g in run["groups"]}
    if unknown := [word for word in words if word not in known]:
        raise LabError(f"no run or group {', '.join(map(repr, unknown))}; "
                       "'lab list' shows both")
    return chosen
