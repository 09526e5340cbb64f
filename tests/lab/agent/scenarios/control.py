# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor while population runs, and ways to end QEMU meanwhile."""

import time
from typing import Any, Callable

from ..guest import Guest, GuestError
from . import Context, Steps, prefault_facts, scenario


def poll(guest: Guest, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """query-kvm-prefault as fast as it answers, with each answer's delay."""
    samples = []
    while True:
        start = time.monotonic()
        info = guest.prefault()
        if info is None:
            raise GuestError("this QEMU has no query-kvm-prefault")
        samples.append({
            "state": info["state"], "populated": info["populated-bytes"],
            "host": info["host-bytes"], "total": info["total-bytes"],
            "answer_ms": round((time.monotonic() - start) * 1e3, 1)})
        if until(info):
            return samples
        if guest.left <= 0.1:
            raise GuestError(f"population has not ended: {samples[-1]}")
        time.sleep(0.01)


def thin(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Only the samples at which something changed."""
    kept: list[dict[str, Any]] = []
    for sample in samples:
        key = {k: v for k, v in sample.items() if k != "answer_ms"}
        if not kept or key != {k: v for k, v in kept[-1].items() if k != "answer_ms"}:
            kept.append(sample)
    return kept


@scenario
def progress(context: Context) -> dict[str, Any]:
    """Poll from the start until ready; the guest must be silent so far."""
    with context.guest().start() as guest:
        running = guest.qmp.command("query-status")["running"]
        samples = poll(guest, lambda info: info["state"] not in ("off", "populating"))
        silent = not guest.console.tail()
        guest.boot()
        guest.qmp.command("query-status")
        events = [e["data"] for e in guest.qmp.events if e["event"] == "KVM_PREFAULT_STATUS"]
        status = guest.power_off()
    return {"booted": status == 0, "samples": thin(samples), "polls": len(samples),
            "slowest_answer_ms": max(s["answer_ms"] for s in samples),
            "running_at_start": running, "silent_until_ready": silent,
            "status_events": events}


def _end(context: Context, how: Callable[[Guest], None]) -> dict[str, Any]:
    with context.guest().start() as guest:
        poll(guest, lambda info: info["state"] != "off")
        state = (guest.prefault() or {})["state"]
        start = time.monotonic()
        how(guest)
        status = guest.wait()
        seconds = time.monotonic() - start
    return {"booted": False, "state_before": state, "exit_status": status,
            "end_seconds": round(seconds, 2)}


@scenario
def quit_early(context: Context) -> dict[str, Any]:
    """QMP quit while the guest still waits."""
    return _end(context, lambda guest: guest.qmp.command("quit"))


@scenario
def sigterm_early(context: Context) -> dict[str, Any]:
    """SIGTERM while the guest still waits."""
    return _end(context, lambda guest: guest.process.terminate())


@scenario
def nowait(context: Context) -> dict[str, Any]:
    """prefault-wait=off: the guest starts at once, ready comes later."""
    steps = Steps(context)
    with context.guest().start() as guest:
        guest.boot()
        info = guest.wait_prefault(("ready", "partial", "failed"))
        steps.mark("until ready")
        guest.ask(f"touch {context.spec.touched_mib}")
        steps.mark("after ready")
        last = guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, "events": steps.rows, "ready": info, "query": last}


@scenario
def monitor(context: Context) -> dict[str, Any]:
    """HMP, the command kvm-prefault and its event, on a running guest."""
    with context.guest().start() as guest:
        guest.boot()
        text = guest.qmp.command("human-monitor-command",
                                 command_line="info kvm_prefault")
        guest.qmp.forget_events("KVM_PREFAULT_STATUS")
        before = guest.prefault()
        answer = guest.qmp.exchange("kvm-prefault")
        info = guest.wait_prefault(("ready", "partial", "failed", "off"))
        guest.ask("ping")
        guest.qmp.command("query-status")
        events = [e["data"] for e in guest.qmp.events if e["event"] == "KVM_PREFAULT_STATUS"]
        status = guest.power_off()
    return {"booted": status == 0, "hmp": text, "answer": answer, "before": before,
            "status_events": events, **prefault_facts(info)}
