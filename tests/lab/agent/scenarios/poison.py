# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of guest RAM whose memory has failed: it costs one page, not the guest."""

import contextlib
import re
from pathlib import Path
from typing import Any, Iterator

from ..guest import Guest, GuestError
from ..hole import AT_MIB, SMALL_MIB, with_hole
from . import Context, Steps, scenario
from .harm import LOST_NOTE, facts, mapped, query, wait_for
from .lifecycle import live, reset_guest

MEMORY = Path("/sys/devices/system/memory")
KHUGEPAGED = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs")
# In the middle of what the guest's kernel leaves alone; not at a boundary of any page size.
POISONED_AT = (AT_MIB + SMALL_MIB // 2 << 20) + 0x5000
# Pages that the guest does use, a MiB from each other.
MOVED_FROM, MOVED = 64 << 20, 32
# Five times as long as a pass takes that leaves four fifths of the time to the guest.
PAUSE_OF_REPAIRS = 90
LOST = "mappings were lost"
ADDRESS = re.compile(r"is (0x\w+)")


def _host_address(guest: Guest, address: int) -> int:
    """Where the host has this guest-physical address."""
    text = guest.qmp.command("human-monitor-command", command_line=f"gpa2hpa {address:#x}")
    if not (found := ADDRESS.search(text)):
        raise GuestError(f"gpa2hpa {address:#x}: {text}")
    return int(found[1], 16)


def _take_out_of_use(guest: Guest, address: int, how: str) -> None:
    host = _host_address(guest, address)
    (MEMORY / f"{how}_offline_page").write_text(f"{host:#x}", encoding="ascii")


def _move(guest: Guest) -> int:
    """The kernel gives up pages that had errors it could correct; returns how many moved."""
    moved = 0
    for address in range(MOVED_FROM, MOVED_FROM + (MOVED << 20), 1 << 20):
        before = _host_address(guest, address)
        _take_out_of_use(guest, address, "soft")
        moved += _host_address(guest, address) != before
    return moved


def _noticed(info: dict[str, Any]) -> bool:
    """A pass has found that something cannot be mapped, and no other is due."""
    return (info["state"] == "partial" and info["populated-bytes"] < info["total-bytes"]
            and not any(LOST in reason for reason in info["reasons"]))


def _poison(guest: Guest, steps: Steps) -> dict[str, Any]:
    _take_out_of_use(guest, POISONED_AT, "hard")
    info = wait_for(guest, _noticed, PAUSE_OF_REPAIRS)
    steps.mark("page poisoned", note=LOST_NOTE, **facts(info))
    guest.ask("check")
    guest.ask(f"touch {guest.spec.touched_mib // 2}")
    steps.mark("page poisoned, then touched")
    return info


def _events(_context: Context, guest: Guest, steps: Steps) -> None:
    guest.ask(f"hold {guest.spec.touched_mib // 4}")
    left = mapped(_poison(guest, steps))
    moved = _move(guest)
    info = wait_for(guest, lambda info: _noticed(info) and mapped(info) >= left,
                    PAUSE_OF_REPAIRS)
    steps.mark("page poisoned, others moved", note=LOST_NOTE, moved=moved, **facts(info))
    guest.ask("check")
    guest.ask(f"touch {guest.spec.touched_mib // 2}")
    steps.mark("page poisoned, others moved, then touched")
    reset_guest(guest)
    steps.mark("page poisoned, system_reset", **facts(guest.wait_prefault(("ready",))))


@contextlib.contextmanager
def _nobody_merges() -> Iterator[None]:
    """khugepaged would drop mappings when it makes huge pages again of those that were split."""
    before = KHUGEPAGED.read_text(encoding="ascii")
    KHUGEPAGED.write_text(str(3600 * 1000), encoding="ascii")
    try:
        yield
    finally:
        KHUGEPAGED.write_text(before, encoding="ascii")


@scenario
def poisoned(context: Context) -> dict[str, Any]:
    """The guest leaves the page alone; QEMU is told, and nobody else must touch it either."""
    context.spec = with_hole(context.spec)
    with _nobody_merges():
        return live(context, _events)
