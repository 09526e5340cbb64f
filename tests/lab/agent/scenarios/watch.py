# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings dropped behind QEMU's back: noticed, told, populated again."""

import functools
import time
from pathlib import Path
from typing import Any, Callable

from .. import dmalab
from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .pinning import migrate

BALANCING = Path("/proc/sys/kernel/numa_balancing")
EVENT = "KVM_PREFAULT_STATUS"
NOTE = "faults until what was dropped is mapped again"

# What it is called, and what does it.
Change = tuple[str, Callable[[Guest], None]]


def _mapped(info: dict[str, Any]) -> int:
    return sum(info["mapped"].values())


def _states(guest: Guest) -> list[dict[str, Any]]:
    """The events that have arrived, without those of progress."""
    guest.qmp.command("query-status")
    events = [event["data"] for event in guest.qmp.events if event["event"] == EVENT]
    return [event for number, event in enumerate(events)
            if number == 0 or event["state"] != events[number - 1]["state"]]


def _repaired(guest: Guest, passes: int, mapped: int) -> dict[str, Any]:
    """Wait until more passes because of losses have ended, and as much is mapped."""
    while True:
        info = guest.wait_prefault(("ready",))
        if info["repopulations"]["lost"] > passes and _mapped(info) >= mapped:
            return info
        if guest.left <= 0.1:
            raise GuestError(f"mappings were lost and nobody noticed: {info}")
        time.sleep(0.1)


def _lose(context: Context, changes: list[Change]) -> dict[str, Any]:
    """What QEMU says and does after each of the changes, what the guest faults on then."""
    steps = Steps(context)
    with context.guest().start() as guest:
        guest.boot()
        full = guest.wait_prefault(("ready",))
        steps.mark("boot", mapped=_mapped(full))
        info = full
        for name, change in changes:
            guest.qmp.forget_events(EVENT)
            start = time.monotonic()
            change(guest)
            info = _repaired(guest, info["repopulations"]["lost"], _mapped(full))
            steps.mark(name, note=NOTE, mapped=_mapped(info), states=_states(guest),
                       lost=info["repopulations"]["lost"], pass_ms=info["duration-us"] / 1000,
                       seconds=round(time.monotonic() - start, 1))
            guest.ask(f"touch {context.spec.touched_mib}")
            steps.mark(f"{name}, then touched")
        traced, info = context.faults.counts()["ram_faults"], guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, "events": steps.rows, "query": info, "traced": traced,
            "message": guest.stderr().strip()}


@scenario
def lost(context: Context) -> dict[str, Any]:
    """Pages go from node to node."""
    BALANCING.write_text("0", encoding="ascii")
    return _lose(context, [
        (f"moved from node {source} to {target}",
         functools.partial(migrate, source=source, target=target))
        for source, target in ((0, 1), (1, 0))])


@scenario
def dma(context: Context) -> dict[str, Any]:
    """A device with non-coherent DMA comes and goes: KVM drops all mappings each time."""
    dmalab.load()
    return _lose(context, [
        ("DMA started", lambda guest: dmalab.change(guest.process.pid, True)),
        ("DMA stopped", lambda guest: dmalab.change(guest.process.pid, False))])
