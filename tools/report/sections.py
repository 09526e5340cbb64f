# SPDX-License-Identifier: GPL-2.0-or-later
"""The sections of the page, in its order: a result file each."""

from dataclasses import dataclass
from typing import Callable

from . import pictures, tables
from .load import Row, fields
from .pictures import Part


@dataclass(frozen=True)
class Section:
    """What one result file shows, which command makes it, and which fields are looked at."""

    key: str
    title: str
    says: str
    command: str
    fields: dict[str, str]
    parts: Callable[[list[Row]], list[Part]]
    file: str = ""
    has_times: bool = False

    @property
    def name(self) -> str:
        return self.file or f"{self.key}.json"


BOOT = fields(text="name config machine firmware error scenario", flag="booted",
              number="smp mem_mib host_page_kib ram_faults ram_faults_above_1m ram_faults_os "
                     "populate_ms first_touch_ms second_touch_ms program_touch_ms", object="query")

SECTIONS = (
    Section("timeline", "RAM faults over guest time",
            "Each step up is a second-level page fault on guest RAM: the guest stopped and waited "
            "for KVM. Naive is KVM_PRE_FAULT_MEMORY on every slot at start and nothing else. A "
            "curve ends where the guest has switched itself off.",
            "tests/lab/lab timeline",
            fields(text="config error", number="host_page_kib ram_faults", points="faults",
                   numbers="phases"), pictures.timeline, has_times=True),
    Section("latency", "First-touch latency",
            "How long the guest's first access to a page takes: what the median page costs, and "
            "what the slowest pages cost.", "make bench-latency",
            fields(text="config access", points="histogram",
                   number="host_page_kib p50_ns p99_ns p999_ns max_ns samples ram_faults"),
            pictures.latency, has_times=True),
    Section("cow", "Faults per page that is read, then written",
            "A page that is read first is mapped read-only and copied when it is written. With "
            "always-writable, which needs the patched KVM, one fault does it all.",
            "make bench-cow",
            fields(text="name config error",
                   number="host_page_kib tdp_faults_per_page tdp_read_faults_per_page "
                          "tdp_write_faults_per_page host_cow_per_page populate_ms "
                          "two_pass_populate_ms"), pictures.cow, has_times=True),
    Section("mtrr", "Zaps for guest MTRRs",
            "With an assigned device whose DMA is not coherent, Linux up to 6.10 drops mappings "
            "when firmware programs MTRRs. Cycles are those of all vCPUs together.",
            "make bench-mtrr",
            fields(text="name config firmware lab error",
                   number="smp host_cpus zap_cycles zaps gfns sptes_zapped"),
            pictures.mtrr, has_times=True),
    Section("support", "Where it works",
            "RAM faults of a guest with prefault=on from its first instruction on, by kernel, KVM "
            "and second-level tables. In brackets: those of firmware, where each change of slots "
            "drops all mappings.", "tests/lab/lab support",
            fields(text="name kernel kvm lab firmware error", flag="booted",
                   number="ram_faults ram_faults_os", object="accel query"), tables.support),
    Section("boot", "One boot",
            "The same guest three times: as any QEMU runs it, with its memory allocated at start, "
            "and with prefault=on.", "make boot", BOOT, tables.boots, has_times=True),
    Section("matrix", "The boot matrix",
            "The same for all machines, firmware, page sizes and numbers of vCPUs.",
            "make bench-boot", BOOT, tables.boots, has_times=True),
    Section("matrix-ept", "The boot matrix, EPT",
            "The same on a host with Intel's EPT.", "make bench-boot LAB=ept", BOOT,
            tables.boots, has_times=True),
    Section("populate", "Population",
            "Seconds that it takes to fill the second-level tables for one GiB, by each method. "
            "Host is the bare allocation, without tables.", "make bench-populate",
            fields(text="config", number="threads host_page_kib s_per_gib"), tables.populate,
            has_times=True),
    Section("lifecycle", "Life cycle",
            "RAM faults that a prefaulted guest takes in each event of its life: reset, "
            "migration, plugging.", "make check",
            fields(text="event machine note", number="ram_faults"), tables.lifecycle),
    Section("soak", "Soak",
            "The same events hundreds of times on one guest: nothing may become more.",
            "make soak",
            fields(text="event", number="number rss_kib locked_kib threads fds ranges ram_faults"),
            tables.soak),
    Section("faults", "Calls that fail",
            "System calls of the fork's own fail on purpose, one at a time: it has to refuse, or "
            "to go on and say so.", "make check-faults",
            fields(text="id outcome wrong", flag="passed", texts="case"), tables.faults),
    Section("selftests", "KVM selftests",
            "The kernel's own tests of KVM, with stock and with patched modules.",
            "make selftests",
            fields(text="name kernel lab config result reason", number="seconds"),
            tables.selftests),
    Section("mmu", "What KVM's MMU does",
            "Flushes, zaps, syncs and faults that each situation costs, with stock and with "
            "patched modules. Timed statements only pass or fail.", "make bench-mmu",
            fields(text="statement kernel config lab result reason", numbers="counts",
                   flag="worse"), tables.mmu),
    Section("upstream-qtest", "QEMU's own tests",
            "QEMU's qtests on the unchanged source and on the fork, case by case.",
            "make check-upstream", fields(text="name config result"), tables.upstream),
    Section("debug", "Debugging kernel",
            "Guests and KVM selftests on a host whose kernel has lockdep, KASAN and PROVE_RCU.",
            "make check-debug", fields(text="name config scenario result error"), tables.debug),
)
