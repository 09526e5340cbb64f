# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's MTRR module and the program that uses it, on the emulated host."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

MODULE = Path("/lab/modules/mtrr-lab.ko")
PROGRAM = "/lab/mtrr"
DEVICE = Path("/dev/mtrr-lab")
STEPS = Path("/sys/module/kvm/parameters/mtrr_zap_steps")
KALLSYMS = Path("/proc/kallsyms")

# The names of results: what is asked of KVM_CAP_MTRR_ZAP, and mtrr_zap_steps with it
# (1: batches, 2: ranges, 4: the shared lock).  A stock KVM is not asked.
ALL_STEPS = 7
ZAPS = {"stock": ("stock", ALL_STEPS), "full": ("full", ALL_STEPS), "toggle": ("range", 0),
        "batch": ("range", 1), "ranges": ("range", 2), "shared": ("range", 4),
        "batch-ranges": ("range", 3), "range": ("range", ALL_STEPS),
        "none": ("none", ALL_STEPS)}


def _honor() -> list[str]:
    """For NPT: where KVM's variable lies that says whether there are memory types."""
    match = re.search(r"^(\w+) \w shadow_memtype_mask(?:\t\[kvm\])?$",
                      KALLSYMS.read_text(encoding="ascii"), re.M)
    if match is None:
        raise RuntimeError(f"{KALLSYMS} has no shadow_memtype_mask of kvm")
    return [f"honor=0x{match[1]}"]


def has_memory_types() -> bool:
    """EPT has them; what NPT has in the same bits is something else."""
    return Path("/sys/module/kvm_intel").is_dir()


def load() -> None:
    """Insert the module, once; on a host without memory types KVM is told to have them."""
    if DEVICE.exists():
        return
    if not MODULE.exists():
        raise RuntimeError("the lab's module is not in the image of this host: run "
                           "'scripts/kvm-lab-module 6.1' (there is none for other kernels)")
    words = [] if has_memory_types() else _honor()
    subprocess.run(["/bin/busybox", "insmod", str(MODULE), *words], check=True, timeout=60)


def choose(zap: str) -> str:
    """Set what mode range consists of; returns the mode to ask for."""
    mode, steps = ZAPS[zap]
    if STEPS.exists():
        STEPS.write_text(str(steps), encoding="ascii")
    elif zap != "stock":
        raise RuntimeError(f"'{zap}' needs our KVM modules, this host has stock ones")
    return mode


def warm_up(mode: str) -> None:
    """The emulator translates code when it first runs, which must not be measured."""
    run("burst", mode, "2", "16", "2", limit=120)


def run(*words: str, limit: float) -> dict[str, Any]:
    """The program's result; {} from commands that have none."""
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True,
                          timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(f"mtrr {' '.join(words)}: status {done.returncode}: "
                           f"{done.stderr.strip()[-1000:]}")
    return json.loads(done.stdout) if done.stdout.strip() else {}
