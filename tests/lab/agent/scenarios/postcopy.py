# SPDX-License-Identifier: GPL-2.0-or-later
"""Postcopy: refused where pages would be missing, and not elsewhere."""

from typing import Any

from ..guest import Guest
from . import Context, Steps, scenario
from .migrate import other_guest, set_up, settle, wait_migration

POSTCOPY = ["postcopy-ram"]


@scenario
def postcopy_refused(context: Context) -> dict[str, Any]:
    """The destination's answer when the capability is set, by QMP and on the command line."""
    with other_guest(context, "target", context.spec.config,
                     ["-incoming", "defer"]).start() as target:
        answer = target.qmp.exchange("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True} for name in POSTCOPY])
        target.quit()
    with other_guest(context, "target-global", context.spec.config,
                     ["-incoming", "defer", "-global",
                      "migration.x-postcopy-ram=on"]).start(console=False) as target:
        status = target.wait()
    return {"exit_status": status, "message": target.stderr().strip(),
            "refused": answer.get("error", {}).get("desc")}


@scenario
def postcopy_announced(context: Context) -> dict[str, Any]:
    """A source that wants it loses the destination, and the guest goes on."""
    stream = f"unix:{context.paths.work}/stream"
    with context.guest("source").start() as source, \
         other_guest(context, "target", context.spec.config, ["-incoming", "defer"]).start() as target:
        source.boot()
        set_up(source, POSTCOPY, {})
        target.qmp.command("migrate-incoming", uri=stream)
        source.qmp.command("migrate", uri=stream)
        wait_migration(source, "failed")
        status = target.wait()
        source.ask("ping")
        info = source.wait_prefault(("ready",))
        booted = source.power_off() == 0
    return {"booted": booted, "query": info, "exit_status": status,
            "message": target.stderr().strip()}


def _switch_to_postcopy(source: Guest, stream: str) -> None:
    set_up(source, POSTCOPY, {"max_bandwidth": 4 << 20})
    source.qmp.command("migrate", uri=stream)
    wait_migration(source, "active")
    source.qmp.command("migrate-start-postcopy")
    wait_migration(source)


@scenario
def postcopy_out(context: Context) -> dict[str, Any]:
    """From a source with prefault to a destination without."""
    steps = Steps(context)
    stream = f"unix:{context.paths.work}/stream"
    with context.guest("source").start() as source, \
         other_guest(context, "target", "stock", ["-incoming", "defer"]).start() as target:
        source.boot()
        source.ask(f"hold {context.spec.touched_mib // 4}")
        steps.mark("boot")
        set_up(target, POSTCOPY, {})
        target.qmp.command("migrate-incoming", uri=stream)
        _switch_to_postcopy(source, stream)
        wait_migration(target)
        messages = source.stderr().strip()
        source.quit()
        settle(context, target, steps, "postcopy into a guest without prefault")
        info = target.prefault()
        status = target.power_off()
    return {"booted": status == 0, "events": steps.rows, "query": info, "message": messages}
