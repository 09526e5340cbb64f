# SPDX-License-Identifier: GPL-2.0-or-later
"""Count second-level page faults on guest RAM with kvm:kvm_page_fault.

Trace instances hold the same event under different filters, so that the
kernel itself sorts the addresses and only per-CPU counters have to be read.
Faults that prefault-method=vcpu makes on purpose are told by the address of the
instruction, and counted apart from the guest's own.
The event is enabled once, before any guest runs: that patches kernel text,
which multi-threaded emulation of a running host does not always survive.
"""

import re
from collections import Counter
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
EVENT = "events/kvm/kvm_page_fault"
FOUR_GIB = 1 << 32
ONE_MIB = 1 << 20
BUFFER_KIB = 4096
# Where the instructions of prefault-method=vcpu lie, and no others.
STUB = "guest_rip >= 0xfeff8000 && guest_rip < 0xff000000"
NOT_STUB = "(guest_rip < 0xfeff8000 || guest_rip >= 0xff000000)"
# Firmware and the kernel's decompressor run below, kernel and programs above.
OS = "guest_rip >= 0x100000000"


def ram_ranges(machine: str, mem_mib: int, below_mib: int = 0,
               hotplug_mib: int = 0) -> list[tuple[int, int]]:
    """Guest-physical ranges of RAM as QEMU's pc and q35 lay them out.

    What is plugged begins at 4 GiB if no other RAM lies there.
    """
    size = mem_mib << 20
    if below_mib:
        below = min(below_mib << 20, size)
    elif machine == "q35":
        below = size if size < 0xb0000000 else 0x80000000
    else:
        below = size if size < 0xe0000000 else 0xc0000000
    ranges = [(0, below)]
    if size > below:
        ranges.append((FOUR_GIB, FOUR_GIB + size - below))
    elif hotplug_mib:
        ranges.append((FOUR_GIB, FOUR_GIB + (hotplug_mib << 20)))
    return ranges


def range_filter(ranges: list[tuple[int, int]], whose: str = NOT_STUB) -> str:
    """A trace filter: addresses in ranges, accessed by these instructions."""
    terms = []
    for start, end in ranges:
        low = f"fault_address >= {start:#x} && " if start else ""
        terms.append(f"({low}fault_address < {end:#x})")
    return f"({' || '.join(terms)}) && {whose}"


def above_1m(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(max(start, ONE_MIB), end) for start, end in ranges]


class Instance:
    """One trace instance with the page fault event."""

    def __init__(self, name: str):
        self.name = name
        self.path = TRACEFS / "instances" / f"qemu_prefault_{name}"
        self.path.mkdir(exist_ok=True)
        self._write("tracing_on", "1")
        self._write("buffer_size_kb", str(BUFFER_KIB))

    def enable(self, pid: int | None) -> None:
        if pid is not None:
            self._write("options/event-fork", "1")
            self._write("set_event_pid", str(pid))
        self._write(f"{EVENT}/enable", "1")

    def remove(self) -> None:
        self._write(f"{EVENT}/enable", "0")
        self.path.rmdir()

    def watch(self, ranges: list[tuple[int, int]], whose: str = NOT_STUB) -> None:
        self._write(f"{EVENT}/filter", range_filter(ranges, whose))
        self._write("trace", "")

    def count(self) -> int:
        """Events since watch(), those that the buffer lost included."""
        total = 0
        for stats in self.path.glob("per_cpu/cpu*/stats"):
            fields = dict(re.findall(r"^(.+?): (\d+)", stats.read_text(), re.M))
            total += sum(int(fields[name]) for name in
                         ("entries", "overrun", "commit overrun", "dropped events"))
        return total

    def record(self, kib: int) -> None:
        """Room for that much per CPU, and times that compare with other clocks'."""
        self._write("buffer_size_kb", str(kib))
        self._write("trace_clock", "mono")

    def times(self) -> list[float]:
        """When each event was, in seconds of CLOCK_MONOTONIC, in order."""
        text = (self.path / "trace").read_bytes()
        found = sorted(map(float, re.findall(rb" (\d+\.\d+): kvm_page_fault: ", text)))
        if len(found) != self.count():
            raise RuntimeError(f"the trace has {len(found)} of {self.count()} events: its "
                               "buffer is too small, see record()")
        return found

    def samples(self, limit: int) -> list[str]:
        """The commonest faults: "gpa error-code x times (first rip)"."""
        seen: Counter[tuple[str, str]] = Counter()
        first_rip: dict[tuple[str, str], str] = {}
        pattern = re.compile(r"rip 0x(\w+) address 0x(\w+) error_code 0x(\w+)")
        with open(self.path / "trace", encoding="ascii", errors="replace") as trace:
            for line in trace:
                if match := pattern.search(line):
                    rip, address, code = match.groups()
                    key = (f"{int(address, 16) & ~0xfff:#x}", code)
                    seen[key] += 1
                    first_rip.setdefault(key, rip)
        return [f"gpa {gpa} error {code} x {count} (first rip {first_rip[gpa, code]})"
                for (gpa, code), count in seen.most_common(limit)]

    def _write(self, name: str, value: str) -> None:
        (self.path / name).write_text(value, encoding="ascii")


