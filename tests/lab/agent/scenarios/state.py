# SPDX-License-Identifier: GPL-2.0-or-later
"""prefault-method=vcpu borrows vCPUs: are they given back as they were?

host/state-compare.c, preloaded into QEMU, compares what KVM tells about each vCPU,
and a checksum of RAM, before and after.
"""

import time
from pathlib import Path
from typing import Any

from ..guest import Guest, GuestError
from . import Context, prefault_facts, scenario

SHIM = "/lab/state-compare.so"
# Without a boot: seconds that firmware gets until it waits for something.
FIRMWARE_SECONDS = 4


def _pass(guest: Guest, stopped: bool) -> None:
    """kvm-prefault, to the end of the pass: at once, or in many pauses."""
    guest.qmp.forget_events("KVM_PREFAULT_STATUS")
    if stopped:
        guest.qmp.command("stop")
    guest.qmp.command("kvm-prefault")
    if stopped:
        guest.qmp.command("cont")
    while guest.qmp.wait_event("KVM_PREFAULT_STATUS")["data"]["state"] == "populating":
        if guest.left <= 0.1:
            raise GuestError(f"a pass does not end: {guest.prefault()}")


def _summary(report: Path) -> dict[str, Any]:
    lines = report.read_text(encoding="ascii").splitlines() if report.exists() else []
    compared = [line.split() for line in lines if line.startswith("compared vcpu=")]
    found = [dict(word.split("=") for word in line[1:]) for line in compared]
    return {
        "vcpus_compared": len(found),
        "ram_compared": sum(line.startswith("compared ram") for line in lines),
        "vcpus": sorted({int(line["vcpu"]) for line in found}),
        "mp_states": sorted({int(line["mp"]) for line in found}),
        "differences": [line for line in lines if line.startswith("difference")],
    }


@scenario
def state(context: Context) -> dict[str, Any]:
    """Passes at start, in firmware, and while Linux works on memory (if it can boot).

    Comparing takes long, so only guests with little memory are paused many times.
    """
    spoil = {"STATE_COMPARE_SPOIL": "1"} if context.spec.options.get("spoil") else {}
    report = context.preload(SHIM, "STATE_COMPARE", **spoil)
    linux = context.spec.options.get("linux", True)
    with context.guest().start() as guest:
        if linux:
            guest.boot()
        else:
            guest.wait_prefault(("ready",))
            time.sleep(FIRMWARE_SECONDS)
        for _ in range(context.spec.options.get("passes", 2)):
            if linux:
                guest.console.send(f"cputouch {context.spec.touched_mib}")
            _pass(guest, context.spec.options.get("stopped", linux))
            if linux:
                guest.console.expect("ok", guest.left, "cputouch")
        guest.wait_prefault(("ready",))
        info = guest.prefault()
        status = guest.power_off() if linux else guest.quit()
    return {"booted": status == 0, **_summary(report), **prefault_facts(info)}
