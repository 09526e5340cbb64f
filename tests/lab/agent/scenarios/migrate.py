# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots and migration, all on one host."""

import dataclasses
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .lifecycle import life

ENDS = ("completed", "failed", "cancelled")
# Why a guest faults all the same.
LOGGED = "pages are write-protected until dirty logging has ended"


def wait_migration(guest: Guest, *wanted: str) -> dict[str, Any]:
    """Poll query-migrate until it has one of these states; any other end is an error."""
    wanted = wanted or ("completed",)
    while True:
        info = guest.qmp.command("query-migrate")
        status = info.get("status", "none")
        if status in wanted:
            return info
        if status in ENDS:
            raise GuestError(f"migration {status}, expected {' or '.join(wanted)}: "
                             f"{info.get('error-desc')}")
        if guest.left <= 0.1:
            raise GuestError(f"migration is still {status}")
        time.sleep(0.05)


def set_up(guest: Guest, capabilities: list[str], parameters: dict[str, Any]) -> None:
    """The same on both sides, but for what only one of them needs."""
    if capabilities:
        guest.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True} for name in capabilities])
    if parameters:
        guest.qmp.command("migrate-set-parameters", **parameters)


def settle(context: Context, guest: Guest, steps: Steps, event: str, **more: Any) -> None:
    """What a guest does after an event: memory is as it was, and it goes on.

    For options.seconds it goes on; the guest's seconds are the host's.
    """
    end = time.monotonic() + context.spec.options.get("seconds", 0)
    guest.ask("check")
    guest.ask(f"touch {context.spec.touched_mib // 2}")
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1))
        guest.ask("check")
    steps.mark(event, **more)


def _hmp(guest: Guest, line: str) -> None:
    """HMP commands report failure as text only."""
    answer = guest.qmp.command("human-monitor-command", guest.left,
                               command_line=line)
    if answer.strip():
        raise GuestError(f"{line}: {answer.strip()}")


@scenario
def snapshot(context: Context) -> dict[str, Any]:
    """savevm, go on, loadvm: memory is as it was and mapped again."""
    steps = Steps(context)
    image = f"{context.paths.work}/snapshot.qcow2"
    subprocess.run([context.paths.qemu_img, "create", "-q", "-f", "qcow2", image, "64M"],
                   check=True, timeout=60)
    drive = ["-blockdev", "driver=qcow2,node-name=snap,file.driver=file,"
                          f"file.filename={image}"]
    with context.guest(extra=drive).start() as guest:
        guest.boot()
        guest.ask(f"hold {context.spec.touched_mib // 4}")
        steps.mark("boot")
        _hmp(guest, "savevm one")
        guest.ask("check")
        guest.ask("check")
        steps.mark("savevm")
        _hmp(guest, "loadvm one")
        settle(context, guest, steps, "loadvm")
        info = guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, "events": steps.rows, "query": info}


def other_guest(context: Context, name: str, config: str, extra: list[str]) -> Guest:
    """A second guest on the same host."""
    spec = dataclasses.replace(context.spec, config=config)
    return context.remember(Guest(spec, context.paths, name, extra))


def start_target(context: Context) -> Guest:
    """A destination that waits for its stream; options.to names its config."""
    options = context.spec.options
    config = options.get("to", context.spec.config)
    extra = ["-incoming", "defer"] + ([] if options.get("autostart") else ["-S"])
    guest = other_guest(context, "target", config, extra).start()
    set_up(guest, options.get("capabilities", []), options.get("parameters", {}))
    if config == "prefault":
        # so that what is mapped when the guest arrives does not depend on speed
        guest.wait_prefault(("ready",))
    return guest


def _send(context: Context, source: Guest, uri: str) -> None:
    options = context.spec.options
    set_up(source, options.get("capabilities", []), options.get("parameters", {}))
    source.qmp.command("migrate", uri=uri)
    wait_migration(source)


def _booted_source(context: Context, steps: Steps) -> Guest:
    """options.wait_mib: the memory that the guest must have plugged before."""
    source = context.guest("source").start()
    source.boot()
    source.ask(f"waitmem {context.spec.options.get('wait_mib', 0)}")
    source.ask(f"hold {context.spec.touched_mib // 4}")
    steps.mark("boot")
    return source


