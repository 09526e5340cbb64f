# SPDX-License-Identifier: GPL-2.0-or-later
"""virtio-mem cannot give memory back: the guest keeps it, populated and locked."""

import functools
import time
from pathlib import Path
from typing import Any

from ..faultplan import Plan
from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .hotplug import BLOCK_MIB, now_mib, request_size, status_mib, wait_mib
from .lifecycle import live


def _facts(guest: Guest) -> dict[str, Any]:
    info = guest.wait_prefault(("ready", "partial"))
    return {"state": info["state"], "total_mib": info["total-bytes"] >> 20,
            "populated_mib": info["populated-bytes"] >> 20,
            "pinned_mib": info["pinned-bytes"] >> 20, "locked_mib": status_mib(guest, "VmLck")}


def _fail_to_unplug(guest: Guest, plan: Plan) -> None:
    """Until the host has refused to take memory back; then the guest is to keep it."""
    plan.arm("MADV_DONTNEED", "ENOMEM", anyone=True)
    request_size(guest, 0)
    while not plan.seen["failed"]:
        if guest.left <= 1:
            raise GuestError(f"nothing was discarded: {plan.seen}")
        time.sleep(0.02)
    request_size(guest, BLOCK_MIB)


def _unplug(guest: Guest) -> None:
    request_size(guest, 0)
    while guest.qmp.command("qom-get", path="vmem0", property="size"):
        if guest.left <= 1:
            raise GuestError("virtio-mem has not been unplugged")
        time.sleep(0.05)


def _events(plan: Plan, context: Context, guest: Guest, steps: Steps) -> None:
    before = now_mib(guest)
    request_size(guest, BLOCK_MIB)
    wait_mib(guest, before + BLOCK_MIB)
    steps.mark("virtio-mem: 128 MiB plugged", **_facts(guest))
    _fail_to_unplug(guest, plan)
    # the driver has given up for now, and uses its memory again
    guest.ask(f"waitmem {before + BLOCK_MIB - 4}")
    plan.disarm()
    guest.ask(f"touch {context.spec.touched_mib}")
    steps.mark("virtio-mem: discard failed", **_facts(guest))
    _unplug(guest)
    steps.mark("virtio-mem: unplugged", **_facts(guest))


@scenario
def discard_fails(context: Context) -> dict[str, Any]:
    """The host refuses MADV_DONTNEED while the guest unplugs, so nothing is unplugged."""
    plan = Plan(Path(context.paths.work) / "plan")
    context.env = plan.environment()
    return live(context, functools.partial(_events, plan))
