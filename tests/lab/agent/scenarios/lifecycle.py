# SPDX-License-Identifier: GPL-2.0-or-later
"""Events in a guest's life; each is followed by work that would fault."""

import functools
from typing import Any, Callable

from ..guest import Guest
from . import Context, Scenario, Steps, scenario

Events = Callable[[Context, Guest, Steps], dict[str, Any] | None]


def started(context: Context) -> Guest:
    return context.guest().start()


def live(context: Context, events: Events,
         start: Callable[[Context], Guest] = started,
         note: str | None = None) -> dict[str, Any]:
    """What happens between a guest's boot and its power-off, as a row; note: on the boot."""
    steps = Steps(context)
    with start(context) as guest:
        steps.watch(guest)
        guest.boot()
        steps.mark("boot", note=note)
        more = events(context, guest, steps) or {}
        info = guest.prefault()
        status = guest.power_off()
        steps.mark("poweroff")
    return {"booted": status == 0, "events": steps.rows, "query": info,
            "message": guest.stderr().strip(), **more}


def life(events: Events) -> Scenario:
    """A scenario of such a life; the function may return more facts for the row."""
    @functools.wraps(events)
    def run(context: Context) -> dict[str, Any]:
        return live(context, events)
    return scenario(run)


def _touch(context: Context, guest: Guest) -> None:
    """Less than at boot, because a scenario may hold memory besides."""
    guest.ask(f"touch {context.spec.touched_mib // 2}")


def reset_guest(guest: Guest) -> None:
    """system_reset and the boot after it; -no-reboot would end QEMU instead."""
    guest.qmp.command("set-action", reboot="reset")
    guest.qmp.command("system_reset")
    guest.boot()


@life
def reset(context: Context, guest: Guest, steps: Steps) -> None:
    """system_reset twice, the second one early in the firmware."""
    reset_guest(guest)
    steps.mark("system_reset")
    guest.qmp.command("system_reset")
    guest.qmp.command("system_reset")
    guest.boot()
    steps.mark("system_reset, twice in a row")


@life
def reboot(context: Context, guest: Guest, steps: Steps) -> None:
    """The guest's own reboot."""
    guest.qmp.command("set-action", reboot="reset")
    guest.console.send("reboot")
    guest.boot()
    steps.mark("guest reboot")


@life
def stop_cont(context: Context, guest: Guest, steps: Steps) -> None:
    """Stopped while running, populated again while stopped, continued."""
    guest.qmp.command("stop")
    guest.qmp.command("cont")
    _touch(context, guest)
    steps.mark("stop, cont")
    guest.qmp.command("stop")
    answer = guest.qmp.exchange("kvm-prefault")
    guest.qmp.command("cont")
    _touch(context, guest)
    steps.mark("stop, kvm-prefault, cont", refused="error" in answer)


def _suspend(guest: Guest) -> None:
    guest.console.send("suspend")
    guest.qmp.wait_event("SUSPEND", guest.left)


def _passes(guest: Guest) -> dict[str, int]:
    """How many there were for each cause; none where this QEMU knows nothing of passes."""
    return dict((guest.prefault() or {}).get("repopulations", {}))


@life
def suspend(context: Context, guest: Guest, steps: Steps) -> None:
    """Suspend to RAM and wake-up, then resets; held memory must survive the wake-up."""
    guest.ask(f"hold {context.spec.touched_mib // 4}")
    _suspend(guest)
    guest.qmp.command("system_wakeup")
    guest.console.expect("ok", guest.left, "suspend")
    guest.ask("check")
    _touch(context, guest)
    steps.mark("suspend, wake-up", passes=_passes(guest))
    reset_guest(guest)
    steps.mark("system_reset after wake-up", passes=_passes(guest))
    if context.spec.machine == "pc":
        # a guest on q35 cannot switch itself off after that
        _reset_asleep(context, guest, steps)


def _reset_asleep(context: Context, guest: Guest, steps: Steps) -> None:
    _suspend(guest)
    guest.qmp.forget_events("RESET")
    guest.qmp.command("system_reset")
    guest.qmp.wait_event("RESET", guest.left)
    # QEMU leaves it in the state "prelaunch"; the CMOS tells firmware to wake the guest up
    guest.qmp.command("cont")
    guest.console.expect("ok", guest.left, "suspend")
    _touch(context, guest)
    steps.mark("system_reset while suspended", passes=_passes(guest))


@life
def smi(context: Context, guest: Guest, steps: Steps) -> None:
    """System management interrupts at run time, before and after a reset."""
    guest.ask("smi 16")
    steps.mark("smi")
    reset_guest(guest)
    guest.ask("smi 16")
    steps.mark("system_reset, smi")


@life
def vcpus(context: Context, guest: Guest, steps: Steps) -> None:
    """Every vCPU touches memory, all at once, then each raises SMIs."""
    line = guest.ask(f"cputouch {context.spec.touched_mib}")
    steps.mark("cputouch", cpus=int(line.values["cpus"]))
    guest.ask("smi 8")
    steps.mark("smi")
