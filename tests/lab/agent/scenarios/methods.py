# SPDX-License-Identifier: GPL-2.0-or-later
"""Seconds per GiB of population by each method, next to the bare host pass.

The host pass is MADV_POPULATE_WRITE on as much memory, by as many threads, in the
same run.  The emulator's speed changes by a third from one round to the next, and a
round may be as lucky as another is not: so many rounds, by turns, and their median.
"""

import ctypes
import dataclasses
import mmap
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from .. import kvmhost
from ..guest import Guest, GuestError
from . import Context, scenario

MADV_POPULATE_WRITE = 23
MAP_HUGETLB = 0x40000
# cli; hlt; jump back
HALT = b"\xfa\xf4\xeb\xfd"
HUGE_SHIFT = {2048: 21 << 26, 1048576: 30 << 26}


class HostMemory:
    """Untouched memory as QEMU's backend would map it."""

    def __init__(self, mib: int, huge_kib: int):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        if huge_kib:
            flags |= MAP_HUGETLB | HUGE_SHIFT[huge_kib]
        self._size = mib << 20
        # A huge page more, so that the start can be where one begins.
        self._memory = mmap.mmap(-1, self._size + (0 if huge_kib else 2 << 20), flags=flags)
        at = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._start = (at + (2 << 20) - 1) & ~((2 << 20) - 1)
        self._errors: list[int] = []

    def _populate(self, offset: int, size: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.madvise(ctypes.c_void_p(self._start + offset), ctypes.c_size_t(size),
                        MADV_POPULATE_WRITE):
            self._errors.append(ctypes.get_errno())

    def populate(self, threads: int) -> float:
        """Seconds."""
        share = self._size // threads
        jobs = [threading.Thread(target=self._populate, args=(i * share, share))
                for i in range(threads)]
        start = time.monotonic()
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        seconds = time.monotonic() - start
        if self._errors:
            raise OSError(self._errors[0], "MADV_POPULATE_WRITE")
        return seconds


def _host(context: Context, threads: int) -> float:
    spec = context.spec
    huge = spec.host_page_kib if spec.backend == "hugetlb" else 0
    kvmhost.scrub(spec.mem_mib * 5 // 4 if not huge else 1)
    return HostMemory(spec.mem_mib, huge).populate(threads)


def _halting_firmware(context: Context) -> str:
    """It halts at the reset vector: SeaBIOS would change slots, and so cause passes."""
    path = Path(context.paths.work) / "halt.bin"
    path.write_bytes(bytes(0xfff0) + HALT.ljust(16, b"\0"))
    return str(path)


def _populate(guest: Guest) -> dict[str, Any]:
    """The query's answer after the first pass.

    Nothing is asked during that: the questions, this program and QEMU's main loop would
    take one of the CPUs from its threads.  So QMP is there before there is a machine.
    """
    guest.qmp.command("x-exit-preconfig", timeout=guest.left)
    state = "populating"
    while state == "populating":
        state = guest.qmp.wait_event("KVM_PREFAULT_STATUS", guest.left)["data"]["state"]
    return guest.qmp.command("query-kvm-prefault")


def _method(context: Context, method: str, threads: int) -> float:
    """How long the first pass takes; the guest itself is not needed."""
    spec = dataclasses.replace(
        context.spec, smp=threads,
        accel={"pin-ram": "off", "always-writable": "off", "prefault-method": method,
               "prefault-threads": str(threads)},
        args=[*context.spec.args, "-bios", _halting_firmware(context), "--preconfig"])
    kvmhost.scrub(spec.mem_mib * 5 // 4 if spec.backend != "hugetlb" else 1)
    guest = context.remember(Guest(spec, context.paths, f"guest{len(context.guests)}"))
    with guest.start():
        info = _populate(guest)
        guest.quit()
    found = info["state"], info["method"], info["threads"], info["passes"]
    if found != ("ready", method, threads, 1):
        raise GuestError(f"population by {method} with {threads} threads ended as {info}")
    return info["duration-us"] / 1e6


@scenario
def methods(context: Context) -> dict[str, Any]:
    """Each way with as many threads as options.threads says, options.rounds times by turns."""
    ways = ["host", "vcpu"]
    if kvmhost.kvm_extension(kvmhost.KVM_CAP_PRE_FAULT_MEMORY) > 0:
        ways.insert(1, "ioctl")
    times: dict[tuple[str, int], list[float]] = {
        (way, threads): [] for threads in context.spec.options["threads"] for way in ways}
    for number in range(context.spec.options["rounds"]):
        context.progress(f"round {number + 1} of {context.spec.options['rounds']}")
        for (way, threads), found in times.items():
            found.append(_host(context, threads) if way == "host"
                         else _method(context, way, threads))
    gib = context.spec.mem_mib / 1024
    return {"booted": False, "times": [
        {"config": way, "threads": threads, "host_page_kib": context.spec.host_page_kib,
         "s_per_gib": round(statistics.median(found) / gib, 4),
         "all": [round(t / gib, 4) for t in found]}
        for (way, threads), found in times.items()]}
