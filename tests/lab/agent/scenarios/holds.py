# SPDX-License-Identifier: GPL-2.0-or-later
"""Passes that take seconds: a guest that has run is not held for all of that time."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

from ..faultplan import Plan
from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .harm import OVER, facts, late, plan_for, query
from .hotplug import BLOCK_MIB, request_size
from .lifecycle import live
from .migrate import wait_migration

Info = dict[str, Any]
Trigger = Callable[[Context, Guest], None]

# A field of /proc/PID/stat, counted from 1.
GUEST_TIME = 43
# So that the guest has something to do.
LOAD_MIB = 16
COMPLAINT = re.compile(r"soft lockup|self-detected stall|hung task|blocked for more than")
NOTE = "mappings were dropped, and the guest runs while they come back"


def _monitor(guest: Guest, line: str) -> None:
    answer = guest.qmp.command("human-monitor-command", guest.left, command_line=line)
    if answer.strip():
        raise GuestError(f"{line}: {answer.strip()}")


def _dirty_log(context: Context, guest: Guest) -> None:
    """As after a migration that fails when the guest has been stopped for it."""
    guest.qmp.command("migrate-set-parameters", max_bandwidth=1 << 20)
    guest.qmp.command("migrate", uri=f"file:{context.paths.work}/stream")
    guest.qmp.command("stop")
    guest.qmp.command("migrate_cancel")
    wait_migration(guest, "cancelled")
    guest.qmp.command("cont")


def _virtio_mem(_context: Context, guest: Guest) -> None:
    request_size(guest, BLOCK_MIB)


def _zap_all(_context: Context, guest: Guest) -> None:
    guest.console.send("barflip 1")


def _load_snapshot(_context: Context, guest: Guest) -> None:
    _monitor(guest, "loadvm one")


TRIGGERS: dict[str, Trigger] = {
    "dirty logging ends": _dirty_log, "virtio-mem plugs": _virtio_mem,
    "KVM drops everything": _zap_all, "a snapshot is loaded": _load_snapshot}


def _wait_begun(guest: Guest, passes: int) -> None:
    """The pass runs, or is over already, which the facts will tell."""
    while (info := query(guest))["state"] != "populating" and info["passes"] == passes:
        if guest.left <= 1:
            raise GuestError(f"no pass has begun: {info}")
        time.sleep(0.01)


def _guest_ms(guest: Guest) -> int:
    """What the host's kernel says for how long vCPUs were in the guest."""
    stat = Path(f"/proc/{guest.process.pid}/stat").read_text(encoding="ascii", errors="replace")
    ticks = int(stat.rsplit(")", 1)[1].split()[GUEST_TIME - 3])
    return ticks * 1000 // os.sysconf("SC_CLK_TCK")


def _watch(guest: Guest) -> Info:
    """Until the pass is over: how long it took, and how long the guest ran before its end.

    Not duration-us: a guest that changes slots on the way has several passes.
    """
    begun, first = time.monotonic(), _guest_ms(guest)
    last = first
    while query(guest)["state"] == "populating" and guest.left > 0.1:
        ran = _guest_ms(guest)
        if query(guest)["state"] == "populating":
            last = ran
        time.sleep(0.02)
    return {"pass_ms": round((time.monotonic() - begun) * 1e3), "ran_ms": last - first}


def _long_pass(context: Context, guest: Guest, plan: Plan, steps: Steps) -> Info:
    event, passes = context.spec.options["event"], query(guest)["passes"]
    steps.mark(f"long pass, before {event}")
    late(plan, context.spec.options["late_ms"])
    TRIGGERS[event](context, guest)
    _wait_begun(guest, passes)
    watched = _watch(guest)
    plan.disarm()
    info = guest.wait_prefault(OVER)
    steps.mark(f"long pass: {event}", note=NOTE, **watched, **facts(info))
    guest.ask("unload")
    guest.ask(f"touch {context.spec.touched_mib}")
    steps.mark(f"long pass: {event}, then touched")
    complaints = [line for line in guest.console.tail(1000) if COMPLAINT.search(line)]
    return {"complaints": complaints}


def _started_with_disk(context: Context) -> Guest:
    """For a snapshot, which is of the guest before it has done anything."""
    image = f"{context.paths.work}/snapshot.qcow2"
    subprocess.run([context.paths.qemu_img, "create", "-q", "-f", "qcow2", image, "64M"],
                   check=True, timeout=60)
    return context.guest(extra=["-blockdev", "driver=qcow2,node-name=snap,file.driver=file,"
                                f"file.filename={image}"]).start()


@scenario
def long_pass(context: Context) -> Info:
    """options.event with every KVM_PRE_FAULT_MEMORY late by options.late_ms."""
    plan = plan_for(context)

    def events(context: Context, guest: Guest, steps: Steps) -> Info:
        guest.ask(f"load {LOAD_MIB}")
        if context.spec.options["event"] == "a snapshot is loaded":
            _monitor(guest, "savevm one")
            guest.wait_prefault(OVER)
            steps.mark("long pass, snapshot saved", note=NOTE)
        return _long_pass(context, guest, plan, steps)
    return live(context, events, _started_with_disk, context.spec.options.get("boot_note"))
