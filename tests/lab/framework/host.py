# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot an emulated host, or use this machine, and run one job on it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

from agent import kvmhost

from . import debugkernel, initramfs, packages, rootfs
from .bochs import BochsVmx
from .config import DEFAULT_KERNEL, LAB, SYSTEM_PYTHON, Config, LabError, exclusive
from .emulator import Emulator, Machine, TcgSvm

EMULATORS: dict[str, type[Emulator]] = {kind.name: kind for kind in (TcgSvm, BochsVmx)}
BOOT_TIMEOUT = 120
END_TIMEOUT = 60
GRACE = 60
PANIC = b"Kernel panic - not syncing"

_cancelled = threading.Event()

Listener = Callable[[dict[str, Any]], None]


@dataclass
class Outcome:
    """What came back from one job."""

    host: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    failure: str = ""
    log: list[str] = field(default_factory=list)
    artefacts: Path | None = None

    @property
    def ok(self) -> bool:
        return not self.failure and not any("error" in row for row in self.rows)

    def row(self, name: str) -> dict[str, Any]:
        """The result of one run; a run that gave none has an "error"."""
        for row in self.rows:
            if row["name"] == name:
                return row
        return {"name": name, "booted": False,
                "error": f"no result for this run: {self.failure or 'not in the job'}"}

    def take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "hello":
            self.host |= message["host"]
            if message["notice"]:
                self.notices.append(message["notice"])
        elif kind == "result":
            del message["type"]
            self.rows.append(message)
        elif kind == "log":
            self.log = message["lines"]
        elif kind == "notice":
            self.notices.append(message["text"])
        elif kind == "error":
            self.failure = message["error"]


def messages(text: str) -> Iterator[dict[str, Any]]:
    """The "@@LAB" lines of an agent's output."""
    for line in text.splitlines():
        if line.startswith("@@LAB "):
            yield json.loads(line[6:])


class AgentChannel:
    """Follows the file that the agent's serial port ends in."""

    def __init__(self, path: Path):
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """Messages that have become complete since the last call."""
        if not self._path.exists():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        return list(messages(data[:end].decode(errors="replace")))


