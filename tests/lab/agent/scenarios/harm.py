# SPDX-License-Identifier: GPL-2.0-or-later
"""What prefault could do to its guest: CPUs that do not come up, mappings that stay lost."""

import mmap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

from .. import kvmhost
from ..faultplan import Plan
from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .hotplug import BLOCK_MIB, plug_dimm, status_mib
from .lifecycle import life, live, reset_guest

Info = dict[str, Any]

OVER = ("ready", "partial", "failed")
NX_HUGE_PAGES = Path("/sys/module/kvm/parameters/nx_huge_pages")
# A guest of 192 MiB has more than that without a DIMM, and less than that and a DIMM.
KERNEL_MIB = 32
# What a repair in the background may take; it is noticed within a second.
REPAIR_SECONDS = 20
LOST_NOTE = "faults until what was dropped is mapped again"
BESIDE_NOTE = "prefault-wait=off: the guest boots while it is populated"


def plan_for(context: Context) -> Plan:
    """A plan that the guests of this run are started with."""
    plan = Plan(Path(context.paths.work) / "plan")
    context.env = plan.environment()
    return plan


def late(plan: Plan, milliseconds: int) -> None:
    """Every KVM_PRE_FAULT_MEMORY takes that much longer."""
    plan.arm("KVM_PRE_FAULT_MEMORY", "late", late_ms=milliseconds)


def mapped(info: Info) -> int:
    return sum(info["mapped"].values())


def facts(info: Info) -> Info:
    """What a step has to say of the last pass."""
    return {"state": info["state"], "reasons": info["reasons"],
            "missing_kib": (info["total-bytes"] - info["populated-bytes"]) // 1024,
            "mapped": mapped(info), "lost": info["repopulations"]["lost"]}


def query(guest: Guest) -> Info:
    info = guest.prefault()
    if info is None:
        raise GuestError("this QEMU has no query-kvm-prefault")
    return info


def wait_for(guest: Guest, wanted: Callable[[Info], bool], seconds: float) -> Info:
    """The first answer that is wanted, or the last one of that time: tests judge it."""
    end = time.monotonic() + seconds
    while not wanted(info := query(guest)) and time.monotonic() < end:
        time.sleep(0.05)
    return info


def _toggle(guest: Guest, rounds: int) -> Info:
    """CPUs off- and online, and all the time passes; reasons of those that left something."""
    incomplete = []
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(guest.ask, f"toggle {rounds}")
        while not answer.done():
            guest.qmp.command("kvm-prefault")
            incomplete += guest.wait_prefault(OVER)["reasons"]
    return {**{name: int(value) for name, value in answer.result().values.items()},
            "incomplete": incomplete}


@scenario
def cpus_toggled(context: Context) -> Info:
    """options.late_ms: what a visit to SMM begins with takes so long, with the BQL held.

    So vCPUs that want to leave it have to wait, while others are in the guest again and send
    them an INIT.  (If the visits themselves take long, all vCPUs are in SMM at the same time.)
    """
    options = context.spec.options
    plan = plan_for(context) if "late_ms" in options else None

    def events(_context: Context, guest: Guest, steps: Steps) -> Info:
        before = guest.wait_prefault(("ready",))["repopulations"]["command"]
        steps.mark("populated beside the guest", note=BESIDE_NOTE)
        if plan:
            plan.arm("KVM_GET_VCPU_EVENTS", "late", late_ms=options["late_ms"])
        toggled = _toggle(guest, options["rounds"])
        if plan:
            plan.disarm()
        passes = query(guest)["repopulations"]["command"] - before
        steps.mark("CPUs toggled during passes", passes=passes, **toggled)
        # CPUs that did not come up are counted, but cannot touch anything
        how = "touch" if toggled["failed_cpu"] else "cputouch"
        guest.ask(f"{how} {context.spec.touched_mib}")
        steps.mark("CPUs toggled, then touched")
        return {"toggled": toggled, "passes": passes}
    return live(context, events, note=BESIDE_NOTE)


def _near_the_end(guest: Guest) -> Info:
    """Most is in the tables, and the guest waits for the rest."""
    while True:
        info = query(guest)
        done = info["populated-bytes"] / max(info["total-bytes"], 1)
        if info["state"] == "populating" and done > 0.6:
            return info
        if info["state"] in OVER and done or guest.left <= 0.1:
            raise GuestError(f"the pass was over before it was nearly over: {info}")
        time.sleep(0.01)


def _plug_near_the_end(guest: Guest, plan: Plan, number: int) -> Info:
    """The vCPU could go on to the DIMM at once; its host pages take some time."""
    at = _near_the_end(guest)
    plan.arm("MADV_POPULATE_WRITE", "late", count=4, late_ms=guest.spec.options["late_ms"])
    plug_dimm(guest, number)
    info = guest.wait_prefault(OVER)
    plan.disarm()
    return {"plugged_at": at["populated-bytes"], **facts(info)}


