# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations that do not succeed: at the source in each phase, and at the destination."""

from pathlib import Path
from typing import Any, Callable

from ..guest import Guest
from ..stream import Sink, feed
from . import Context, Steps, scenario
from .lifecycle import life
from .migrate import LOGGED, other_guest, set_up, settle, wait_migration

SLOW = {"max_bandwidth": 1 << 20, "downtime_limit": 300}
# The guest may be stopped for so long that it is stopped at once.
AT_ONCE = {"max_bandwidth": 1 << 40, "downtime_limit": 2000000}

Failure = Callable[[Guest, Sink], None]
_failures: dict[str, Failure] = {}


def _phase(name: str) -> Callable[[Failure], Failure]:
    def register(function: Failure) -> Failure:
        _failures[name] = function
        return function
    return register


def _cancel(guest: Guest, *ends: str) -> None:
    guest.qmp.command("migrate_cancel")
    wait_migration(guest, "cancelled", *ends)


def _start(guest: Guest, sink: Sink, parameters: dict[str, Any], *states: str,
           pause: bool = False, answer: bool = False) -> None:
    guest.qmp.command("migrate-set-capabilities", capabilities=[
        {"capability": "pause-before-switchover", "state": pause},
        {"capability": "return-path", "state": answer}])
    set_up(guest, [], parameters)
    guest.qmp.command("migrate", uri=sink.uri)
    wait_migration(guest, *states)


@_phase("nobody listens")
def _nobody(guest: Guest, sink: Sink) -> None:
    sink.hang_up()
    guest.qmp.exchange("migrate", uri=sink.uri)
    wait_migration(guest, "failed")


@_phase("cancel at once")
def _at_once(guest: Guest, sink: Sink) -> None:
    _start(guest, sink, SLOW, "setup", "active")
    _cancel(guest)


@_phase("cancel while active")
def _active(guest: Guest, sink: Sink) -> None:
    _start(guest, sink, SLOW, "active")
    guest.ask("check")
    _cancel(guest)


@_phase("destination dies while active")
def _dies_active(guest: Guest, sink: Sink) -> None:
    _start(guest, sink, SLOW, "active")
    guest.ask("check")
    sink.hang_up()
    wait_migration(guest, "failed")


@_phase("cancel while stopped")
def _stopped(guest: Guest, sink: Sink) -> None:
    _start(guest, sink, SLOW, "active")
    guest.ask("check")
    guest.qmp.command("stop")
    _cancel(guest)


@_phase("cancel before switch-over")
def _switchover(guest: Guest, sink: Sink) -> None:
    _start(guest, sink, AT_ONCE, "pre-switchover", pause=True)


@_phase("destination dies in device state")
@_phase("cancel in device state")
def _device(guest: Guest, sink: Sink) -> None:
    """Everything is sent, and the destination never says that it has arrived."""
    _start(guest, sink, AT_ONCE, "device", answer=True)


def _finish(guest: Guest, sink: Sink, phase: str) -> None:
    """The end of those phases that have stopped the guest."""
    if phase == "cancel while stopped":
        guest.qmp.command("cont")
    elif phase.startswith("destination dies"):
        sink.hang_up()
        wait_migration(guest, "failed")
    else:
        # in device state the return path reports its own end
        _cancel(guest, "failed")


def _fail(context: Context, guest: Guest, steps: Steps, phase: str) -> None:
    path = Path(context.paths.work) / "sink"
    path.unlink(missing_ok=True)
    sink = Sink(str(path))
    try:
        _failures[phase](guest, sink)
        stopped = guest.qmp.command("query-status")["status"] != "running"
        if stopped:
            # until here the guest ran with write-protected pages
            steps.mark(f"{phase}: before", note=LOGGED)
            _finish(guest, sink, phase)
        guest.wait_prefault(("ready",))
        if not stopped:
            steps.mark(f"{phase}: until mapped again", note=LOGGED)
    finally:
        sink.hang_up()
    settle(context, guest, steps, phase, mapped=(guest.prefault() or {}).get("mapped"))


@life
def source_fails(context: Context, guest: Guest, steps: Steps) -> dict[str, Any]:
    """options.phases one after the other; in each the guest comes back."""
    guest.ask(f"hold {context.spec.touched_mib // 8}")
    before = guest.prefault()
    for phase in context.spec.options.get("phases", _failures):
        _fail(context, guest, steps, phase)
    return {"query_before": before}


def _incoming(context: Context, data: bytes, number: int) -> dict[str, Any]:
    """A destination that gets this stream must end by itself."""
    path = f"{context.paths.work}/incoming-{number}"
    guest = other_guest(context, f"target-{number}", context.spec.config,
                        ["-incoming", f"unix:{path}"])
    with guest.start():
        feed(path, data, guest.left)
        status = guest.wait()
    return {"exit_status": status, "message": guest.stderr().strip()}


def _damaged(stream: bytes) -> dict[str, bytes]:
    """A whole stream ends in a description of the device state before it."""
    half, described = len(stream) // 2, stream.rindex(b'{"configuration"')
    return {"no stream": b"garbage " * 64, "nothing": b"", "ends in RAM": stream[:half],
            "ends in device state": stream[:described - 2000],
            "RAM is damaged": stream[:half] + b"\xff" * 8192 + stream[half:]}


def _second_try(context: Context, steps: Steps, stream: bytes) -> dict[str, Any]:
    """A destination that survives a bad stream takes a good one."""
    path = f"{context.paths.work}/incoming-again"
    guest = other_guest(context, "target-again", context.spec.config, ["-incoming", "defer"])
    with guest.start():
        guest.qmp.command("migrate-incoming", uri=f"unix:{path}", exit_on_error=False)
        feed(path, stream[:len(stream) // 2], guest.left)
        wait_migration(guest, "failed")
        Path(path).unlink(missing_ok=True)
        guest.qmp.command("migrate-incoming", uri=f"unix:{path}", exit_on_error=False)
        feed(path, stream, guest.left)
        wait_migration(guest)
        settle(context, guest, steps, "incoming, second try")
        info = guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, "query": info}


@scenario
def destination_fails(context: Context) -> dict[str, Any]:
    """Streams that end too early or are none; then a good one after a bad one."""
    steps = Steps(context)
    saved = Path(context.paths.work) / "stream"
    with context.guest("source").start() as source:
        source.boot()
        source.ask(f"hold {context.spec.touched_mib // 8}")
        source.qmp.command("migrate", uri=f"file:{saved}")
        wait_migration(source)
        source.quit()
    stream = saved.read_bytes()
    saved.unlink()
    steps.mark("source", note=LOGGED)
    ends = {name: _incoming(context, data, number)
            for number, (name, data) in enumerate(_damaged(stream).items())}
    more = _second_try(context, steps, stream)
    return {**more, "ends": ends, "events": steps.rows}