class Watch:
    """The time limit of the phase that the job is in, by the emulator's clock.

    Real time is limited as well, for emulators whose clock can stand still.
    Slowness is a factor for kernels that take longer for everything.
    """

    def __init__(self, runs: list[dict[str, Any]], emulator: Emulator,
                 process: "subprocess.Popen[bytes]", slowness: int = 1):
        self._emulator, self._process = emulator, process
        self._slowness = slowness
        self._limits = {run["name"]: run.get("timeout", 180) for run in runs}
        self._enter("boot of the emulated host", BOOT_TIMEOUT)
        self.done = False

    def note(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "begin":
            self._enter(f"run {message['name']}", self._limits[message["name"]] + GRACE)
        elif kind in ("hello", "result"):
            self._enter("the agent, between runs", GRACE)
        elif kind == "done":
            self._enter("power-off of the emulated host", END_TIMEOUT)
            self.done = True

    def expired(self) -> str:
        if self._emulator.clock(self._process) >= self._deadline:
            return f"time limit of {self._seconds} s reached in: {self.phase}"
        if time.monotonic() >= self._real_deadline:
            return f"no end after {self._real_seconds} s of real time in: {self.phase}"
        return ""

    def _enter(self, phase: str, seconds: float) -> None:
        self.phase = phase
        self._seconds = seconds * self._emulator.patience * self._slowness
        self._deadline = self._emulator.clock(self._process) + self._seconds
        self._real_seconds = self._seconds * self._emulator.real_time_factor
        self._real_deadline = time.monotonic() + self._real_seconds


class EmulatedHost:
    """Boots the image once per job."""

    def __init__(self, config: Config, machine: Machine | None = None):
        self.config = config
        self.machine = machine or Machine()
        self.lab = self.machine.lab or config.lab
        self._image = initramfs.HostImage(config, self.machine.kvm, self.machine.kernel,
                                           self.machine.upstream)
        self._emulator = EMULATORS[self.lab](config, packages.rom_directories(config))
        if self.machine.rootfs:
            self._add_disk()

    def _add_disk(self) -> None:
        if self.lab != TcgSvm.name:
            raise LabError(f"'rootfs: {self.machine.rootfs}' needs a disk, which '{self.lab}' "
                           f"does not have: use --lab {TcgSvm.name}")
        self.machine.disk = rootfs.image(self.config, self.machine.rootfs)

    def paths(self) -> dict[str, str]:
        return {"qemu": "/lab/qemu", "qemu_upstream": "/lab/qemu-upstream",
                "qemu_img": "/lab/qemu-img", "firmware": "/lab/firmware",
                "ovmf_code": "/lab/firmware/OVMF_CODE",
                "ovmf_smm_code": "/lab/firmware/OVMF_CODE_SMM",
                "ovmf_vars": "/lab/firmware/OVMF_VARS", "kernel": "/lab/kernel",
                "initrd": "/lab/guest.cpio", "modules": "/lab/guest-modules.cpio",
                "work": "/tmp/lab", "host_validate": "/lab/prefault-host-validate"}

    def argv(self, work: Path, extra: dict[str, bytes]) -> list[str]:
        with preparing(self.config):
            base = self._image.build()
        if self.machine.rootfs:
            extra |= rootfs.files(self.config)
        initrd = initramfs.with_extra(base, work / "initrd", extra)
        return self._emulator.command(self.machine, self._image.kernel.image, initrd, work)

    def run(self, job: dict[str, Any], listener: Listener) -> Outcome:
        work = _fresh_directory(self.config)
        job |= {"emulated": True, "modules": "/lab/modules", "paths": self.paths(),
                "kvm": self.machine.kvm, "vendor_module": self._emulator.vendor_module,
                "runs": [self._for_this_lab(run) for run in job["runs"]]}
        argv = self.argv(work, {"/lab/job.json": json.dumps(job).encode()})
        outcome = Outcome(host={"lab": self.lab, "kvm": self.machine.kvm}, artefacts=work)
        with open(work / "emulator.log", "wb") as log:
            log.write((" ".join(argv) + "\n").encode())
            log.flush()
            # It ends with us, however we end.
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv],
                                       stdin=subprocess.PIPE, stdout=log, stderr=log,
                                       env={**os.environ, **self._emulator.environment})
            self._emulator.started(process)
            try:
                self._follow(process, work, job["runs"], outcome, listener)
            finally:
                _stop(process)
                self._emulator.tidy(work)
        _tidy(self.config, work, outcome)
        return outcome

    def _for_this_lab(self, run: dict[str, Any]) -> dict[str, Any]:
        append = f"{run.get('append', '')} {self._emulator.guest_append}".strip()
        return {**run, "append": append}

    def _follow(self, process: "subprocess.Popen[bytes]", work: Path,
                runs: list[dict[str, Any]], outcome: Outcome, listener: Listener) -> None:
        channel = AgentChannel(work / "agent.log")
        slowness = debugkernel.SLOWNESS if self.machine.kvm == "debug" else 1
        watch = Watch(runs, self._emulator, process, slowness)
        while True:
            status = process.poll()
            for message in channel.read():
                watch.note(message)
                listener(message)
                outcome.take(message)
            if status is not None:
                if status not in self._emulator.end_statuses or not watch.done:
                    outcome.failure = outcome.failure or (
                        f"the emulator ended with status {status} in: {watch.phase}")
                return
            if _cancelled.is_set():
                outcome.failure = f"cancelled in: {watch.phase}"
                return
            reason = watch.expired() or _panic(work / "console.log")
            if reason:
                outcome.failure = reason
                (work / "hang.log").write_text(self._emulator.evidence(work, process))
                return
            time.sleep(0.1)


def _panic(console: Path) -> str:
    if console.exists() and PANIC in console.read_bytes()[-20000:]:
        return f"the emulated host's kernel panicked, see {console}"
    return ""


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
        process.wait(30)


def preparing(config: Config) -> contextlib.AbstractContextManager[None]:
    """Images and packages are shared by hosts that run at the same time."""
    return exclusive(config.work / ".preparing")


def _fresh_directory(config: Config) -> Path:
    name = f"{time.strftime('%H%M%S')}-{os.getpid()}"
    for number in range(1000):
        work = config.work / "jobs" / f"{name}-{number}"
        try:
            work.mkdir(parents=True)
            return work
        except FileExistsError:
            continue
    raise FileExistsError(f"{config.work}/jobs/{name}-*")


