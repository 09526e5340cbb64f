# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls of ours that fail, one case after the other (faults.json).

A case ends in a clear error or in a running guest with the reason in the query.  Cases
"start" have a QEMU of their own; the others follow each other in one, which has to be
"ready" again between them.
"""

import dataclasses
import re
import time
from pathlib import Path
from typing import Any, Callable

from ..faultplan import Plan
from ..guest import GuestError
from ..qmp import QmpError
from ..tinyguest import TinyGuest
from . import Context, scenario

Case = dict[str, Any]
Result = dict[str, Any]

ENDED = ("ready", "partial", "failed")
CASE_SECONDS = 40
# After losses QEMU waits for some seconds before it tries again (kvm-prefault-watch.c).
RETRY_SECONDS = 15
# Something was said, and it names what the user can change.
PROPERTIES = ("'prefault", "'pin-ram", "'slot-zap", "'always-writable", "prefault-")
# A vCPU could not be given its state back, so that the guest must not run on.
STOPPED = ("partial", "populating")
LOST = "the guest is stopped and has to be reset"
REPORT = re.compile(r"runtime error:|(Address|Leak|Thread)Sanitizer")
NOT_OVER = "population has not ended"


def _wait_pass(guest: TinyGuest) -> Result:
    """Until the pass is over; QEMU may end meanwhile."""
    end = time.monotonic() + CASE_SECONDS
    while True:
        info = guest.prefault()
        assert info is not None
        if info["state"] in ENDED:
            return info
        if time.monotonic() > end:
            raise GuestError(f"{NOT_OVER}: {info['state']}, reasons {info['reasons']}, "
                             f"{info['populated-bytes']} of {info['total-bytes']} bytes")
        time.sleep(0.02)


def _wait_ready(guest: TinyGuest) -> list[str]:
    """Nobody asks for a pass: QEMU has to try again by itself."""
    end = time.monotonic() + RETRY_SECONDS
    while (info := guest.prefault() or {})["state"] != "ready":
        if time.monotonic() > end:
            return [f"not tried again: still {info['state']}: {info['reasons']}"]
        time.sleep(0.05)
    return []


def _details(case: Case, info: Result, seen: Result) -> list[str]:
    """What cases of some kinds have to show beyond their state."""
    wrong = []
    missing = info["total-bytes"] - info["populated-bytes"]
    if case["says"] and not any(case["says"] in reason for reason in info["reasons"]):
        wrong.append(f"no reason says '{case['says']}': {info['reasons']}")
    if case["missing_mib"] and not 0 < missing <= case["missing_mib"] << 20:
        wrong.append(f"{missing} of {info['total-bytes']} bytes are missing")
    if seen["violations"]:
        wrong.append(f"{seen['violations']} times a vCPU has lost what KVM knew of nested "
                     "virtualization")
    if case["errno"] == "VMX operation" and not seen["visits"]:
        wrong.append("no vCPU has been put into SMM")
    return wrong


class Cases:
    """Runs the cases of one configuration."""

    def __init__(self, context: Context):
        self._context = context
        # One for the shared guest, which may run while the other one's starts.
        self._plans = {name: Plan(Path(context.paths.work) / f"plan-{name}")
                       for name in ("running", "start")}
        self._plan = self._plans["running"]
        self._guest: TinyGuest | None = None
        self._base: dict[str, int] = {}
        # Of a QEMU that has ended; how much of the shared one's has been looked at.
        self._stderr = ""
        self._reported = 0

    def close(self) -> str:
        """End the shared guest; returns what is wrong with its end."""
        guest, self._guest = self._guest, None
        if guest is None:
            return ""
        try:
            with guest:
                status = guest.quit()
        except (GuestError, QmpError, OSError) as error:
            return f"quit: {error}"
        return f"exit status {status} after quit: {guest.stderr()[-2000:]}" if status else ""

    def run(self, case: Case) -> Result:
        """One row: what happened, and what is wrong with it ("" if nothing is)."""
        start = time.monotonic()
        at_start = case["when"] == "start"
        self._plan = self._plans["start" if at_start else "running"]
        run = self._at_start if at_start else self._running
        try:
            row = run(case)
        except (GuestError, QmpError, OSError, AssertionError) as error:
            row = {"outcome": "error", "wrong": f"{type(error).__name__}: {error}"}
            if self._guest:
                row["message"] = self._guest.stderr()[-2000:]
                self._abandon()
        self._plan.disarm()
        row |= self._plan.seen
        row["wrong"] = "; ".join(filter(None, (row["wrong"], self._reports())))
        if not row["wrong"] and not row["failed"] and "not reached" not in case["expect"]:
            row["wrong"] = f"the call was never made to fail ({row['calls']} calls)"
        return row | {"seconds": round(time.monotonic() - start, 2)}

    def _reports(self) -> str:
        """What sanitizers have said since the case before, with the place of each frame."""
        if self._stderr:
            new, self._stderr = self._stderr, ""
        else:
            text = self._guest.stderr() if self._guest else ""
            new, self._reported = text[self._reported:], len(text)
        found = REPORT.search(new)
        return new[found.start():][:4000] if found else ""

    def _new_guest(self, name: str, leaks: bool = True) -> TinyGuest:
        spec = dataclasses.replace(self._context.spec, timeout=CASE_SECONDS + 20)
        guest = TinyGuest(spec, self._context.paths, name, not spec.options["quiet"])
        guest.env = self._plan.environment(leaks)
        return guest

    def _abandon(self) -> None:
        guest, self._guest = self._guest, None
        if guest:
            guest.__exit__()
            self._stderr, self._reported = guest.stderr()[self._reported:], 0

    def _arm(self, case: Case) -> None:
        self._plan.arm(case["call"], case["errno"], case["first"], case["count"],
                       case["anyone"], case["from_mib"], case["within"], case["cpus"],
                       case["late_ms"], case["one_page"])

    def _at_start(self, case: Case) -> Result:
        self._arm(case)
        with self._new_guest("start", "refused" not in case["expect"]) as guest:
            try:
                return self._start_one(guest, case)
            finally:
                self._stderr = guest.stderr()

    def _start_one(self, guest: TinyGuest, case: Case) -> Result:
        try:
            guest.start_monitor()
            info = self._outcome(guest, case)
        except (GuestError, QmpError, OSError) as error:
            if NOT_OVER in str(error):
                raise
            return self._refusal(guest, case)
        return self._judge(guest, case, info, quits=True)

    def _refusal(self, guest: TinyGuest, case: Case) -> Result:
        """QEMU has ended by itself: with a message, and only if it had to."""
        status, message = guest.wait(), guest.stderr().strip()
        wrong = ""
        if status != 1:
            wrong = f"QEMU ended with status {status}"
        elif not any(name in message for name in PROPERTIES):
            wrong = "the message names no property"
        elif "refused" not in case["expect"]:
            wrong = f"QEMU refused to start, expected {case['expect']}"
        return {"outcome": "refused", "message": message[-1500:], "wrong": wrong}

    def _judge(self, guest: TinyGuest, case: Case, info: Result, quits: bool = False) -> Result:
        """The guest runs: is the state right, is it explained, does it heal?"""
        row: Result = {"outcome": info["state"], "reasons": info["reasons"], "wrong": ""}
        wrong = []
        if info["state"] not in (STOPPED if case["expect"] == ["stopped"] else case["expect"]):
            wrong.append(f"state {info['state']}, expected {case['expect']}")
        explained = info["reasons"] or info["state"] in ("ready", "populating")
        if not explained or ("stopped" in case["expect"] and LOST not in guest.stderr()):
            wrong.append("no reason is given")
        if info["state"] == "ready" and info["populated-bytes"] != info["total-bytes"]:
            wrong.append("ready, but not populated")
        if info.get("faults-since-ready", 0) > 1 << 40:
            wrong.append(f"{info['faults-since-ready']} faults")
        if "stopped" in case["expect"]:
            row["outcome"], why = self._revive(guest)
            wrong += why
        guest.wait_alive()
        wrong += _details(case, info, self._plan.seen)
        wrong += self._heal(guest, case)
        if quits and (status := guest.quit()):
            wrong.append(f"exit status {status}")
        if not guest.stderr() and info["state"] == "failed":
            wrong.append("nothing on stderr")
        row["wrong"] = "; ".join(wrong)
        if wrong:
            row["message"] = guest.stderr()[-1500:]
        return row

    def _revive(self, guest: TinyGuest) -> tuple[str, list[str]]:
        """A guest that QEMU has stopped for good: only a reset helps."""
        wrong = []
        self._plan.disarm()
        status = guest.qmp.command("query-status")["status"]
        if status != "internal-error":
            wrong.append(f"the guest is {status}, expected internal-error")
        if "error" not in guest.qmp.exchange("cont"):
            wrong.append("the guest could be continued without a reset")
        guest.qmp.command("system_reset")
        guest.qmp.command("cont")
        return "stopped", wrong

    @staticmethod
    def _outcome(guest: TinyGuest, case: Case) -> Result:
        """The end of the pass, or of the guest: what is left to do waits for its reset."""
        if case["expect"] != ["stopped"]:
            return _wait_pass(guest)
        while not _stopped(guest):
            if guest.left <= 0.1:
                status = guest.qmp.command("query-status")["status"]
                raise GuestError(f"the guest was not stopped for good, but is {status}")
            time.sleep(0.02)
        info = guest.prefault()
        assert info is not None
        return info

    def _heal(self, guest: TinyGuest, case: Case) -> list[str]:
        """Without the failure the next pass gets everything, and nothing is lost."""
        self._plan.disarm()
        wrong = []
        if case["heals"]:
            wrong += _wait_ready(guest)
        if "failed" not in case["expect"]:
            guest.qmp.command("kvm-prefault")
            info = _wait_pass(guest)
            if info["state"] != "ready":
                wrong.append(f"afterwards {info['state']}: {info['reasons']}")
            elif info["populated-bytes"] != info["total-bytes"]:
                wrong.append("afterwards ready, but not populated")
        guest.wait_alive()
        if not guest.pattern_is_intact():
            wrong.append("guest data has changed")
        return wrong

    def _running(self, case: Case) -> Result:
        if self._guest is None:
            self._plan.disarm()
            self._guest = self._new_guest("running")
            self._guest.start_monitor()
            info = _wait_pass(self._guest)
            if info["state"] != "ready":
                raise GuestError(f"before the first case: {info['state']}, {info['reasons']}")
            self._guest.wait_alive()
            self._base = self._guest.holds()
        guest = self._guest
        guest.renew_deadline()
        self._arm(case)
        TRIGGERS[case["when"]](guest, self._plan)
        row = self._judge(guest, case, self._outcome(guest, case))
        if (now := guest.holds()) != self._base:
            row["wrong"] = "; ".join(filter(None, (row["wrong"],
                                                   f"holds {now}, before {self._base}")))
            self._base = now
        return row


def _command(guest: TinyGuest, _plan: Plan) -> None:
    guest.qmp.command("kvm-prefault")


def _reset(guest: TinyGuest, _plan: Plan) -> None:
    guest.qmp.forget_events("RESET")
    guest.qmp.command("system_reset")
    guest.qmp.wait_event("RESET", guest.left)


def _stopped(guest: TinyGuest) -> bool:
    return bool(guest.qmp.command("query-status")["status"] == "internal-error")


def _slots(guest: TinyGuest, plan: Plan) -> None:
    """The guest changes slots all the time: wait until that has met the failure.

    A failure that stops the guest is the last one.
    """
    while not plan.met and not _stopped(guest):
        if guest.left <= 0.1:
            raise GuestError(f"no slot change has met the failure: {plan.seen}")
        time.sleep(0.02)


def _stop(guest: TinyGuest, plan: Plan) -> None:
    """In the middle of a pass that the guest waits for, with a vCPU that is not its own.

    With method ioctl that is so in the second address space, SMM's.  A guest that is not
    running cannot be stopped for good; that it must not go on shows when it is to.
    """
    plan.disarm()
    _reset(guest, plan)
    begin = 0.5 if guest.spec.accel["prefault-method"] == "ioctl" else 0
    while True:
        info = guest.prefault()
        assert info is not None
        if info["state"] != "populating" or guest.left <= 0.1:
            raise GuestError(f"not in the middle of a pass: {info}")
        if info["populated-bytes"] > begin * info["total-bytes"]:
            break
    plan.arm_again()
    guest.qmp.command("stop")
    guest.qmp.exchange("cont")


TRIGGERS: dict[str, Callable[[TinyGuest, Plan], None]] = {
    "command": _command, "reset": _reset, "slots": _slots, "stop": _stop}


@scenario
def faults(context: Context) -> Result:
    """options.cases, in order."""
    cases = Cases(context)
    rows = []
    for case in context.spec.options["cases"]:
        rows.append({"id": case["id"], **cases.run(case)})
    end = cases.close()
    return {"booted": True, "cases": rows, **({"error": end} if end else {})}
