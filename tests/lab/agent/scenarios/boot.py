# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot, touch memory, power off: the rows of boot.json and matrix.json."""

from typing import Any

from ..console import Line
from . import Context, prefault_facts, scenario


def touch_times(line: Line) -> dict[str, float]:
    return {name: float(line.values[name])
            for name in ("first_touch_ms", "second_touch_ms")}


@scenario
def boot(context: Context) -> dict[str, Any]:
    """The tracepoint is read before the query and after power-off."""
    with context.guest().start() as guest:
        touched = guest.boot()
        counts = context.faults.counts()
        facts = prefault_facts(guest.prefault())
        status = guest.power_off()
    return {"booted": status == 0, **touch_times(touched), **facts,
            "ram_faults_at_query": counts["ram_faults"], "exit_status": status,
            "boot_ms": guest.milliseconds}
