# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest pays for reading a page before it writes it, and for population.

The pages lie in a hole (hole.py), so nothing in the guest has touched them.
"""

import dataclasses
from pathlib import Path
from typing import Any

from .. import hole, kvmhost
from ..guest import Guest, GuestError
from . import Context, prefault_facts, scenario

PAGES = hole.SMALL_MIB * 256
ROUNDS = 4
MINFLT = 7


def minor_faults(pid: int) -> int:
    """Host page faults of all of QEMU's threads, those inside KVM included."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return int(text.rsplit(") ", 1)[1].split()[MINFLT])


def mappings_made(guest: Guest) -> int:
    """KVM's own count of faults that put a mapping in place, in the whole guest."""
    vcpus = guest.qmp.command("query-stats", target="vcpu", providers=[
        {"provider": "kvm", "names": ["pf_fixed"]}])
    return sum(stat["value"] for vcpu in vcpus for stat in vcpu["stats"])


@dataclasses.dataclass
class Step:
    """What one walk over the pages of the hole took, per page."""

    tdp: float | None
    mapped: float
    host: float
    nonzero: int


def _step(context: Context, guest: Guest, command: str) -> Step:
    pid = guest.process.pid
    host, mapped = minor_faults(pid), mappings_made(guest)
    tdp = context.faults.part_count()
    line = guest.ask(f"{command} {hole.SMALL_MIB} {hole.AT_MIB}")
    if int(line.values["pages"]) != PAGES:
        raise GuestError(f"{line.text}: expected {PAGES} pages")
    now = context.faults.part_count()
    return Step(None if tdp is None or now is None else (now - tdp) / PAGES,
                (mappings_made(guest) - mapped) / PAGES,
                round((minor_faults(pid) - host) / PAGES, 4),
                int(line.values.get("nonzero", 0)))


def _facts(read: Step, write: Step, check: Step) -> dict[str, Any]:
    """A host fault on the write of a page that was just read is a copy.

    Exits can outnumber mappings: a copy on the host invalidates, so that KVM
    gives the fault up that caused it and the guest takes it again.
    """
    total = None if read.tdp is None or write.tdp is None else read.tdp + write.tdp
    return {"pages": PAGES, "tdp_faults_per_page": total,
            "tdp_read_faults_per_page": read.tdp, "tdp_write_faults_per_page": write.tdp,
            "tdp_mapped_per_page": round(read.mapped + write.mapped, 4),
            "host_faults_per_page": round(read.host + write.host, 4),
            "host_cow_per_page": write.host,
            "nonzero_before": read.nonzero, "nonzero_after": check.nonzero}


@scenario
def cow(context: Context) -> dict[str, Any]:
    """Read every page of the hole, then write every page, then read again."""
    with context.remember(Guest(hole.with_hole(context.spec), context.paths)).start() as guest:
        guest.boot()
        context.faults.watch_part(hole.AT_MIB << 20, (hole.AT_MIB + hole.SMALL_MIB) << 20)
        steps = [_step(context, guest, command)
                 for command in ("physread", "physwrite", "physread")]
        info = guest.prefault()
        status = guest.power_off()
    return {"booted": status == 0, **_facts(*steps), **prefault_facts(info),
            "always_writable": bool(info and info["always-writable"])}


def _populate_once(context: Context, mode: str) -> dict[str, Any]:
    """query-kvm-prefault once the guest may start; the guest itself is not needed."""
    spec = dataclasses.replace(context.spec, accel={
        **context.spec.accel, "pin-ram": "off", "always-writable": mode})
    kvmhost.scrub(spec.mem_mib * 5 // 4)
    guest = Guest(spec, context.paths, f"guest{len(context.guests)}")
    context.guests.append(guest)
    with guest.start():
        info = guest.wait_prefault(("ready", "partial", "failed"))
        guest.quit()
    if info["state"] != "ready" or info["always-writable"] != (mode == "on"):
        raise GuestError(f"population with always-writable={mode} ended as {info}")
    return info


@scenario
def populate(context: Context) -> dict[str, Any]:
    """Population of untouched memory in one pass and in two, by turns.

    Other work on the machine can only add to a time, hence the shortest.
    """
    times: dict[str, list[float]] = {"on": [], "off": []}
    for _ in range(ROUNDS):
        for mode, found in times.items():
            found.append(_populate_once(context, mode)["duration-us"] / 1000)
    return {"booted": False, "populate_ms": min(times["on"]),
            "two_pass_populate_ms": min(times["off"]),
            "populate_ms_all": times["on"], "two_pass_populate_ms_all": times["off"]}
