# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that are hypervisors: what prefault does must not take them out of VMX or SVM."""

from pathlib import Path
from typing import Any, Callable

from ..hypervisorguest import (ENTER_AGAIN, FLASH, PAM, TOUCH, TOUCH_DIMM, HypervisorFailed,
                               HypervisorGuest)
from ..stream import Sink
from . import Context, Steps, scenario
from .migrate import LOGGED, set_up, wait_migration

ENDED = ("ready", "partial", "failed")
PASSES = 5
# What guest/hypervisor.S takes a DIMM to be
DIMM_AT = 4 << 30
DIMM_SIZE = 128 << 20
# The pattern alone takes 16 s.
SLOW = {"max_bandwidth": 64 << 10, "downtime_limit": 1}

Event = Callable[[HypervisorGuest, Steps], None]


def _passes(guest: HypervisorGuest, _steps: Steps) -> None:
    for _ in range(PASSES):
        guest.qmp.command("kvm-prefault")
        guest.wait_prefault(ENDED)
        guest.go_on()


def _flash(guest: HypervisorGuest, _steps: Steps) -> None:
    """A slot goes and comes back, in the thread of the vCPU."""
    for _ in range(PASSES):
        guest.press(FLASH)


def _pam(guest: HypervisorGuest, _steps: Steps) -> None:
    """A slot comes, is used, and goes, in the thread of the vCPU."""
    for _ in range(PASSES):
        guest.press(PAM)


def _dimm(guest: HypervisorGuest, _steps: Steps) -> None:
    guest.qmp.command("object-add", qom_type="memory-backend-ram", id="plugged", size=DIMM_SIZE)
    guest.qmp.command("device_add", driver="pc-dimm", id="dimm", memdev="plugged", addr=DIMM_AT)
    guest.wait_prefault(ENDED)
    guest.press(TOUCH_DIMM)


def _wait_protected(guest: HypervisorGuest) -> None:
    """The first page of a block that is sent has all of it write-protected.

    The largest block is the first, which is the DIMM, and its pages are zero.
    """
    while not (info := guest.qmp.command("query-migrate")["ram"])["duplicate"]:
        guest.pause(f"no page has been sent: {info}")


def _dirty_logging(guest: HypervisorGuest, steps: Steps) -> None:
    """A migration that is cancelled long before it can end."""
    path = Path(guest.work) / "sink"
    path.unlink(missing_ok=True)
    sink = Sink(str(path))
    try:
        set_up(guest, [], SLOW)
        guest.qmp.command("migrate", uri=sink.uri)
        wait_migration(guest, "active")
        _wait_protected(guest)
        guest.press(TOUCH_DIMM)
        steps.mark("hypervisor: while migrating", note=LOGGED)
        guest.qmp.command("migrate_cancel")
        wait_migration(guest, "cancelled")
        guest.wait_prefault(("ready",))
        # what the guest did between the cancellation and the end of the pass
        steps.mark("hypervisor: cancelling", note=LOGGED)
        guest.press(TOUCH_DIMM)
    finally:
        sink.hang_up()


def _enter_again(guest: HypervisorGuest, _steps: Steps) -> None:
    guest.press(ENTER_AGAIN)


def _reset(guest: HypervisorGuest, _steps: Steps) -> None:
    life = guest.mailbox().lives
    guest.qmp.command("system_reset")
    guest.wait_entered(life + 1)


def _after_reset(guest: HypervisorGuest, steps: Steps) -> None:
    for event in (_passes, _flash, _pam, _enter_again):
        event(guest, steps)
    guest.press(TOUCH_DIMM)


EVENTS: dict[str, Event] = {
    "hypervisor: start": lambda guest, steps: None,
    "hypervisor: kvm-prefault": _passes,
    "hypervisor: flash written": _flash,
    "hypervisor: PAM switched": _pam,
    "hypervisor: DIMM plugged": _dimm,
    "hypervisor: end of dirty logging": _dirty_logging,
    "hypervisor: left and entered": _enter_again,
    "hypervisor: system_reset": _reset,
    "hypervisor: all of it after a reset": _after_reset}


def _one(guest: HypervisorGuest, steps: Steps, name: str) -> str | None:
    """The event, and then rounds and a touch of all RAM; returns what the guest complains of."""
    rounds, trouble = 0, None
    try:
        EVENTS[name](guest, steps)
        guest.wait_prefault(ENDED)
        rounds = guest.go_on()
        guest.press(TOUCH)
    except HypervisorFailed as failure:
        trouble = str(failure)
    info = guest.wait_prefault(ENDED)
    steps.mark(name, rounds=rounds, trouble=trouble, state=info["state"],
               populated=info["populated-bytes"], total=info["total-bytes"])
    return trouble


@scenario
def nested_active(context: Context) -> dict[str, Any]:
    """All events, up to the first that takes the guest out of what it is in."""
    steps = Steps(context)
    guest = HypervisorGuest(context.spec, context.paths)
    context.remember(guest)
    with guest:
        guest.start_monitor()
        operation = guest.wait_entered(1)
        trouble = next(filter(None, (_one(guest, steps, name) for name in EVENTS)), None)
        intact = guest.pattern_is_intact()
        info = guest.prefault()
        status = guest.quit()
    return {"booted": status == 0 and not trouble, "operation": operation, "trouble": trouble,
            "intact": intact, "events": steps.rows, "query": info}
