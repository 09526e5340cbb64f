# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM_PRE_FAULT_MEMORY that fails half-way: what QEMU makes of it, and when.

host/fail-call.c lets it fail at 128 MiB, as it does when KVM runs out of memory.
"""

from pathlib import Path
from typing import Any

from ..faultplan import Plan
from ..guest import Guest
from . import Context, Steps, prefault_facts, scenario
from .hostside import refused
from .migrate import migrate

FROM_MIB = 128


class Failure:
    """The switch; guests started under it see the failure while it is on."""

    def __init__(self, context: Context, on: bool):
        self._plan = Plan(Path(context.paths.work) / "plan")
        context.env = self._plan.environment()
        self.set(on)

    def set(self, on: bool) -> None:
        if on:
            self._plan.arm("KVM_PRE_FAULT_MEMORY", "EIO", from_mib=FROM_MIB)
        else:
            self._plan.disarm()


@scenario
def fails_at_start(context: Context) -> dict[str, Any]:
    """The first pass fails under prefault=on."""
    Failure(context, on=True)
    return refused(context)


@scenario
def fails_in_auto(context: Context) -> dict[str, Any]:
    """The first pass fails under prefault=auto: the guest runs all the same."""
    Failure(context, on=True)
    with context.guest().start() as guest:
        guest.boot()
        info = guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, "message": guest.stderr(), **prefault_facts(info)}


def _again(guest: Guest) -> dict[str, Any]:
    """kvm-prefault on a running guest, to the end of the pass."""
    guest.qmp.forget_events("KVM_PREFAULT_STATUS")
    guest.qmp.command("kvm-prefault")
    while True:
        event = guest.qmp.wait_event("KVM_PREFAULT_STATUS")["data"]
        if event["state"] != "populating":
            return event


@scenario
def fails_later(context: Context) -> dict[str, Any]:
    """A later pass fails under prefault=on, the one after it does not."""
    steps = Steps(context)
    failure = Failure(context, on=False)
    with context.guest().start() as guest:
        guest.boot()
        steps.mark("boot")
        failure.set(True)
        event = _again(guest)
        info = guest.prefault()
        guest.ask("ping")
        failure.set(False)
        healed = _again(guest)
        guest.ask(f"touch {context.spec.touched_mib}")
        steps.mark("after the pass that succeeded")
        status = guest.power_off()
    return {"booted": status == 0, "events": steps.rows, "event": event,
            "healed": healed, "message": guest.stderr(), **prefault_facts(info)}


@scenario
def fails_after_migration(context: Context) -> dict[str, Any]:
    """The destination loses what it has mapped, and its pass fails then."""
    failure = Failure(context, on=False)

    def fail(guest: Guest) -> None:
        failure.set(True)
        guest.qmp.command("kvm-prefault")
        guest.wait_prefault(("partial",))
    return migrate(context, before_cont=fail)