def _use_dimms(guest: Guest, steps: Steps, count: int, event: str, plugged: Info) -> None:
    guest.ask(f"waitmem {KERNEL_MIB + count * BLOCK_MIB}")
    guest.ask(f"touch {count * BLOCK_MIB * 3 // 4}")
    steps.mark(event, **plugged)


@scenario
def dimm_near_the_end(context: Context) -> Info:
    """Of the first pass, and of that after a reset: host pages are not there yet."""
    plan = plan_for(context)
    at_start: Info = {}

    def start(context: Context) -> Guest:
        late(plan, context.spec.options["late_ms"])
        guest = context.guest().start()
        at_start.update(_plug_near_the_end(guest, plan, 0))
        return guest

    def events(context: Context, guest: Guest, steps: Steps) -> None:
        _use_dimms(guest, steps, 1, "DIMM near the end of the first pass", at_start)
        guest.qmp.command("set-action", reboot="reset")
        late(plan, context.spec.options["late_ms"])
        guest.qmp.command("system_reset")
        guest.qmp.wait_event("RESET", guest.left)
        plugged = _plug_near_the_end(guest, plan, 1)
        guest.boot()
        _use_dimms(guest, steps, 2, "DIMM near the end of the pass after a reset", plugged)
    return live(context, events, start)


def _there_and_back() -> None:
    """All roots of all guests become obsolete each time."""
    for value in ("force", "off"):
        NX_HUGE_PAGES.write_text(value, encoding="ascii")


def _repair_on_command(guest: Guest, number: int) -> Info:
    guest.qmp.command("kvm-prefault")
    return wait_for(guest, lambda info: info["state"] in OVER and
                    info["repopulations"]["command"] >= number, REPAIR_SECONDS)


@life
def obsolete_roots(context: Context, guest: Guest, steps: Steps) -> None:
    """Of a vCPU, too, that has never run and so does not get a new one by itself."""
    touch = f"touch {context.spec.touched_mib}"
    lost, full = query(guest)["repopulations"]["lost"], mapped(query(guest))
    _there_and_back()
    steps.mark("roots obsolete, kvm-prefault", note=LOST_NOTE,
               **facts(_repair_on_command(guest, 1)))
    guest.ask(touch)
    steps.mark("roots obsolete, kvm-prefault, then touched")
    _there_and_back()
    info = wait_for(guest, lambda info: info["state"] == "ready" and mapped(info) >= full and
                    info["repopulations"]["lost"] > lost, REPAIR_SECONDS)
    steps.mark("roots obsolete, noticed", note=LOST_NOTE, **facts(info))
    info = _repair_on_command(guest, 2)
    steps.mark("roots obsolete, noticed, kvm-prefault", note=LOST_NOTE, **facts(info))
    guest.ask(touch)
    steps.mark("roots obsolete, noticed, then touched")


def _started_short_of_memory(context: Context) -> Guest:
    """The host has less than the guest's RAM, until QEMU has given up."""
    spare = kvmhost.mem_available_mib() - context.spec.mem_mib // 2
    with mmap.mmap(-1, spare << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                   | mmap.MAP_POPULATE):
        guest = context.guest().start()
        guest.wait_prefault(("failed",))
    return guest


@scenario
def gives_up_balloon(context: Context) -> Info:
    """prefault=auto on a host that needs the guest's balloon."""
    def events(context: Context, guest: Guest, _steps: Steps) -> Info:
        full = context.spec.mem_mib << 20
        before = status_mib(guest, "VmRSS")
        guest.qmp.command("balloon", value=full // 2)
        while (actual := guest.qmp.command("query-balloon")["actual"]) > full // 2:
            if guest.left <= 1:
                raise GuestError(f"the guest does not inflate its balloon: {actual} bytes")
            time.sleep(0.05)
        after = status_mib(guest, "VmRSS")
        # no event of a life cycle without faults: nothing is prefaulted here
        return {"resident_mib": [before, after], "balloon_mib": (full - actual) >> 20,
                "events": []}
    return live(context, events, _started_short_of_memory)


@scenario
def gives_up_pinned(context: Context) -> Info:
    """prefault=auto on a KVM without what it needs; pin-ram works all the same."""
    plan = plan_for(context)
    plan.arm("KVM_CHECK_EXTENSION", "EINVAL")
    states = []

    def events(_context: Context, guest: Guest, _steps: Steps) -> Info:
        states.append(query(guest)["state"])
        reset_guest(guest)
        states.append(query(guest)["state"])
        return {"states": states, "events": []}

    def start(context: Context) -> Guest:
        guest = context.guest().start()
        info = wait_for(guest, lambda info: info["state"] != "populating" and
                        info["pinned-bytes"] == context.spec.mem_mib << 20, REPAIR_SECONDS)
        states.append(info["state"])
        return guest
    return live(context, events, start)
