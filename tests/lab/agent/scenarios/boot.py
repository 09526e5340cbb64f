# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot, touch memory, power off: the rows of boot.json and matrix.json."""

from typing import Any

from .. import hole
from ..guest import Guest
from . import Context, prefault_facts, scenario


def _program_times(guest: Guest) -> dict[str, float]:
    """The guest's kernel clears a program's pages, which is part of the first time."""
    values = guest.boot().values
    return {"program_touch_ms": float(values["first_touch_ms"]),
            "program_again_ms": float(values["second_touch_ms"])}


def _hole_times(guest: Guest) -> dict[str, float]:
    """Nobody but the host has to provide the pages of the hole."""
    answers = [guest.ask(f"physwrite {hole.SMALL_MIB} {hole.AT_MIB}") for _ in range(2)]
    first, second = (float(answer.values["ms"]) for answer in answers)
    return {"first_touch_ms": first, "second_touch_ms": second}


def _boot(context: Context, guest: Guest, has_hole: bool) -> dict[str, Any]:
    """The tracepoint is read before the query and after power-off."""
    with guest.start():
        times = _program_times(guest)
        if has_hole:
            times |= _hole_times(guest)
        counts = context.faults.counts()
        facts = prefault_facts(guest.prefault())
        status = guest.power_off()
    return {"booted": status == 0, **times, **facts,
            "ram_faults_at_query": counts["ram_faults"], "exit_status": status,
            "boot_ms": guest.milliseconds}


@scenario
def boot(context: Context) -> dict[str, Any]:
    return _boot(context, context.guest(), has_hole=False)


@scenario
def first_touch(context: Context) -> dict[str, Any]:
    """For guests of 256 MiB and more; the program and the hole share what boot() touches."""
    spec = hole.with_hole(context.spec)
    spec.touch_mib = context.spec.touched_mib - hole.SMALL_MIB
    return _boot(context, context.remember(Guest(spec, context.paths)), has_hole=True)
