# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor, and ways to end or disturb a pass, at several moments of a population."""

import statistics
import time
from pathlib import Path
from typing import Any, Callable

from ..guest import GuestError
from ..tinyguest import TinyGuest
from . import Context, scenario
from .control import poll, thin

OVER = ("ready", "partial", "failed")


def _done(info: dict[str, Any]) -> float:
    """Share of the work: each byte is allocated, and mapped in each address space."""
    total = info["total-bytes"]
    return (info["host-bytes"] + info["populated-bytes"]) / (2 * total) if total else 0.0


def _wait_until(guest: TinyGuest, share: float) -> dict[str, Any]:
    """The first answer in which so much is done; the pass may be over by then."""
    samples = poll(guest, lambda info: info["state"] in OVER or (
        info["state"] == "populating" and _done(info) >= share))
    info = guest.prefault()
    assert info is not None and samples
    return info


def _quit(guest: TinyGuest) -> dict[str, Any]:
    guest.qmp.command("quit")
    return {"exit_status": guest.wait()}


def _sigterm(guest: TinyGuest) -> dict[str, Any]:
    guest.process.terminate()
    return {"exit_status": guest.wait()}


def _powerdown(guest: TinyGuest) -> dict[str, Any]:
    """The guest is told, and decides itself: this one goes on."""
    guest.qmp.command("system_powerdown")
    guest.qmp.wait_event("POWERDOWN", guest.left)
    return _end(guest)


def _stop(guest: TinyGuest) -> dict[str, Any]:
    """Nothing is populated while the guest is stopped; afterwards the rest is."""
    guest.qmp.command("stop")
    status = guest.qmp.command("query-status")["status"]
    guest.qmp.command("cont")
    return {"stopped": status, **_end(guest)}


def _migrate_cancel(guest: TinyGuest) -> dict[str, Any]:
    guest.qmp.command("migrate-set-parameters", max_bandwidth=1 << 20)
    guest.qmp.command("migrate", uri=f"file:{guest.work}/stream")
    guest.qmp.command("migrate_cancel")
    while (status := guest.qmp.command("query-migrate").get("status")) not in (
            "cancelled", "failed", "completed"):
        if guest.left <= 0.1:
            raise GuestError(f"migration is still {status}")
        time.sleep(0.02)
    Path(guest.work / "stream").unlink(missing_ok=True)
    return {"migration": status, **_end(guest)}


def _end(guest: TinyGuest) -> dict[str, Any]:
    """It lives, everything gets populated after all, and nothing is lost."""
    guest.wait_alive()
    info = guest.wait_prefault(OVER)
    guest.wait_alive()
    return {"state_after": info["state"], "intact": guest.pattern_is_intact(),
            "exit_status": guest.quit()}


WAYS: dict[str, Callable[[TinyGuest], dict[str, Any]]] = {
    "quit": _quit, "SIGTERM": _sigterm, "system_powerdown": _powerdown, "stop": _stop,
    "migrate_cancel": _migrate_cancel}


def _once(context: Context, way: str, share: float) -> dict[str, Any]:
    guest = TinyGuest(context.spec, context.paths, "moment")
    context.remember(guest)
    with guest:
        guest.start_monitor()
        before = _wait_until(guest, share)
        start = time.monotonic()
        facts = WAYS[way](guest)
        seconds = round(time.monotonic() - start, 2)
    return {"way": way, "at": share, "state_before": before["state"],
            "done_before": round(_done(before), 3), "seconds": seconds, **facts}


@scenario
def moments(context: Context) -> dict[str, Any]:
    """options.ways, each at all options.moments (shares of the work that are done)."""
    options = context.spec.options
    return {"booted": True, "moments": [_once(context, way, share) for way in options["ways"]
                                        for share in options["moments"]]}


@scenario
def responsive(context: Context) -> dict[str, Any]:
    """How long each query takes from the start until everything is populated."""
    with context.guest().start() as guest:
        samples = poll(guest, lambda info: info["state"] in OVER)
        silent = not any("@@GUEST boot" in line for line in guest.console.tail())
        guest.boot()
        info = guest.prefault()
        status = guest.power_off()
    answers = sorted(sample["answer_ms"] for sample in samples)
    return {"booted": status == 0, "query": info, "silent_until_ready": silent,
            "samples": thin(samples), "polls": len(samples),
            "answer_ms": {"median": statistics.median(answers), "longest": answers[-1],
                          "later_than_100": sum(answer > 100 for answer in answers)}}
