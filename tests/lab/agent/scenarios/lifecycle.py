# SPDX-License-Identifier: GPL-2.0-or-later
"""Events in a guest's life; each is followed by work that would fault."""

from typing import Any

from ..guest import Guest
from . import Context, Steps, scenario


def _touch(context: Context, guest: Guest) -> None:
    """Less than at boot, because a scenario may hold memory besides."""
    guest.ask(f"touch {context.spec.touched_mib // 2}")


def _finish(guest: Guest, steps: Steps) -> dict[str, Any]:
    info = guest.prefault()
    status = guest.power_off()
    steps.mark("poweroff")
    return {"booted": status == 0, "events": steps.rows, "query": info}


@scenario
def reset(context: Context) -> dict[str, Any]:
    """system_reset twice, the second one early in the firmware."""
    steps = Steps(context)
    with context.guest().start() as guest:
        guest.boot()
        steps.mark("boot")
        guest.qmp.command("set-action", reboot="reset")
        guest.qmp.command("system_reset")
        guest.boot()
        steps.mark("system_reset")
        guest.qmp.command("system_reset")
        guest.qmp.command("system_reset")
        guest.boot()
        steps.mark("system_reset, twice in a row")
        return _finish(guest, steps)


@scenario
def reboot(context: Context) -> dict[str, Any]:
    """The guest's own reboot."""
    steps = Steps(context)
    with context.guest().start() as guest:
        guest.boot()
        steps.mark("boot")
        guest.qmp.command("set-action", reboot="reset")
        guest.console.send("reboot")
        guest.boot()
        steps.mark("guest reboot")
        return _finish(guest, steps)


@scenario
def stop_cont(context: Context) -> dict[str, Any]:
    """Stopped while running, populated again while stopped, continued."""
    steps = Steps(context)
    with context.guest().start() as guest:
        guest.boot()
        steps.mark("boot")
        guest.qmp.command("stop")
        guest.qmp.command("cont")
        _touch(context, guest)
        steps.mark("stop, cont")
        guest.qmp.command("stop")
        answer = guest.qmp.exchange("kvm-prefault")
        guest.qmp.command("cont")
        _touch(context, guest)
        steps.mark("stop, kvm-prefault, cont", refused="error" in answer)
        return _finish(guest, steps)


@scenario
def suspend(context: Context) -> dict[str, Any]:
    """Suspend to RAM and wake-up, then a reset; held memory must survive."""
    steps = Steps(context)
    with context.guest().start() as guest:
        guest.boot()
        guest.ask(f"hold {context.spec.touched_mib // 4}")
        steps.mark("boot")
        guest.console.send("suspend")
        guest.qmp.wait_event("SUSPEND", guest.left)
        guest.qmp.command("system_wakeup")
        guest.console.expect("ok", guest.left, "suspend")
        guest.ask("check")
        _touch(context, guest)
        steps.mark("suspend, wake-up")
        guest.qmp.command("set-action", reboot="reset")
        guest.qmp.command("system_reset")
        guest.boot()
        steps.mark("system_reset after wake-up")
        return _finish(guest, steps)


@scenario
def smi(context: Context) -> dict[str, Any]:
    """System management interrupts at run time, before and after a reset."""
    steps = Steps(context)
    with context.guest().start() as guest:
        guest.boot()
        steps.mark("boot")
        guest.ask("smi 16")
        steps.mark("smi")
        guest.qmp.command("set-action", reboot="reset")
        guest.qmp.command("system_reset")
        guest.boot()
        guest.ask("smi 16")
        steps.mark("system_reset, smi")
        return _finish(guest, steps)
