# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host does to a guest, and what it refuses it."""

import ctypes
import os
import re
import resource
import time
from pathlib import Path
from typing import Any

from ..guest import Guest, GuestError
from . import Context, scenario

SYS_MIGRATE_PAGES = 256
NOBODY = 65534


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
    """Make faults on purpose; the query must count what the tracepoint counts."""
    with context.guest().start() as guest:
        guest.boot()
        guest.wait_prefault(("ready",))
        trace, query = context.faults.counts()["ram_faults"], _query_faults(guest)
        for source, target in ((0, 1), (1, 0)):
            _migrate_pages(guest.process.pid, source, target)
            guest.ask(f"touch {context.spec.touched_mib // 2}")
        trace_after, query_after = context.faults.counts()["ram_faults"], _query_faults(guest)
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
        info = guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, "placement": placement, "query": info}


def _become_nobody(memlock: int) -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@scenario
def refused(context: Context) -> dict[str, Any]:
    """QEMU must end by itself; options.memlock_kib: as a user with that limit."""
    guest = context.guest()
    preexec = None
    if (kib := context.spec.options.get("memlock_kib")) is not None:
        os.chmod("/dev/kvm", 0o666)
        for path in (guest.work.parent, guest.work):
            os.chmod(path, 0o777)
        preexec = lambda: _become_nobody(kib * 1024)  # noqa: E731
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    with guest.start(console=False, preexec=preexec):
        status = guest.wait()
    seconds = time.monotonic() - start
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"exit_status": status, "message": guest.stderr().strip(),
            "end_seconds": round(seconds, 2),
            "cpu_seconds": round(cpu.ru_utime + cpu.ru_stime
                                 - usage.ru_utime - usage.ru_stime, 2)}


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
