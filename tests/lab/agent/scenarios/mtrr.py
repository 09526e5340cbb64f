# SPDX-License-Identifier: GPL-2.0-or-later
"""What guest MTRRs cost with non-coherent DMA, and whether memory types are right."""

import dataclasses
from typing import Any

from .. import mtrrlab
from ..ftrace import ONE_MIB, OS
from ..guest import Guest
from . import Context, prefault_facts, scenario

# Of "full" and of stock modules, the probes; of the others, KVM's own statistics.
STATS = ("mtrr_zaps", "mtrr_zap_gfns_skipped", "mtrr_zap_ns", "mtrr_zap_walks",
         "mtrr_zap_walk_gfns", "mtrr_zap_walk_sptes", "mtrr_zap_walk_ns")


def zap_facts(counts: dict[str, Any]) -> dict[str, Any]:
    """The fields of mtrr.json; a KVM without statistics of zaps has only the probes'."""
    own = "mtrr_zaps" in counts
    return {"zap_cycles": counts["cycles"], "calls": counts["calls"],
            "zaps": counts["mtrr_zaps" if own else "walks"],
            "gfns": counts["mtrr_zap_walk_gfns" if own else "walk_gfns"],
            "sptes_zapped": counts["mtrr_zap_walk_sptes" if own else "walk_sptes"],
            "counts": counts}


def _since(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Statistics of zaps go on; those of pages are of now."""
    return {name: value - before[name] if name in STATS and name in before else value
            for name, value in after.items()}


@scenario
def mtrr_burst(context: Context) -> dict[str, Any]:
    """options.passes times all vCPUs program their MTRRs at once, all memory mapped."""
    spec = context.spec
    mtrrlab.load()
    mode = mtrrlab.choose(spec.zap)
    mtrrlab.warm_up(mode)
    found = mtrrlab.run("burst", mode, str(spec.smp), str(spec.mem_mib),
                        str(spec.options.get("passes", 2)), limit=spec.timeout)
    before = found.pop("before")
    return {"firmware": "burst", "zap": spec.zap, "before": before,
            "burst_ms": found["burst_ms"], **zap_facts(_since(before, found))}


def _program(context: Context, command: str, amount: str) -> dict[str, Any]:
    spec = context.spec
    mtrrlab.load()
    found = mtrrlab.run(command, mtrrlab.choose(spec.zap), str(spec.smp), str(spec.mem_mib),
                        str(spec.options[amount]), str(spec.options.get("seed", 1)),
                        limit=spec.timeout)
    return {"zap": spec.zap, **found}


@scenario
def mtrr_verify(context: Context) -> dict[str, Any]:
    """options: rounds, seed.  Random MTRRs on all vCPUs, then every leaf is looked at."""
    return _program(context, "verify", "rounds")


@scenario
def mtrr_stress(context: Context) -> dict[str, Any]:
    """options: seconds_of_stress, seed.  MTRRs, CR0.CD, DMA and memory all at once."""
    return _program(context, "stress", "seconds_of_stress")


def _with_mode(context: Context, mode: str) -> Guest:
    accel = {} if mode == "stock" else {"mtrr-zap": mode}
    spec = dataclasses.replace(context.spec, accel={**context.spec.accel, **accel})
    return context.remember(Guest(spec, context.paths, extra=["-S"]))


def _statistics(guest: Guest) -> dict[str, int]:
    """KVM's statistics of zaps; none from stock modules."""
    answer = guest.qmp.command("query-stats", target="vm", providers=[{"provider": "kvm"}])
    return {stat["name"].replace("-", "_"): stat["value"]
            for entry in answer for stat in entry["stats"]
            if stat["name"].replace("-", "_") in STATS}


def _check(pid: str, mode: str) -> dict[str, Any]:
    """ "check": the leaves of a VM that is stopped, where they have memory types."""
    if not mtrrlab.has_memory_types():
        return {}
    return {"check": mtrrlab.run("check", pid, mode, limit=300)}


@scenario
def mtrr_boot(context: Context) -> dict[str, Any]:
    """Firmware and Linux with non-coherent DMA from before the first instruction on."""
    mtrrlab.load()
    mode = mtrrlab.choose(context.spec.zap)
    mtrrlab.warm_up(mode)
    with _with_mode(context, mode).start() as guest:
        pid = str(guest.process.pid)
        mtrrlab.run("start", pid, limit=60)
        mtrrlab.run("reset", limit=60)
        before = _statistics(guest)
        # The VM of the warm-up had faults of its own.
        context.faults.watch(context.spec.machine, context.spec.mem_mib)
        context.faults.watch_part(ONE_MIB, context.spec.mem_mib << 20, OS)
        guest.qmp.command("cont")
        guest.boot()
        counts = mtrrlab.run("counts", limit=60) | _since(before, _statistics(guest))
        info = guest.prefault()
        high = context.faults.part_count()
        guest.qmp.command("stop")
        check = _check(pid, mode)
        guest.qmp.command("cont")
        status = guest.power_off()
    return {"booted": status == 0, "exit_status": status, "zap": context.spec.zap,
            "boot_ms": guest.milliseconds, "ram_faults_os_above_1m": high, **check, **prefault_facts(info),
            **zap_facts(counts)}
