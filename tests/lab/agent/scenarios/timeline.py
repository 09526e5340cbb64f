# SPDX-License-Identifier: GPL-2.0-or-later
"""When a guest faults on its RAM: one boot, counted from its first instruction on.

host/naive-prefault.c, preloaded into QEMU, says when that is; with options.naive it
calls KVM_PRE_FAULT_MEMORY for each memory slot before.  All times are those of the
emulated host's CLOCK_MONOTONIC, the tracepoint's included.
"""

import bisect
import re
import time
from pathlib import Path
from typing import Any

from ..console import parse
from ..ftrace import NoFaults
from ..guest import Guest, GuestError
from . import Context, populate_ms, scenario

SHIM = "/lab/naive-prefault.so"
POINTS = 200
# What a fault of a guest of 256 MiB, one per 4 KiB page, needs several times over.
BUFFER_KIB = 16384
# The tracepoint's clock is read in another way than ours.
CLOCK_SLACK = 0.001
FW_CFG = re.compile(r"@(\d+\.\d+):fw_cfg_select ")


def _report(path: Path) -> dict[str, dict[str, str]]:
    """The library's lines by their first word."""
    if not path.exists():
        raise GuestError(f"{SHIM} was not loaded, or no vCPU has run: there is no {path}")
    lines = [parse(f"@@GUEST {text}") for text in path.read_text(encoding="ascii").splitlines()]
    return {line.name: line.values for line in lines if line}


def _naive_facts(said: dict[str, dict[str, str]], mem_mib: int) -> dict[str, Any]:
    """All slots have been populated, or this is not the naive way."""
    done = said.get("prefaulted", {"bytes": "0"})
    if "failed" in said or int(done["bytes"]) < mem_mib << 20:
        raise GuestError(f"KVM_PRE_FAULT_MEMORY did not populate {mem_mib} MiB: {said}")
    return {"config": "naive", "populate_ms": float(done["us"]) / 1000,
            "slots": int(done["slots"]), "naive_bytes": int(done["bytes"])}


def _firmware_end(log: Path) -> float | None:
    """The boot ROM's last access to what QEMU has for it: then the kernel runs."""
    found = FW_CFG.findall(log.read_text(encoding="ascii", errors="replace"))
    return float(found[-1]) - (time.time() - time.monotonic()) if found else None


def _moments(guest: Guest) -> dict[str, float]:
    """When the guest's program has started, and when it has touched memory twice."""
    moments = {}
    for line, name in (("boot", "linux_init"), ("touched", "touched")):
        guest.console.expect(line, guest.left)
        moments[name] = time.monotonic()
    guest.console.expect("ready", guest.left)
    return moments


def curve(times: list[float], start: float, end: float) -> list[list[float]]:
    """[seconds, faults so far], without points between others of the same height."""
    edges = [start + (end - start) * i / POINTS for i in range(1, POINTS + 1)]
    points = [[0.0, 0.0], *([round(edge - start, 4), bisect.bisect_right(times, edge)]
                            for edge in edges)]
    points[-1][1] = len(times)
    return [point for i, point in enumerate(points) if i in (0, POINTS) or not
            points[i - 1][1] == point[1] == points[i + 1][1]]


def _times(context: Context, start: float) -> list[float]:
    assert not isinstance(context.faults, NoFaults)
    times = context.faults.times()
    if times and times[0] < start - CLOCK_SLACK:
        raise GuestError(f"a fault on RAM at {times[0]:.6f} s, before the guest's first "
                         f"instruction at {start:.6f} s")
    return times


@scenario
def timeline(context: Context) -> dict[str, Any]:
    """Firmware, Linux, the touch of memory, power-off."""
    if isinstance(context.faults, NoFaults):
        raise GuestError(context.faults.reason)
    naive = {"NAIVE_PREFAULT": "1"} if context.spec.options.get("naive") else {}
    report = context.preload(SHIM, "FIRST_RUN", **naive)
    log = Path(context.paths.work) / "fw-cfg.log"
    log.unlink(missing_ok=True)
    context.faults.record(BUFFER_KIB)
    with context.guest(extra=["-trace", "fw_cfg_select", "-msg", "timestamp=on",
                              "-D", str(log)]).start() as guest:
        moments = _moments(guest)
        info = guest.prefault()
        status = guest.power_off()
        moments["end"] = time.monotonic()
    said = _report(report)
    start = float(said["first-run"]["us"]) / 1e6
    if (firmware_end := _firmware_end(log)) is not None:
        moments = {"firmware_end": firmware_end, **moments}
    times = _times(context, start)
    row = {"populate_ms": populate_ms(info), "query": info}
    if context.spec.options.get("naive"):
        row |= _naive_facts(said, context.spec.mem_mib)
    return {"booted": status == 0, **row, "faults": curve(times, start, moments["end"]),
            "phases": {name: round(at - start, 4) for name, at in moments.items()}}
