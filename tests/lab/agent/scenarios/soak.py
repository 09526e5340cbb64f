# SPDX-License-Identifier: GPL-2.0-or-later
"""The same events hundreds of times; nothing may become more."""

import os
from pathlib import Path
from typing import Any, Callable

from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .migrate import wait_migration

DIMM_MIB = 64
DIMM_AT = 1 << 32
# Events, and the option that says how often.
EVENTS = {"guest reboot": "reboots", "plug, unplug": "plugs", "migration": "migrations"}

Row = dict[str, Any]


def _holds(guest: Guest) -> Row:
    """What a leak would show in: memory, descriptors, threads; and the slots that there are."""
    root = Path(f"/proc/{guest.process.pid}")
    fields = dict(line.split(":", 1) for line in (root / "status").read_text(
        encoding="ascii", errors="replace").splitlines())
    info = guest.prefault()
    if info is None or info["state"] != "ready":
        raise GuestError(f"not ready: {info and (info['state'], info['reasons'])}")
    return {"rss_kib": int(fields["VmRSS"].split()[0]),
            "locked_kib": int(fields["VmLck"].split()[0]), "threads": int(fields["Threads"]),
            "fds": len(os.listdir(root / "fd")), "ranges": len(info["ranges"])}


def _settle(guest: Guest) -> Row:
    guest.wait_prefault(("ready", "partial", "failed"))
    return _holds(guest)


def _reboot(guest: Guest) -> None:
    guest.renew_deadline()
    guest.console.send("reboot")
    guest.boot()


def _plug(guest: Guest) -> None:
    """In and out again; the guest's kernel leaves the memory offline."""
    guest.renew_deadline()
    guest.qmp.command("object-add", qom_type="memory-backend-ram", id="plugged",
                      size=DIMM_MIB << 20)
    guest.qmp.forget_events("ACPI_DEVICE_OST")
    guest.qmp.command("device_add", driver="pc-dimm", id="dimm", memdev="plugged", addr=DIMM_AT)
    # until the guest has taken it: a request to give back what it has not got is lost
    guest.qmp.wait_event("ACPI_DEVICE_OST", guest.left)
    guest.qmp.forget_events("DEVICE_DELETED")
    guest.qmp.command("device_del", id="dimm")
    guest.qmp.wait_event("DEVICE_DELETED", guest.left)
    guest.qmp.command("object-del", id="plugged")


def _round(context: Context, guest: Guest, steps: Steps, event: str, number: int) -> Row:
    """What the guest holds after a round, and the RAM faults since the one before."""
    holds = _settle(guest)
    steps.mark(f"{event} {number}")
    context.progress(f"{event} {number + 1} of {context.spec.options[EVENTS[event]]}")
    return {"event": event, "number": number, **holds,
            "ram_faults": steps.rows[-1]["ram_faults"]}


def _repeat(context: Context, guest: Guest, steps: Steps, event: str,
            act: Callable[[Guest], None]) -> list[Row]:
    rows = []
    for number in range(context.spec.options[EVENTS[event]]):
        act(guest)
        rows.append(_round(context, guest, steps, event, number))
    return rows


def _extra(context: Context) -> list[str]:
    return ["-m", f"{context.spec.mem_mib}M,slots=1,maxmem=1G"]


def _to_peer(context: Context, source: Guest, number: int) -> Guest:
    """A second QEMU gets the guest, and the first one ends."""
    target = context.guest(f"peer{number % 2}", [*_extra(context), "-incoming", "defer"])
    try:
        target.start()
        address = f"unix:{target.work}/migration"
        target.qmp.command("migrate-incoming", uri=address)
        source.qmp.command("migrate", uri=address)
        wait_migration(source)
        wait_migration(target)
        source.quit()
        target.ask("check")
    except BaseException:
        target.__exit__()
        raise
    return target


def _migrations(context: Context, guest: Guest, steps: Steps) -> list[Row]:
    """Back and forth; ends with the guest switched off."""
    rows = []
    guest.ask(f"hold {context.spec.touched_mib}")
    try:
        for number in range(context.spec.options["migrations"]):
            guest.renew_deadline()
            target = _to_peer(context, guest, number)
            guest.__exit__()
            guest = target
            context.guests.clear()
            context.guests.append(guest)
            rows.append(_round(context, guest, steps, "migration", number))
        guest.power_off()
    finally:
        guest.__exit__()
    return rows


@scenario
def soak(context: Context) -> Row:
    """options.reboots, .plugs and .migrations, in this order, of one guest."""
    steps = Steps(context)
    with context.guest(extra=_extra(context)).start() as guest:
        guest.boot()
        guest.qmp.command("set-action", reboot="reset")
        steps.mark("boot")
        rows = _repeat(context, guest, steps, "guest reboot", _reboot)
        rows += _repeat(context, guest, steps, "plug, unplug", _plug)
        rows += _migrations(context, guest, steps)
    return {"booted": True, "rounds": rows}
