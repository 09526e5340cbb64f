# SPDX-License-Identifier: GPL-2.0-or-later
"""Share emulated hosts among runs: a boot costs seconds, so it is not wasted."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

from . import debugkernel, host
from .config import DEFAULT_KERNEL, Config
from .emulator import Machine

RUNS_PER_HOST = 8
HOST_MEM_MIB = 2048
LARGE_HOST_MEM_MIB = 4096
# Only the framework reads these fields, they are not sent to the agent.
FRAMEWORK_FIELDS = ("groups", "host_append", "host_cpus", "host_mem_mib", "kernel", "kvm",
                    "kvm_parameters", "lab", "rootfs")

Run = dict[str, Any]


def plain(run: Run) -> Run:
    return {key: value for key, value in run.items() if key not in FRAMEWORK_FIELDS}


def machine_for(runs: list[Run]) -> Machine:
    """One emulated CPU, on which guests of several run well, unless a run asks for more."""
    guest_mib = max(run.get("mem_mib", 256) for run in runs)
    mem_mib = LARGE_HOST_MEM_MIB if guest_mib > 512 else HOST_MEM_MIB
    kvm, append = runs[0].get("kvm", "stock"), runs[0].get("host_append", "")
    kernel = runs[0].get("kernel", DEFAULT_KERNEL)
    if kvm == "debug":
        append += " " + debugkernel.command_line(kernel, runs[0].get("kvm_parameters", {}))
    return Machine(cpus=max(run.get("host_cpus", 1) for run in runs),
                   mem_mib=max(mem_mib, guest_mib + HOST_MEM_MIB,
                               *(run.get("host_mem_mib", 0) for run in runs)),
                   append=append.strip(), kvm=kvm,
                   kernel=kernel, lab=runs[0].get("lab", ""),
                   upstream=any(_needs_upstream(run) for run in runs),
                   rootfs=runs[0].get("rootfs", ""))


def _needs_upstream(run: Run) -> bool:
    """One side of a migration is the unchanged QEMU."""
    return "upstream" in (run.get("config"), run.get("options", {}).get("to"))


def _kind(run: Run) -> tuple[Any, ...]:
    """Runs that differ in this cannot share a host."""
    machine = machine_for([run])
    return (machine.cpus, machine.mem_mib, machine.append, machine.kvm, machine.kernel,
            machine.lab, machine.upstream, machine.rootfs,
            tuple(sorted(run.get("kvm_parameters", {}).items())))


def batches(runs: list[Run]) -> list[list[Run]]:
    """Group in order; a host that dies takes at most RUNS_PER_HOST with it."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_kind(run), []).append(run)
    return [group[at:at + RUNS_PER_HOST] for group in groups.values()
            for at in range(0, len(group), RUNS_PER_HOST)]


def _at_once(config: Config, groups: list[list[Run]]) -> int:
    """How many hosts may be emulated at the same time."""
    beside = all(host.run_beside_others(machine_for(group).lab or config.lab)
                 for group in groups)
    return min(len(groups), os.cpu_count() or 1) if beside else 1


def _in_threads(jobs: list[Callable[[], host.Outcome]], count: int) -> list[host.Outcome]:
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # leaving the block waits for all threads
            host.cancel()
            raise


def run(config: Config, runs: list[Run], listener: host.Listener) -> list[host.Outcome]:
    """Run everything; one outcome per host that was booted, in the order of batches()."""
    groups = batches(runs)
    jobs = [functools.partial(host.run_job, config, [plain(one) for one in group],
                              machine_for(group), group[0].get("kvm_parameters"), listener)
            for group in groups]
    count = _at_once(config, groups)
    if count > 1:
        return _in_threads(jobs, count)
    return [job() for job in jobs]
