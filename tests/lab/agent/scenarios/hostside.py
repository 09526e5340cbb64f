# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host does to a guest, and what it refuses it."""

import ctypes
import re
import time
from pathlib import Path
from typing import Any

from ..guest import Guest, GuestError
from . import Context, scenario

SYS_MIGRATE_PAGES = 256


def _migrate_pages(pid: int, source: int, target: int) -> int:
    """Move a process's pages between nodes: drops every mapping KVM has."""
    libc = ctypes.CDLL(None, use_errno=True)
    masks = [ctypes.c_ulong(1 << node) for node in (source, target)]
    left = libc.syscall(SYS_MIGRATE_PAGES, pid, ctypes.c_ulong(64),
                        ctypes.byref(masks[0]), ctypes.byref(masks[1]))
    if left < 0:
        raise OSError(ctypes.get_errno(), "migrate_pages")
    return left


def _query_faults(guest: Guest) -> int:
    info = guest.prefault()
    if info is None or "faults-since-ready" not in info:
        raise GuestError(f"query-kvm-prefault has no faults-since-ready: {info}")
    return info["faults-since-ready"]


@scenario
def fault_counter(context: Context) -> dict[str, Any]:
    """Make faults on purpose; the query must count what the tracepoint counts.

    Between the two last readings nothing may fault: NUMA balancing is off and the
    guest is stopped, because its timer alone touches pages that were just moved.
    """
    Path("/proc/sys/kernel/numa_balancing").write_text("0", encoding="ascii")
    with context.guest().start() as guest:
        guest.boot()
        guest.wait_prefault(("ready",))
        trace, query = context.faults.counts()["ram_faults"], _query_faults(guest)
        for source, target in ((0, 1), (1, 0)):
            _migrate_pages(guest.process.pid, source, target)
            guest.ask(f"touch {context.spec.touched_mib // 2}")
        guest.qmp.command("stop")
        trace_after, query_after = context.faults.counts()["ram_faults"], _query_faults(guest)
        guest.qmp.command("cont")
        status = guest.power_off()
    return {"booted": status == 0, "before": [trace, query],
            "traced": trace_after - trace, "queried": query_after - query}


def _node_mib(pid: int) -> dict[str, dict[str, int]]:
    """MiB per node of the mappings with a bind policy, from numa_maps."""
    found: dict[str, dict[str, int]] = {}
    text = Path(f"/proc/{pid}/numa_maps").read_text(encoding="ascii")
    for line in text.splitlines():
        if match := re.search(r" (bind:\d+) ", line):
            page = int((re.search(r"kernelpagesize_kB=(\d+)", line) or ["", "4"])[1])
            mib = found.setdefault(match.group(1), {})
            for node, pages in re.findall(r" N(\d+)=(\d+)", line):
                mib[node] = mib.get(node, 0) + int(pages) * page // 1024
    return found


@scenario
def numa(context: Context) -> dict[str, Any]:
    """One backend per host node, bound: every page lies on its own node."""
    with context.guest().start() as guest:
        guest.boot()
        placement = _node_mib(guest.process.pid)
        # NUMA balancing takes ROM's mappings now and then, and QEMU maps them again
        info = guest.wait_prefault(("ready",))
        status = guest.power_off()
    return {"booted": status == 0, "placement": placement, "query": info}


def _resident_mib(pid: int) -> int:
    """The most that has been resident so far; 0 when the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) >> 10 if found else 0


def _end(guest: Guest) -> tuple[int, int]:
    """Exit status, and the most memory in MiB that was seen resident.

    Touching a guest's RAM takes much longer than it takes to look.  What the kernel tells of
    a process that has ended (ru_maxrss) has its parent's memory in it.
    """
    most = 0
    while guest.process.poll() is None and guest.left > 0.1:
        most = max(most, _resident_mib(guest.process.pid))
        time.sleep(0.01)
    return guest.wait(), most


@scenario
def refused(context: Context) -> dict[str, Any]:
    """QEMU must end by itself; what was resident says whether it touched memory first."""
    guest = context.guest()
    start = time.monotonic()
    with guest.start(console=False):
        status, resident = _end(guest)
    return {"exit_status": status, "message": guest.stderr().strip(),
            "end_seconds": round(time.monotonic() - start, 2), "resident_mib": resident}


@scenario
def paused(context: Context) -> dict[str, Any]:
    """Start with -S, ask, quit: for hosts on which guests do not run."""
    with context.guest(extra=["-S"]).start() as guest:
        info = guest.prefault()
        status = guest.quit()
    return {"booted": False, "exit_status": status, "query": info,
            "message": guest.stderr().strip()}


@scenario
def starved(context: Context) -> dict[str, Any]:
    """As "refused", on a host with only options.free_mib of memory left."""
    ballast = Path("/dev/shm/ballast")
    free = context.spec.options["free_mib"]
    try:
        with open(ballast, "wb") as file:
            block = bytes(1 << 20)
            while _available_mib() > free:
                file.write(block)
                file.flush()
        return refused(context) | {"free_mib": _available_mib()}
    finally:
        ballast.unlink(missing_ok=True)


def _available_mib() -> int:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(re.search(r"MemAvailable: +(\d+)", text)[1]) // 1024  # type: ignore[index]