def _arrive(context: Context, target: Guest, steps: Steps,
            before_cont: Callable[[Guest], None] | None) -> dict[str, Any]:
    """The stream has been sent: let the guest run, and use its memory."""
    wait_migration(target)
    before = target.prefault()
    if before_cont:
        before_cont(target)
    if not context.spec.options.get("autostart"):
        target.qmp.command("cont")
    settle(context, target, steps, "incoming, cont")
    info = target.prefault()
    status = target.power_off()
    return {"booted": status == 0, "events": steps.rows, "query": info,
            "query_before_cont": before, "message": target.stderr().strip()}


@scenario
def migrate(context: Context,
            before_cont: Callable[[Guest], None] | None = None) -> dict[str, Any]:
    """To a file, from it into a second QEMU, then cont there."""
    steps = Steps(context)
    stream = f"file:{context.paths.work}/stream"
    with _booted_source(context, steps) as source:
        _send(context, source, stream)
        source.quit()
        steps.mark("source", note=LOGGED)
    with start_target(context) as target:
        target.qmp.command("migrate-incoming", uri=stream)
        return _arrive(context, target, steps, before_cont)


@scenario
def migrate_live(context: Context) -> dict[str, Any]:
    """Through a socket, while the guest runs."""
    steps = Steps(context)
    stream = f"unix:{context.paths.work}/stream"
    with _booted_source(context, steps) as source, start_target(context) as target:
        target.qmp.command("migrate-incoming", uri=stream)
        _send(context, source, stream)
        source.quit()
        # from here on all faults are the destination's
        steps.mark("source", note=LOGGED)
        return _arrive(context, target, steps, None)


def _channel(kind: str, path: Path) -> dict[str, Any]:
    return {"channel-type": kind,
            "addr": {"transport": "socket", "type": "unix", "path": str(path)}}


def _wait_for(path: Path, guest: Guest) -> None:
    while not path.exists():
        if guest.left <= 0.1 or guest.process.poll() is not None:
            raise GuestError(f"QEMU did not open {path.name}: {guest.stderr().strip()}")
        time.sleep(0.05)


@scenario
def cpr_transfer(context: Context) -> dict[str, Any]:
    """To a QEMU that takes over the memory itself; it has no monitor before that."""
    steps = Steps(context)
    main, cpr = (Path(context.paths.work) / name for name in ("main", "cpr"))
    target = other_guest(context, "target", context.spec.config,
                         ["-incoming", f"unix:{main}",
                          "-incoming", json.dumps(_channel("cpr", cpr))])
    with _booted_source(context, steps) as source, target.start(console=False):
        _wait_for(cpr, target)
        set_up(source, [], {"mode": "cpr-transfer"})
        source.qmp.command("migrate", channels=[_channel("main", main), _channel("cpr", cpr)])
        wait_migration(source)
        source.quit()
        target.connect()
        return _arrive(context, target, steps, None)


@life
def dirty_log(context: Context, guest: Guest, steps: Steps) -> None:
    """A migration that is cancelled: write protection goes, mappings return."""
    guest.ask(f"hold {context.spec.touched_mib // 4}")
    guest.qmp.command("migrate-set-parameters", max_bandwidth=1 << 20)
    guest.qmp.command("migrate", uri=f"file:{context.paths.work}/stream")
    guest.ask("check")
    steps.mark("while migrating", note=LOGGED)
    guest.qmp.command("migrate_cancel")
    wait_migration(guest, "cancelled")
    if context.spec.config == "prefault":
        guest.wait_prefault(("ready", "partial"))
    # What the guest did between the cancellation and the end of the pass.
    steps.mark("cancelling", note=LOGGED)
    settle(context, guest, steps, "after a cancelled migration")


@life
def background_snapshot(context: Context, guest: Guest, steps: Steps) -> dict[str, Any]:
    """Saved while the guest runs, by write protection; then all is mapped as before."""
    guest.ask(f"hold {context.spec.touched_mib // 4}")
    before = guest.prefault()
    set_up(guest, ["background-snapshot"], {"max_bandwidth": 16 << 20})
    guest.qmp.command("migrate", uri=f"file:{context.paths.work}/stream")
    guest.ask("check")
    refused = guest.qmp.exchange("kvm-prefault")
    during = guest.prefault()
    wait_migration(guest)
    guest.wait_prefault(("ready",))
    steps.mark("background snapshot, until mapped again",
               note="pages are write-protected until they are saved")
    settle(context, guest, steps, "background snapshot")
    return {"query_before": before, "query_during": during, "message": guest.stderr(),
            "refused": refused.get("error", {}).get("desc")}