def _tidy(config: Config, work: Path, outcome: Outcome) -> None:
    """Keep everything after a failure, nothing after a success."""
    (work / "initrd").unlink(missing_ok=True)
    (work / "outcome.json").write_text(json.dumps(outcome.__dict__, default=str, indent=1))
    if outcome.log:
        (work / "dmesg.log").write_text("\n".join(outcome.log) + "\n")
    if outcome.ok and not config.keep:
        shutil.rmtree(work)
        outcome.artefacts = None


class ThisHost:
    """Runs the agent on this machine, whose own KVM must have TDP."""

    def __init__(self, config: Config, machine: Machine | None = None):
        self.config = config
        if machine and machine.kernel != DEFAULT_KERNEL:
            raise LabError(f"'kernel: {machine.kernel}', but this machine runs its own: "
                           "use --lab npt or --lab ept")
        if machine and machine.kvm == "patched" and kvmhost.kvm_kind() != "patched":
            raise LabError("'kvm: patched', but this machine's KVM is not: use --lab npt")
        if machine and machine.rootfs:
            raise LabError(f"'rootfs: {machine.rootfs}', but this machine has its own: "
                           "use --lab npt")
        if machine and machine.kvm == "debug":
            raise LabError("'kvm: debug' boots a kernel of its own: use --lab npt")

    def paths(self, work: Path) -> dict[str, str]:
        config = self.config
        roms = work / "firmware"
        roms.mkdir()
        for name, path in initramfs.firmware(config).items():
            (roms / name).symlink_to(path)
        ovmf = initramfs.ovmf()
        kernel = packages.kernel(config)
        return {"qemu": str(config.qemu), "qemu_upstream": str(config.qemu_upstream),
                "qemu_img": str(config.qemu_img),
                "firmware": str(roms), "ovmf_code": str(ovmf["OVMF_CODE"]),
                "ovmf_smm_code": str(ovmf["OVMF_CODE_SMM"]),
                "ovmf_vars": str(ovmf["OVMF_VARS"]),
                "kernel": str(kernel.image), "initrd": str(initramfs.build_guest(config)),
                "modules": str(initramfs.build_guest_modules(config, kernel)),
                "work": str(work / "guests"), "host_validate": str(config.host_validate)}

    def run(self, job: dict[str, Any], listener: Listener) -> Outcome:
        work = _fresh_directory(self.config)
        job |= {"emulated": False, "paths": self.paths(work)}
        (work / "job.json").write_text(json.dumps(job))
        limit = sum(run.get("timeout", 180) + GRACE for run in job["runs"]) + GRACE
        outcome = Outcome(host={"lab": "host", "kvm": kvmhost.kvm_kind()}, artefacts=work)
        process = subprocess.Popen(
            [str(SYSTEM_PYTHON), "-B", "-m", "agent.main", str(work / "job.json")],
            cwd=LAB, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            for message in messages(process.communicate(timeout=limit)[0]):
                listener(message)
                outcome.take(message)
        except subprocess.TimeoutExpired:
            outcome.failure = f"the agent did not end within {limit} s"
        finally:
            _stop(process)
        _tidy(self.config, work, outcome)
        return outcome


def best_lab() -> str:
    """This machine where its KVM can pre-fault, else the emulated host."""
    return "host" if kvmhost.kvm_extension(kvmhost.KVM_CAP_PRE_FAULT_MEMORY) > 0 else "npt"


def run_beside_others(lab: str) -> bool:
    """Whether this lab's emulator uses one CPU, and time does not pass without it."""
    return lab in EMULATORS and EMULATORS[lab].parallel


def cancel() -> None:
    """End the jobs of all threads."""
    _cancelled.set()


def run_job(config: Config, runs: list[dict[str, Any]], machine: Machine | None = None,
            kvm_parameters: dict[str, str] | None = None,
            listener: Listener = lambda message: None) -> Outcome:
    """Run these runs on one host, in order."""
    job = {"runs": runs, "kvm_parameters": kvm_parameters or {}}
    lab = (machine and machine.lab) or config.lab
    kind = ThisHost if lab == "host" else EmulatedHost
    with preparing(config):
        host = kind(config, machine)
    start = time.monotonic()
    outcome = host.run(job, listener)
    facts = {key: outcome.host.get(key) for key in ("lab", "kernel", "kvm", "kvm_module")}
    outcome.rows = [row | facts for row in outcome.rows]
    outcome.host["seconds"] = round(time.monotonic() - start, 1)
    for notice in outcome.notices:
        print(f"notice: {notice}", file=sys.stderr)
    return outcome
