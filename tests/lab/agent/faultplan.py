# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan by which host/fail-call.c lets calls fail: a file that QEMU maps."""

import errno
import mmap
import struct
from pathlib import Path
from typing import Any

SHIM = "/lab/fail-call.so"
FUNCTIONS = "/lab/fail-call.functions"

# struct plan of host/fail-call.h.
LAYOUT = struct.Struct("<IiIIIIIIQ40s40sQIIQII")
EVERY = 0x7fffffff
# The first call that fails may be the last of a piece of work, which is done then.
SEVERAL = 4
# Not errors, and what Python 3.11 does not know.
MORE_ERRORS = {"short": 0, "late": -1, "VMX operation": -2, "nested guest": -3, "EHWPOISON": 133}


class Plan:
    """One file for all QEMUs that are started with its environment."""

    def __init__(self, path: Path):
        path.write_bytes(bytes(LAYOUT.size))
        path.chmod(0o666)
        self._path = path
        self._wanted = 0
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), LAYOUT.size)

    def environment(self, leaks: bool = True) -> dict[str, str]:
        """ASan would like to be loaded before the shim, but does without.

        Leaks: whether what is not freed at the end counts.  A QEMU that refuses to start by
        exit() was once reported to leave objects of a QDict's size behind, perhaps answers of
        the monitor on stacks of coroutines; that has not been shown.
        """
        return {"LD_PRELOAD": SHIM, "FAIL_PLAN": str(self._path), "FAIL_FUNCTIONS": FUNCTIONS,
                "ASAN_OPTIONS": f"verify_asan_link_order=0:exitcode=99:detect_leaks={leaks:d}",
                "UBSAN_OPTIONS": "print_stacktrace=1"}

    def arm(self, call: str, error: str, first: int = 1, count: int = EVERY,
            anyone: bool = False, from_mib: int = 0, within: str = "", cpus: int = 0,
            late_ms: int = 0, one_page: bool = False) -> None:
        """Let call number first and the count - 1 after it fail, after late_ms.

        "short": they do half of what they were asked; "late": they are made after late_ms.
        Within: only those made by this function of ours, or by what it calls.
        """
        number = MORE_ERRORS[error] if error in MORE_ERRORS else getattr(errno, error)
        self.disarm()
        self._wanted = min(count, SEVERAL)
        self._map[:] = LAYOUT.pack(0, number, first, count, anyone, 0, 0, cpus, from_mib << 20,
                                   call.encode(), within.encode(), late_ms, one_page, 0, 0, 0, 0)
        self._map[0] = 1

    def disarm(self) -> None:
        """The counts stay."""
        self._map[0] = 0

    def arm_again(self) -> None:
        """As it was."""
        self._map[0] = 1

    @property
    def met(self) -> bool:
        """Whether as many calls have failed as asked for, or several."""
        return self.seen["failed"] >= self._wanted

    @property
    def seen(self) -> dict[str, Any]:
        """Calls that the plan is about since it was armed, and how many of them failed.

        Visits to SMM, and those after which a vCPU ran on without its nested state.
        """
        values = LAYOUT.unpack(self._map[:])
        return {"calls": values[5], "failed": values[6],
                "visits": values[-2], "violations": values[-1]}