class RamFaults:
    """All counters; none of them works without access to tracefs."""

    def __init__(self, follow_pid: int | None = None):
        self._ram = Instance("ram")
        self._high = Instance("above_1m")
        self._part = Instance("part")
        self._os = Instance("os")
        self._stub = Instance("stub")
        self._all = (self._ram, self._high, self._part, self._os, self._stub)
        self.watch("pc", 256)
        self.watch_part(0, ONE_MIB)
        for instance in self._all:
            instance.enable(follow_pid)

    def watch(self, machine: str, mem_mib: int, below_mib: int = 0,
              hotplug_mib: int = 0) -> None:
        """Set to zero and count on that guest's RAM from now on."""
        ranges = ram_ranges(machine, mem_mib, below_mib, hotplug_mib)
        self._ram.watch(ranges)
        self._high.watch(above_1m(ranges))
        self._os.watch(ranges, OS)
        self._stub.watch(ranges, STUB)

    def watch_part(self, start: int, end: int, whose: str = NOT_STUB) -> None:
        """Set to zero and count on this part of RAM, besides the whole of it."""
        self._part.watch([(start, end)], whose)

    def part_count(self) -> int:
        return self._part.count()

    def counts(self) -> dict[str, int]:
        return {"ram_faults": self._ram.count(),
                "ram_faults_above_1m": self._high.count(),
                "ram_faults_os": self._os.count(), "stub_touches": self._stub.count()}

    def record(self, kib: int) -> None:
        """Keep the events on RAM themselves; sets to zero as well."""
        self._ram.record(kib)

    def times(self) -> list[float]:
        """Of each event on RAM since record()."""
        return self._ram.times()

    def samples(self, limit: int = 24) -> list[str]:
        return self._ram.samples(limit)

    def os_samples(self, limit: int = 12) -> list[str]:
        return self._os.samples(limit)

    def stub_samples(self, limit: int = 12) -> list[str]:
        return self._stub.samples(limit)

    def close(self) -> None:
        for instance in self._all:
            instance.remove()


class NoFaults:
    """Stands in for RamFaults where tracefs cannot be used."""

    def __init__(self, reason: str):
        self.reason = reason

    def watch(self, machine: str, mem_mib: int, below_mib: int = 0,
              hotplug_mib: int = 0) -> None:
        """Nothing to set to zero."""

    def watch_part(self, start: int, end: int, whose: str = NOT_STUB) -> None:
        """Nothing to set to zero."""

    def part_count(self) -> None:
        return None

    def counts(self) -> dict[str, None]:
        return dict.fromkeys(("ram_faults", "ram_faults_above_1m", "ram_faults_os",
                              "stub_touches"))

    def samples(self, limit: int = 24) -> list[str]:
        return []

    def os_samples(self, limit: int = 12) -> list[str]:
        return []

    def stub_samples(self, limit: int = 12) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing to remove."""
