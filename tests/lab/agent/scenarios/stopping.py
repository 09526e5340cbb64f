# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that are stopped, or have run, when a pass is under way: a few instructions each.

A plan (faultplan.py) makes calls slow where the moment matters, so that it is met.
"""

import dataclasses
import random
import time
from pathlib import Path
from typing import Any

from ..faultplan import Plan
from ..guest import GuestError
from ..qmp import QmpError
from ..stream import Sink
from ..tinyguest import TinyGuest
from . import Context, scenario
from .migrate import set_up, wait_migration

# An answer that takes longer is taken for a hang: others come within milliseconds.
ANSWER_SECONDS = 5
# Rounds at random: from before the first turn of a vCPU to after it.
WAIT_MAX = 0.012
# More than a vCPU is borrowed for at a time (PAUSE_WORK_US).
SLICE = 0.005
# Zero pages as well take longer than a run.
NEVER_ENDS = {"max_bandwidth": 4096}
ENDED = ("ready", "partial", "failed")


def _new_guest(context: Context, plan: Plan, name: str = "guest", **changes: Any) -> TinyGuest:
    """It leaves slots alone, which would make its vCPUs leave the guest."""
    context.env = plan.environment()
    spec = dataclasses.replace(context.spec, **changes)
    guest = TinyGuest(spec, context.paths, name, switch=False)
    context.remember(guest)
    return guest


def _wait_call(guest: TinyGuest, plan: Plan) -> None:
    """Until another of the calls that the plan slows down has begun."""
    before = plan.seen["failed"]
    while plan.seen["failed"] == before:
        if guest.left <= 0.1:
            raise GuestError(f"the call is not made: {plan.seen}, {guest.prefault()}")
        time.sleep(0.001)


class Stops:
    """Rounds of: populate again, stop, go on."""

    def __init__(self, guest: TinyGuest, plan: Plan, late: bool):
        self._guest = guest
        self._plan = plan
        self._late = late
        self._random = random.Random(1)
        self.slowest = 0.0

    def round(self) -> bool:
        """Returns: whether "stop" has been answered."""
        qmp = self._guest.qmp
        qmp.command("kvm-prefault")
        if self._late:
            _wait_call(self._guest, self._plan)
            time.sleep(SLICE)
        else:
            time.sleep(self._random.uniform(0, WAIT_MAX))
        start = time.monotonic()
        try:
            qmp.command("stop", ANSWER_SECONDS)
        except QmpError:
            return False
        self.slowest = max(self.slowest, time.monotonic() - start)
        qmp.command("cont")
        return True


@scenario
def stop_loop(context: Context) -> dict[str, Any]:
    """options.rounds times "stop" during a pass beside the guest.

    options.late_ms: what each of our runs of a borrowed vCPU takes; "stop" comes when one
    has been going on for longer than it should.
    """
    options = context.spec.options
    plan = Plan(Path(context.paths.work) / "plan")
    late = options.get("late_ms", 0)
    done, hung = 0, False
    with _new_guest(context, plan) as guest:
        guest.start_monitor()
        guest.wait_prefault(("ready",))
        if late:
            plan.arm("KVM_RUN", "late", within="kvm_arch_prefault_vcpu_touch", late_ms=late)
        stops = Stops(guest, plan, bool(late))
        while done < options["rounds"] and not hung:
            hung = not stops.round()
            done += not hung
        plan.disarm()
        if not hung:
            guest.wait_alive()
            guest.quit()
    return {"booted": True, "rounds": done, "hung": hung, "late_runs": plan.seen["failed"],
            "slowest_ms": round(stops.slowest * 1e3, 1)}


def _postpone_first_pass(guest: TinyGuest, plan: Plan, sink: Sink) -> str:
    """A migration begins in the first pass and lets the guest go; returns the state then."""
    _wait_call(guest, plan)
    state = guest.wait_prefault(("populating", "ready"))["state"]
    set_up(guest, [], NEVER_ENDS)
    guest.qmp.command("migrate", uri=sink.uri)
    guest.wait_alive()
    return str(state)


def _fail_after_migration(guest: TinyGuest, plan: Plan) -> dict[str, Any]:
    """The migration is given up while the guest is stopped; host pages cannot be had then."""
    plan.arm("MADV_POPULATE_WRITE", "EIO")
    guest.qmp.command("stop")
    guest.qmp.command("migrate_cancel")
    wait_migration(guest, "cancelled")
    guest.qmp.command("cont")
    info = guest.wait_prefault(ENDED)
    guest.wait_alive()
    plan.disarm()
    guest.qmp.command("kvm-prefault")
    healed = guest.wait_prefault(("ready", "failed"))
    return {"query": info, "healed": healed["state"], "status": guest.quit()}


@scenario
def postponed_pass_fails(context: Context) -> dict[str, Any]:
    """The guest has run before its first pass was through, which then fails."""
    plan = Plan(Path(context.paths.work) / "plan")
    sink = Sink(f"{context.paths.work}/sink")
    with _new_guest(context, plan) as guest:
        plan.arm("KVM_PRE_FAULT_MEMORY", "late", late_ms=context.spec.options["late_ms"])
        guest.start_monitor()
        row: dict[str, Any] = {"booted": True}
        row["state_before"] = _postpone_first_pass(guest, plan, sink)
        try:
            row |= _fail_after_migration(guest, plan)
        except QmpError as error:
            row |= {"status": guest.wait(), "gone": str(error)}
    sink.hang_up()
    return {**row, "message": guest.stderr()[-1500:], "failed_calls": plan.seen["failed"]}


def _migrate_to_file(context: Context, plan: Plan) -> str:
    uri = f"file:{context.paths.work}/stream"
    with _new_guest(context, plan, "source", accel={"prefault": "off"}) as source:
        source.start_monitor()
        source.wait_alive()
        source.qmp.command("migrate", uri=uri)
        wait_migration(source)
        source.quit()
    return uri


def _arrive(guest: TinyGuest, uri: str) -> dict[str, Any]:
    """The guest comes to a QEMU that has said that it has to be reset."""
    guest.qmp.command("migrate-incoming", uri=uri)
    wait_migration(guest)
    end = time.monotonic() + ANSWER_SECONDS
    while True:
        status = guest.qmp.command("query-status")["status"]
        if status == "internal-error" or time.monotonic() > end:
            return {"arrived": status, "cont": guest.qmp.exchange("cont")}
        time.sleep(0.02)


@scenario
def lost_before_arrival(context: Context) -> dict[str, Any]:
    """KVM does not take back a vCPU's state while the guest is awaited."""
    plan = Plan(Path(context.paths.work) / "plan")
    uri = _migrate_to_file(context, plan)
    plan.arm("KVM_SET_VCPU_EVENTS", "EINVAL", within="kvm_arch_prefault_leave_as")
    with _new_guest(context, plan, "target", args=["-incoming", "defer"]) as target:
        target.start_monitor()
        info = target.wait_prefault(ENDED)
        plan.disarm()
        row = _arrive(target, uri)
        target.qmp.command("system_reset")
        target.qmp.command("cont")
        target.wait_alive()
        healed = target.wait_prefault(ENDED)
        target.quit()
    return {"booted": True, "query": info, **row, "healed": healed["state"],
            "message": target.stderr(), "refused_calls": plan.seen["failed"]}
