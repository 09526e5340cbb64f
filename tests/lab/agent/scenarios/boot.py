# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot, touch memory, power off: the rows of boot.json and matrix.json."""

import statistics
from typing import Any

from .. import hole
from ..guest import Guest
from . import Context, prefault_facts, scenario

# The emulator itself now and then stands still for longer than all of the hole takes.  That
# falls into one part: the median leaves it out, first_touch_worst_part_ms shows it.
PARTS = 8


def _program_times(guest: Guest) -> dict[str, float]:
    """The guest's kernel clears a program's pages, which is part of the first time."""
    values = guest.boot().values
    return {"program_touch_ms": float(values["first_touch_ms"]),
            "program_again_ms": float(values["second_touch_ms"])}


def _parts_ms(guest: Guest) -> list[float]:
    size = hole.SMALL_MIB // PARTS
    return [float(guest.ask(f"physwrite {size} {hole.AT_MIB + part * size}").values["ms"])
            for part in range(PARTS)]


def _hole_times(guest: Guest) -> dict[str, float]:
    """Nobody but the host has to provide the pages of the hole."""
    first, second = _parts_ms(guest), _parts_ms(guest)
    return {"first_touch_ms": round(PARTS * statistics.median(first), 3),
            "first_touch_worst_part_ms": max(first),
            "second_touch_ms": round(PARTS * statistics.median(second), 3)}


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
