# SPDX-License-Identifier: GPL-2.0-or-later
"""What moves a guest's pages, or unmaps them to try, and what pins keep."""

import array
import contextlib
import ctypes
import mmap
import re
import time
from pathlib import Path
from typing import Any, Callable, Iterator

from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .hostside import refused

SYS_MIGRATE_PAGES = 256
PAGE = 4096
SAMPLE = 8
PFN = (1 << 55) - 1
PRESENT = 1 << 63
KSM = Path("/sys/kernel/mm/ksm")
MERGED = Path("/proc/self/ksm_merging_pages")
SYSCTL = Path("/proc/sys")
DEBUGFS = Path("/sys/kernel/debug")
BALANCING = DEBUGFS / "sched/numa_balancing"


def _write(path: Path, value: str) -> None:
    path.write_text(value, encoding="ascii")


def migrate(guest: Guest, source: int, target: int) -> int:
    """migrate_pages(2), as migratepages(8) does; returns the pages left behind."""
    libc = ctypes.CDLL(None, use_errno=True)
    masks = [ctypes.c_ulong(1 << node) for node in (source, target)]
    left: int = libc.syscall(SYS_MIGRATE_PAGES, guest.process.pid, ctypes.c_ulong(64),
                             ctypes.byref(masks[0]), ctypes.byref(masks[1]))
    if left < 0:
        raise OSError(ctypes.get_errno(), "migrate_pages")
    return left


def _ram_address(guest: Guest) -> int:
    """Where QEMU has mapped the guest's RAM: the largest writable mapping."""
    maps = Path(f"/proc/{guest.process.pid}/maps").read_text(encoding="ascii")
    found = [(int(end, 16) - int(start, 16), int(start, 16)) for start, end in
             re.findall(r"^(\w+)-(\w+) rw", maps, re.MULTILINE)]
    size, address = max(found)
    if size < guest.spec.mem_mib << 20:
        raise GuestError(f"no mapping of {guest.spec.mem_mib} MiB: the largest has {size} bytes")
    return address


def _frames(guest: Guest) -> array.array:
    """Host page frame of each SAMPLEth page of the guest's RAM; 0 where none is mapped."""
    entries = array.array("Q")
    with open(f"/proc/{guest.process.pid}/pagemap", "rb") as pagemap:
        pagemap.seek(_ram_address(guest) // PAGE * 8)
        entries.fromfile(pagemap, (guest.spec.mem_mib << 20) // PAGE)
    return array.array("Q", (entry & PFN if entry & PRESENT else 0
                             for entry in entries[::SAMPLE]))


def _status_kib(guest: Guest, name: str) -> int:
    text = Path(f"/proc/{guest.process.pid}/status").read_text(encoding="ascii")
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) if match else 0


def _pins_held() -> int:
    """Pins that the whole host holds: one per page, or less for pages of a huge one."""
    # vmstat is exact only after each CPU's share has been added
    (SYSCTL / "vm/stat_refresh").read_text(encoding="ascii")
    text = Path("/proc/vmstat").read_text(encoding="ascii")
    counts = dict(re.findall(r"^nr_foll_pin_(\w+) (\d+)", text, re.MULTILINE))
    return int(counts["acquired"]) - int(counts["released"])


def _settle(held: int, seconds: float = 10) -> int:
    """Pins more than before; the kernel may let go a little after a process ends."""
    end = time.monotonic() + seconds
    while (more := _pins_held() - held) and time.monotonic() < end:
        time.sleep(0.1)
    return more


class _Ballast:
    """Memory with holes, which the guest gets before anything else, because they are small.

    Freed when the guest runs, it is the room that compaction moves pages to.
    """

    def __init__(self, mib: int, hole: int = 64 << 10):
        self._map = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                              | mmap.MAP_POPULATE)
        for start in range(0, mib << 20, 2 * hole):
            self._map.madvise(mmap.MADV_DONTNEED, start, hole)

    def free(self) -> None:
        self._map.close()


def _compact(context: Context, guest: Guest) -> None:
    for _ in range(context.spec.options.get("rounds", 2)):
        _write(SYSCTL / "vm/compact_memory", "1")


def _migrate_pages(context: Context, guest: Guest) -> None:
    for source, target in ((0, 1), (1, 0)):
        migrate(guest, source, target)


