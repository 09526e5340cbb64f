# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots and migration, all on one host, through files."""

import dataclasses
import subprocess
import time
from typing import Any, Callable

from ..guest import Guest, GuestError
from . import Context, Steps, scenario
from .lifecycle import life


def wait_migration(guest: Guest, wanted: str = "completed") -> None:
    """Poll query-migrate until it has ended; any other end is an error."""
    while True:
        info = guest.qmp.command("query-migrate")
        status = info.get("status", "none")
        if status == wanted:
            return
        if status in ("completed", "failed", "cancelled"):
            raise GuestError(f"migration {status}, expected {wanted}: "
                             f"{info.get('error-desc')}")
        if guest.left <= 0.1:
            raise GuestError(f"migration is still {status}")
        time.sleep(0.1)


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
        guest.ask("check")
        guest.ask(f"touch {context.spec.touched_mib // 2}")
        steps.mark("loadvm")
        info = guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, "events": steps.rows, "query": info}


def _other_config(context: Context) -> str:
    return context.spec.options.get("to", context.spec.config)


@scenario
def migrate(context: Context, before_cont: Callable[[], None] | None = None) -> dict[str, Any]:
    """To a file, from it into a second QEMU, then cont there.

    options.to names the destination's config, default: the source's.
    """
    steps = Steps(context)
    stream = f"file:{context.paths.work}/stream"
    with context.guest("source").start() as source:
        source.boot()
        source.ask(f"hold {context.spec.touched_mib // 4}")
        steps.mark("boot")
        source.qmp.command("migrate", uri=stream)
        wait_migration(source)
        source.quit()
        steps.mark("source")
    target_spec = dataclasses.replace(context.spec, config=_other_config(context))
    target = Guest(target_spec, context.paths, "target", ["-incoming", "defer", "-S"])
    context.remember(target)
    with target.start():
        target.qmp.command("migrate-incoming", uri=stream)
        wait_migration(target)
        before = target.prefault()
        if before_cont:
            before_cont()
        target.qmp.command("cont")
        target.ask("check")
        target.ask(f"touch {context.spec.touched_mib // 2}")
        steps.mark("incoming, cont")
        info = target.prefault()
        status = target.power_off()
    return {"booted": status == 0, "events": steps.rows, "query": info,
            "query_before_cont": before}


@life
def dirty_log(context: Context, guest: Guest, steps: Steps) -> None:
    """A migration that is cancelled: write protection goes, mappings return."""
    guest.ask(f"hold {context.spec.touched_mib // 4}")
    guest.qmp.command("migrate-set-parameters", max_bandwidth=1 << 20)
    guest.qmp.command("migrate", uri=f"file:{context.paths.work}/stream")
    guest.ask("check")
    steps.mark("while migrating")
    guest.qmp.command("migrate_cancel")
    wait_migration(guest, "cancelled")
    if context.spec.config == "prefault":
        guest.wait_prefault(("ready", "partial"))
    # What the guest did between the cancellation and the end of the pass.
    steps.mark("cancelling")
    guest.ask("check")
    guest.ask(f"touch {context.spec.touched_mib // 2}")
    steps.mark("after a cancelled migration")
