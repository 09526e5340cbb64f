# SPDX-License-Identifier: GPL-2.0-or-later
"""Result files as the lab writes them, small, with numbers that the lab has measured."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

HOST = {"lab": "npt", "kernel": "6.12.107+deb13-amd64", "cpus": 1, "kvm": "stock",
        "kvm_module": "kvm_amd", "tdp_mmu": "Y", "seconds": 71.3}
TOTALS = {"stock": 48446, "naive": 95529, "prefault": 0}


def _curve(total: int) -> list[list[float]]:
    """Firmware, kernel, then a program that touches memory; as many points as the lab writes."""
    if not total:
        return [[0, 0], [5.6, 0]]
    points = [[0.9 + at / 20, at * 20] for at in range(30)]
    points += [[3.1 + at / 30, 580 + (total - 580) * at // 70] for at in range(71)]
    return [[0, 0], *points, [5.6, total]]


def timeline() -> list[Row]:
    return [{"config": config, "host_page_kib": kib, "ram_faults": total // (1 + (kib > 4) * 80),
             "faults": _curve(total // (1 + (kib > 4) * 80)),
             "phases": {"firmware_end": 0.85, "linux_init": 2.3, "touched": 5.4, "end": 5.6}}
            for kib in (4, 2048) for config, total in TOTALS.items()]


# median, 99 %, 99.9 %, worst by configuration, access and page size
LATENCIES = {
    ("stock", "write", 4): (21_450.5, 88_120, 412_800, 9_120_400),
    ("prealloc", "write", 4): (9_800, 31_000, 140_000, 2_400_000),
    ("prefault", "write", 4): (310, 900, 4_100, 310_000),
    ("stock", "write", 2048): (350, 24_000, 690_000, 4_000_000),
    ("prealloc", "write", 2048): (340, 11_000, 70_000, 900_000),
    ("prefault", "write", 2048): (305, 880, 3_900, 250_000),
    ("stock", "read", 4): (15_000, 60_000, 300_000, 7_000_000),
    ("prealloc", "read", 4): (9_100, 30_000, 120_000, 2_000_000),
    ("prefault", "read", 4): (290, 800, 3_600, 240_000)}


def latency() -> list[Row]:
    rows = []
    for (config, access, kib), (p50, p99, p999, worst) in LATENCIES.items():
        rows.append({"config": config, "access": access, "host_page_kib": kib, "p50_ns": p50,
                     "p99_ns": p99, "p999_ns": p999, "max_ns": worst, "samples": 98304,
                     "histogram": [[p50, 49152], [p50 * 1.4, 30000], [p99, 18169], [p999, 885],
                                   [worst, 98]]})
    # older files have no histogram
    del rows[-1]["histogram"]
    return rows


def cow() -> list[Row]:
    faults = {("stock", 4): (3.0, 1.0, 2.0, 1.0), ("always-writable", 4): (1.0, 1.0, 0.0, 0.0),
              ("prefault", 4): (0.0, 0.0, 0.0, 0.0), ("stock", 2048): (0.006, 0.002, 0.004, 0.002),
              ("always-writable", 2048): (0.002, 0.002, 0.0, 0.0),
              ("prefault", 2048): (0.0, 0.0, 0.0, 0.0)}
    rows: list[Row] = [
        {"name": f"cow-{kib}k-{config}", "config": config, "host_page_kib": kib,
         "tdp_faults_per_page": total, "tdp_read_faults_per_page": read,
         "tdp_write_faults_per_page": write, "host_cow_per_page": copies, "booted": True,
         "populate_ms": 41.25 if config == "prefault" else None}
        for (config, kib), (total, read, write, copies) in faults.items()]
    return [*rows, {"name": "populate-4k", "config": "prefault", "host_page_kib": 4,
                    "populate_ms": 3120.4, "two_pass_populate_ms": 3561.7, "booted": False}]


def mtrr() -> list[Row]:
    rows: list[Row] = []
    for config, per_vcpu, zaps in (("stock", 4.1e8, 22), ("full", 4.0e8, 22),
                                   ("range", 6.2e6, 3), ("none", 1.1e6, 0)):
        for smp in (4, 8, 16):
            if config == "full" and smp == 4:
                continue
            rows.append({"name": f"burst-{config}-{smp}", "config": config, "firmware": "burst",
                         "smp": smp, "host_cpus": 2, "lab": "npt", "mem_mib": 1024,
                         "zap_cycles": int(per_vcpu * smp * smp), "zaps": zaps * smp,
                         "gfns": zaps * 262144, "sptes_zapped": zaps * 30000 * smp,
                         "kernel": "6.1.0-56-amd64"})
    return [*rows, {"name": "ovmf-stock-8", "config": "stock", "firmware": "ovmf", "smp": 8,
                    "lab": "ept", "error": "the guest did not boot"}]


def _support(lab: str, kernel: str, kvm: str, method: str, firmware: str, own: int,
             other: int) -> Row:
    query = {"slot-zap": "all" if other else "slot"}
    return {"name": f"support-{lab}-{kernel}-{kvm}-{method}-{firmware}", "lab": lab,
            "kernel": kernel, "kvm": kvm, "accel": {"prefault-method": method},
            "firmware": firmware, "config": "prefault", "booted": True, "ram_faults": own + other,
            "ram_faults_os": own, "query": query}


def support() -> list[Row]:
    return [_support("npt", "6.12.107-amd64", "stock", "ioctl", "seabios", 0, 0),
            _support("npt", "6.12.107-amd64", "stock", "ioctl", "ovmf", 0, 0),
            _support("npt", "6.1.0-56-amd64", "stock", "vcpu", "seabios", 0, 11),
            _support("ept", "6.1.0-56-amd64", "stock", "vcpu", "seabios", 0, 18),
            {"name": "support-ept-lost", "lab": "ept", "error": "no result for this run"}]


def boots() -> list[Row]:
    rows = []
    for config, faults, above, populate, first, program in (
            ("stock", 59834, 59601, None, 2287.3, 4580.2),
            ("prealloc", 59834, 59600, None, 1187.4, 2445.9),
            ("prefault", 0, 0, 926.4, 16.8, 327.1)):
        rows.append({"name": config, "config": config, "machine": "q35", "firmware": "seabios",
                     "smp": 1, "mem_mib": 256, "host_page_kib": 4, "kvm": "stock",
                     "booted": True, "ram_faults": faults, "ram_faults_above_1m": above,
                     "populate_ms": populate, "first_touch_ms": first, "second_touch_ms": 7.2,
                     "program_touch_ms": program, "query": None})
    return rows


def matrix() -> list[Row]:
    rows = []
    for number in range(15):
        row = {**boots()[2], "name": f"full-{number}", "smp": 1 + number % 8}
        rows.append(row if number != 7 else {**row, "booted": False, "error": "time limit"})
    return rows


def populate() -> list[Row]:
    return [{"config": config, "threads": threads, "host_page_kib": kib,
             "s_per_gib": round(base / threads ** 0.9, 4), "all": []}
            for kib in (4, 2048, 1048576) for threads in (1, 2)
            for config, base in (("host", 1.0), ("ioctl", 1.31), ("vcpu", 1.624))]


def lifecycle() -> list[Row]:
    return [{"event": event, "machine": machine, "ram_faults": faults,
             "note": f"lifecycle-{machine}: prefault"}
            for machine in ("pc", "q35")
            for event, faults in (("boot", 0), ("system_reset", 0), ("loadvm", 0),
                                  ("migrate", 3 if machine == "q35" else 0), ("end", None))]


def soak() -> list[Row]:
    return [{"event": event, "number": number, "rss_kib": 210000 + number, "locked_kib": 140000,
             "threads": 5, "fds": 31, "ranges": 9, "ram_faults": 0 if event != "migration" else 2}
            for event, times in (("guest reboot", 20), ("plug, unplug", 10), ("migration", 5))
            for number in range(times)]


def faults() -> list[Row]:
    rows = [{"id": f"{call} {error} always start {mode}", "passed": True, "outcome": "refused",
             "wrong": "", "case": {"call": call, "errno": error, "mode": mode, "when": "start"}}
            for call in ("mlock", "KVM_PRE_FAULT_MEMORY", "MADV_POPULATE_WRITE")
            for error in ("ENOMEM", "EFAULT") for mode in ("on", "auto")]
    rows[5] |= {"passed": False, "outcome": "hung", "wrong": "no answer on QMP"}
    return rows


def selftests() -> list[Row]:
    return [{"name": name, "kernel": kernel, "lab": "npt", "config": config, "seconds": 1.5,
             "result": "skip" if name == "x86_64/amx_test" else
             "fail" if (name, config, kernel) == ("mmu_zap_gfn", "patched", "6.1") else "pass",
             "reason": "expected 3, got 4" if name == "mmu_zap_gfn" else ""}
            for kernel in ("6.1", "6.12") for config in ("stock", "patched")
            for name in ("pre_fault_memory_test", "mmu_zap_gfn", "x86_64/amx_test")]


def mmu() -> list[Row]:
    return [{"statement": statement, "kernel": kernel, "lab": "npt", "config": config,
             "result": "pass", "reason": "", "worse": (statement, config) == ("sync", "patched"),
             "counts": {"flush_requests": flushes if config == "stock" else flushes // 4,
                        "faults": 0, "yields": 7}}
            for statement, flushes in (("zap_range", 1024), ("sync", 12))
            for kernel in ("6.1", "6.12") for config in ("stock", "patched")]


def upstream() -> list[Row]:
    rows = [{"name": f"qom-test /x86_64/qom/{machine}", "config": config, "result": "passed"}
            for config in ("upstream", "fork") for machine in ("pc", "q35", "microvm", "none")]
    rows[-1]["result"] = "failed"
    return rows


def debug() -> list[Row]:
    return [{"name": "debug-boot", "scenario": "boot", "config": "prefault", "result": "ok"},
            {"name": "debug-migrate", "scenario": "migrate", "config": "prefault",
             "result": "ERROR lockdep: possible circular locking"}]


def complete() -> dict[str, Row]:
    """All result files by name."""
    runs = {"timeline": timeline(), "latency": latency(), "cow": cow(), "mtrr": mtrr(),
            "support": support(), "boot": boots(), "matrix": matrix(), "matrix-ept": matrix()[:3],
            "populate": populate(), "lifecycle": lifecycle(), "soak": soak(), "faults": faults(),
            "selftests": selftests(), "mmu": mmu(), "upstream-qtest": upstream(),
            "debug": debug()}
    return {f"{name}.json": {"host": HOST, "runs": rows} for name, rows in runs.items()}


def write(directory: Path, files: dict[str, Any]) -> None:
    """Texts as they are, all else as JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name).write_text(text, encoding="utf-8")
