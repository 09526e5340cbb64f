# SPDX-License-Identifier: GPL-2.0-or-later
"""How long single first accesses to untouched memory take, for each way to provide it.

The guest (guest/latency.c) times each access and leaves the times in its memory, from
where the monitor fetches them.  All ways take turns on one host, several rounds; the
percentiles are those of the samples of all rounds.
"""

import bisect
import dataclasses
import sys
from array import array
from typing import Any

from .. import hole, kvmhost
from ..guest import Guest, GuestError
from ..spec import Spec
from . import Context, Steps, scenario

CONFIGS = ("stock", "prealloc", "prefault")
ACCESSES = ("write", "read")
PERCENTILES = {"p50_ns": 50, "p99_ns": 99, "p999_ns": 99.9}
# Behind the memory of each access its samples: 2 KiB per MiB, twice.
SAMPLES_MIB = 2
# Upper ends of the histogram's classes: four per power of two.
CLASSES = [round(2 ** (quarter / 4)) for quarter in range(16, 33 * 4)]


@dataclasses.dataclass
class Samples:
    """What the accesses of one kind took, in ns, and what they caused."""

    first: list[float] = dataclasses.field(default_factory=list)
    again: list[float] = dataclasses.field(default_factory=list)
    rounds: list[dict[str, float]] = dataclasses.field(default_factory=list)
    page_faults: list[int | None] = dataclasses.field(default_factory=list)
    ram_faults: list[int | None] = dataclasses.field(default_factory=list)


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest sample that so many percent do not exceed."""
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def summary(ordered: list[float]) -> dict[str, float]:
    found = {name: percentile(ordered, percent) for name, percent in PERCENTILES.items()}
    return {name: round(ns, 1) for name, ns in {**found, "max_ns": ordered[-1]}.items()}


def histogram(ordered: list[float]) -> list[list[int]]:
    """[upper end in ns, samples] of each class that has any."""
    below = [bisect.bisect_right(ordered, upper) for upper in CLASSES]
    counts = [end - start for start, end in zip([0, *below], below)]
    return [[upper, count] for upper, count in zip(CLASSES, counts) if count]


def hole_at(access: str, mib: int) -> int:
    return hole.AT_MIB + ACCESSES.index(access) * (mib + SAMPLES_MIB)


def _with_hole(spec: Spec, config: str, mib: int) -> Spec:
    size = len(ACCESSES) * (mib + SAMPLES_MIB)
    return dataclasses.replace(hole.with_hole(spec, size), config=config)


def _fetch(guest: Guest, at: int, size: int) -> "array[int]":
    dump = guest.work / "samples"
    guest.qmp.command("pmemsave", val=at, size=size, filename=str(dump))
    ticks = array("I", dump.read_bytes())
    dump.unlink()
    if ticks.itemsize != 4 or sys.byteorder != "little":
        raise GuestError("the samples are 32-bit little endian numbers, this host's are not")
    return ticks


def _total(counts: list[int | None]) -> int | None:
    """None where faults cannot be counted."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _measure(context: Context, guest: Guest, access: str, mib: int, into: Samples) -> None:
    """Every page of the access's part of the hole, once for the first time and once again."""
    at = hole_at(access, mib) << 20
    context.faults.watch_part(at, at + (mib << 20))
    steps = Steps(context)
    steps.mark("before")
    line = guest.ask(f"time{access} {mib} {at >> 20}")
    steps.mark(access)
    into.page_faults.append(context.faults.part_count())
    into.ram_faults.append(steps.rows[-1]["ram_faults"])
    ticks = _fetch(guest, at + (mib << 20), int(line.values["bytes"]))
    ns_per_tick = 1e6 / float(line.values["tsc_khz"])
    pages = int(line.values["pages"])
    first = [tick * ns_per_tick for tick in ticks[:pages]]
    into.first += first
    into.again += [tick * ns_per_tick for tick in ticks[pages:]]
    into.rounds.append(summary(sorted(first)))


def _one_guest(context: Context, config: str, samples: dict[str, Samples]) -> None:
    mib = context.spec.options["mib"]
    kvmhost.scrub(context.spec.mem_mib * 5 // 4)
    guest = context.remember(Guest(_with_hole(context.spec, config, mib), context.paths,
                                   f"guest{len(context.guests)}"))
    with guest.start():
        guest.boot()
        for access in ACCESSES:
            _measure(context, guest, access, mib, samples[access])
        info = guest.prefault()
        if status := guest.power_off():
            raise GuestError(f"{config}: QEMU ended with status {status}")
    if config == "prefault" and (info is None or info["state"] != "ready"):
        raise GuestError(f"the guest was measured without its memory populated: {info}")


def _row(spec: Spec, config: str, access: str, found: Samples) -> dict[str, Any]:
    first = sorted(found.first)
    return {"config": config, "host_page_kib": spec.host_page_kib, "access": access,
            "samples": len(first), **summary(first), "ram_faults": _total(found.ram_faults),
            "page_faults": _total(found.page_faults), "again": summary(sorted(found.again)),
            "rounds": found.rounds, "histogram": histogram(first)}


@scenario
def latency(context: Context) -> dict[str, Any]:
    """options: mib of memory per access, rounds."""
    found = {config: {access: Samples() for access in ACCESSES} for config in CONFIGS}
    for _ in range(context.spec.options["rounds"]):
        for config, samples in found.items():
            _one_guest(context, config, samples)
    return {"booted": True, "latencies": [
        _row(context.spec, config, access, samples)
        for config, by_access in found.items() for access, samples in by_access.items()]}