def _ksm(context: Context, guest: Guest) -> None:
    """Let it merge all that it may, which pages of ours that are alike are the proof of."""
    with mmap.mmap(-1, 256 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as alike:
        alike.madvise(mmap.MADV_MERGEABLE)
        alike.write(b"alike..." * (256 * PAGE // 8))
        _write(KSM / "sleep_millisecs", "0")
        _write(KSM / "pages_to_scan", "100000")
        _write(KSM / "run", "1")
        try:
            end = time.monotonic() + 20
            while int(MERGED.read_text(encoding="ascii")) < 128:
                if time.monotonic() > end:
                    raise GuestError("KSM did not merge what it was given")
                time.sleep(0.1)
        finally:
            _write(KSM / "run", "0")


def _mount_debugfs() -> None:
    if BALANCING.is_dir():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"debugfs", str(DEBUGFS).encode(), b"debugfs", 0, None) < 0:
        raise OSError(ctypes.get_errno(), "mounting debugfs")


def _numa_balancing(context: Context, guest: Guest) -> None:
    """As it would be after minutes: scans at once, and all memory each time."""
    _mount_debugfs()
    for name, value in (("scan_delay_ms", "1"), ("scan_period_min_ms", "1"),
                        ("scan_period_max_ms", "100"), ("scan_size_mb", "512")):
        _write(BALANCING / name, value)
    _write(SYSCTL / "kernel/numa_balancing", "1")
    try:
        end = time.monotonic() + context.spec.options.get("balance_seconds", 2)
        while time.monotonic() < end:
            guest.ask("touch 16")
    finally:
        _write(SYSCTL / "kernel/numa_balancing", "0")


MOVERS: dict[str, Callable[[Context, Guest], None]] = {
    "compaction": _compact,
    "KSM": _ksm,
    "NUMA balancing": _numa_balancing,
    "migrate_pages": _migrate_pages,
}


def _chosen(context: Context) -> Iterator[tuple[str, Callable[[Context, Guest], None]]]:
    for name in context.spec.options.get("movers", list(MOVERS)):
        yield name, MOVERS[name]


def _moved(before: array.array, after: array.array) -> int:
    return sum(a != b for a, b in zip(before, after))


@contextlib.contextmanager
def _sysctls(context: Context) -> Iterator[None]:
    """Values of options.sysctl, by path below /proc/sys, while the block runs."""
    paths = {SYSCTL / name: value
             for name, value in context.spec.options.get("sysctl", {}).items()}
    saved = {path: path.read_text(encoding="ascii") for path in paths}
    try:
        for path, value in paths.items():
            _write(path, value)
        yield
    finally:
        for path, value in saved.items():
            _write(path, value)


@scenario
def movers(context: Context) -> dict[str, Any]:
    """Per mover: guest pages that are elsewhere after it, and faults when they are touched."""
    _write(SYSCTL / "kernel/numa_balancing", "0")
    held = _pins_held()
    ballast = _Ballast(context.spec.options.get("ballast_mib", 256))
    with _sysctls(context), context.guest().start() as guest:
        guest.boot()
        ballast.free()
        info = guest.wait_prefault(("ready",))
        pinned = {name: _status_kib(guest, name) for name in ("VmPin", "VmLck")}
        steps = Steps(context)
        steps.mark("boot")
        frames = _frames(guest)
        for name, mover in _chosen(context):
            start = time.monotonic()
            mover(context, guest)
            guest.ask(f"touch {context.spec.touched_mib // 2}")
            before, frames = frames, _frames(guest)
            steps.mark(name, moved=_moved(before, frames),
                       seconds=round(time.monotonic() - start, 1))
        during = _pins_held() - held
        status = guest.power_off()
    return {"booted": status == 0, "events": steps.rows, "query": info, "status_kib": pinned,
            "pins": during, "pins_left": _settle(held), "message": guest.stderr().strip()}


def _pin_facts(guest: Guest, event: str) -> dict[str, Any]:
    info = guest.wait_prefault(("ready", "off"))
    return {"event": event, "pinned": info["pinned-bytes"],
            "vm_pin": _status_kib(guest, "VmPin") << 10}


@scenario
def pin_life(context: Context) -> dict[str, Any]:
    """What is pinned at boot, after a reset, with a DIMM, without it, after the end."""
    held = _pins_held()
    extra = ["-m", f"{context.spec.mem_mib}M,slots=1,maxmem=1G"]
    with context.guest(extra=extra).start() as guest:
        guest.boot()
        rows = [_pin_facts(guest, "boot")]
        guest.qmp.command("set-action", reboot="reset")
        guest.qmp.command("system_reset")
        guest.boot()
        rows.append(_pin_facts(guest, "system_reset"))
        guest.qmp.command("object-add", qom_type="memory-backend-ram", id="plugged",
                          size=128 << 20)
        guest.qmp.command("device_add", driver="pc-dimm", id="dimm", memdev="plugged",
                          addr=1 << 32)
        guest.ask("ping")
        rows.append(_pin_facts(guest, "plugged"))
        guest.qmp.command("device_del", id="dimm")
        guest.qmp.wait_event("DEVICE_DELETED", guest.left)
        rows.append(_pin_facts(guest, "unplugged"))
        guest.qmp.command("object-del", id="plugged")
        status = guest.quit()
    return {"booted": status == 0, "pin_events": rows, "pins_left": _settle(held)}


@scenario
def forbidden(context: Context) -> dict[str, Any]:
    """As "refused", with options.sysctl set to other values meanwhile."""
    with _sysctls(context):
        return refused(context)
