# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a job: read it, run each scenario, print each result as one line.

Lines that start with "@@LAB " carry JSON with a "type": hello (the host),
begin (a run starts), progress (where a long one is), result (a run ended),
log (the host's kernel log after a failure), done.  Everything else on the channel is noise.
"""

import json
import os
import sys
import termios
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from . import kernellog, kvmhost, races, scenarios
from .ftrace import NoFaults, RamFaults
from .spec import Paths, Spec

LOG_LINES = 200


class Agent:
    """Runs one job on this machine."""

    def __init__(self, job: dict[str, Any], out: TextIO):
        self._job = job
        self._out = out
        self._paths = Paths(**job["paths"])
        self._emulated = job["emulated"]
        Path(self._paths.work).mkdir(parents=True, exist_ok=True)
        # for qemu-img as well, whose races are no failure of a run either
        os.environ.update(races.environment(Path(self._paths.work)))
        self._faults: RamFaults | NoFaults = NoFaults("not set up")
        self._kernel_log: kernellog.KernelLog | None = None
        self._functions = races.our_functions() if self._emulated else []
        self._failed = False
        self._used = False

    def run(self) -> bool:
        """True when every run gave a result without an error."""
        modes: dict[str, str] = {}
        try:
            self._set_up()
            modes = kvmhost.page_size_now()
            for data in self._job["runs"]:
                self._one(data)
        except Exception as error:  # pylint: disable=broad-except
            self._failed = True
            self._say("error", error=str(error), traceback=traceback.format_exc())
        if self._failed:
            self._say("log", lines=kvmhost.kernel_log().splitlines()[-LOG_LINES:])
        if not self._emulated:
            self._restore(modes)
        self._say("done", failed=self._failed)
        return not self._failed

    def _set_up(self) -> None:
        if self._emulated:
            kvmhost.load_modules(Path(self._job["modules"]), self._job["vendor_module"],
                                 self._job["kvm_parameters"])
            self._check_kvm(self._job.get("kvm", "stock"))
            self._watch_kernel(self._job.get("kvm", "stock"))
        try:
            self._faults = RamFaults(None if self._emulated else self._pid())
        except OSError as error:
            self._faults = NoFaults(f"tracefs cannot be used ({error}): "
                                    "ram_faults are missing, run as root")
        self._say("hello", host=kvmhost.describe(),
                  notice=getattr(self._faults, "reason", None))

    @staticmethod
    def _check_kvm(wanted: str) -> None:
        expected = "patched" if wanted == "debug" else wanted
        if (found := kvmhost.kvm_kind()) != expected:
            raise RuntimeError(f"the KVM that was loaded is {found}, expected {expected}")

    def _watch_kernel(self, wanted: str) -> None:
        """A debug kernel's log is read after every run, first for its own start."""
        if wanted != "debug":
            return
        self._kernel_log = kernellog.KernelLog()
        found = kernellog.reports(self._kernel_log.new_lines())
        if reason := kernellog.verdict(found):
            raise RuntimeError("\n".join([f"before the first run: {reason}", *found]))

    def _kernel_reports(self, expected: str, error: str) -> dict[str, Any]:
        """A report fails the run that it came in, whatever became of the guests."""
        if self._kernel_log is None:
            return {}
        found = kernellog.reports(self._kernel_log.new_lines())
        row: dict[str, Any] = {"kernel_reports": found}
        if reason := kernellog.verdict(found, expected):
            self._failed = True
            row["error"] = "; ".join(filter(None, (reason, error)))
        return row

    def _restore(self, modes: dict[str, str]) -> None:
        self._faults.close()
        try:
            kvmhost.restore_page_size(modes)
        except OSError as error:
            self._say("notice", text=f"huge page mode left as it is: {error}")

    @staticmethod
    def _pid() -> int:
        return int(Path("/proc/self").resolve().name)

    def _one(self, data: dict[str, Any]) -> None:
        self._say("begin", name=data["name"])
        start = time.monotonic()
        spec = Spec.from_json(data)
        context = scenarios.Context(spec, self._paths, self._faults,
                                    progress=lambda text: self._say("progress", text=text))
        row = {**spec.dimensions, "scenario": spec.scenario, "booted": False}
        try:
            self._prepare(spec)
            row |= scenarios.find(spec.scenario)(context)
        except Exception as error:  # pylint: disable=broad-except
            self._failed = True
            row |= {"error": f"{type(error).__name__}: {error}",
                    "traceback": traceback.format_exc(),
                    "evidence": [guest.evidence() for guest in context.guests]}
        row |= self._kernel_reports(spec.options.get("kernel_report", ""),
                                    row.get("error", ""))
        row |= races.collect(Path(self._paths.work), self._functions)
        row |= self._faults.counts()
        if spec.config == "prefault" and row["ram_faults"]:
            row["fault_samples"] = self._faults.samples()
            row["os_samples"] = self._faults.os_samples()
        if "error" in row:
            row["stub_samples"] = self._faults.stub_samples()
        row["seconds"] = round(time.monotonic() - start, 3)
        self._say("result", **row)

    def _prepare(self, spec: Spec) -> None:
        kvmhost.set_page_size(spec.host_page_kib)
        self._reserve_huge_pages(spec)
        measured = spec.scenario in ("boot", "first_touch", "state") and spec.backend == "ram"
        if self._emulated and self._used and measured:
            kvmhost.scrub(spec.mem_mib * 5 // 4)
        self._used = True
        self._faults.watch(spec.machine, spec.mem_mib, spec.below_mib, spec.hotplug_mib)

    def _reserve_huge_pages(self, spec: Spec) -> None:
        """The emulated host is ours; elsewhere they must be there already."""
        want = spec.options.get("huge_mib", spec.mem_mib) if spec.backend == "hugetlb" else 0
        if spec.host_page_kib == 1048576:
            # reserved by the host's command line; later there is no room for them
            got = kvmhost.free_huge_pages(spec.host_page_kib)
        elif self._emulated:
            got = kvmhost.set_huge_pages(want)
        else:
            got = kvmhost.free_huge_pages()
        if got < want:
            raise RuntimeError(f"{got} MiB in free huge pages, {want} MiB needed: "
                               "raise vm.nr_hugepages (1 GiB pages: hugepagesz=1G)")

    def _say(self, kind: str, **fields: Any) -> None:
        self._out.write("@@LAB " + json.dumps({"type": kind, **fields}) + "\n")
        self._out.flush()


def open_port(name: str) -> TextIO:
    """The emulated host's serial port, which an emulator may give real speed."""
    port = open(name, "w", encoding="utf-8")
    mode = termios.tcgetattr(port)
    mode[4] = mode[5] = termios.B115200
    termios.tcsetattr(port, termios.TCSANOW, mode)
    return port


def main() -> int:
    """Arguments: the job file and, on the emulated host, the output device."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = open_port(sys.argv[2]) if len(sys.argv) > 2 else sys.stdout
    ok = Agent(job, out).run()
    if job["emulated"]:
        # What has not been sent by now is lost.
        termios.tcdrain(out)
        kvmhost.power_off()
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
