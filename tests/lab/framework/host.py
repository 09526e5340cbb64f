# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot an emulated host, or use this machine, and run one job on it."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

from agent import kvmhost

from . import initramfs, packages
from .config import LAB, SYSTEM_PYTHON, Config, LabError
from .emulator import Machine, TcgSvm

BOOT_TIMEOUT = 120
END_TIMEOUT = 60
GRACE = 60
PANIC = b"Kernel panic - not syncing"

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
    """The time limit of the phase that the job is in."""

    def __init__(self, runs: list[dict[str, Any]]):
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
        if time.monotonic() < self._deadline:
            return ""
        return f"time limit of {self._seconds} s reached in: {self.phase}"

    def _enter(self, phase: str, seconds: float) -> None:
        self.phase = phase
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds


class EmulatedHost:
    """Boots the image once per job."""

    def __init__(self, config: Config, machine: Machine | None = None):
        self.config = config
        self.machine = machine or Machine()
        self._image = initramfs.HostImage(config, self.machine.kvm)
        self._emulator = TcgSvm(config.emulator, packages.rom_directories(config))

    def paths(self) -> dict[str, str]:
        return {"qemu": "/lab/qemu", "qemu_img": "/lab/qemu-img",
                "firmware": "/lab/firmware", "ovmf_code": "/lab/firmware/OVMF_CODE",
                "ovmf_vars": "/lab/firmware/OVMF_VARS", "kernel": "/lab/kernel",
                "initrd": "/lab/guest.cpio", "work": "/tmp/lab"}

    def argv(self, work: Path, extra: dict[str, bytes]) -> list[str]:
        base = self._image.build()
        initrd = initramfs.with_extra(base, work / "initrd", extra)
        return self._emulator.command(self.machine, self._image.kernel.image, initrd, work)

    def run(self, job: dict[str, Any], listener: Listener) -> Outcome:
        work = _fresh_directory(self.config)
        job |= {"emulated": True, "modules": "/lab/modules", "paths": self.paths(),
                "kvm": self.machine.kvm}
        argv = self.argv(work, {"/lab/job.json": json.dumps(job).encode()})
        outcome = Outcome(host={"lab": "npt", "kvm": self.machine.kvm}, artefacts=work)
        with open(work / "emulator.log", "wb") as log:
            log.write((" ".join(argv) + "\n").encode())
            log.flush()
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log)
            try:
                self._follow(process, work, job["runs"], outcome, listener)
            finally:
                _stop(process)
        _tidy(self.config, work, outcome)
        return outcome

    def _follow(self, process: "subprocess.Popen[bytes]", work: Path,
                runs: list[dict[str, Any]], outcome: Outcome, listener: Listener) -> None:
        channel, watch = AgentChannel(work / "agent.log"), Watch(runs)
        while True:
            status = process.poll()
            for message in channel.read():
                watch.note(message)
                listener(message)
                outcome.take(message)
            if status is not None:
                if status or not watch.done:
                    outcome.failure = outcome.failure or (
                        f"the emulator ended with status {status} in: {watch.phase}")
                return
            reason = watch.expired() or _panic(work / "console.log")
            if reason:
                outcome.failure = reason
                (work / "hang.log").write_text(self._emulator.evidence(work))
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


def _fresh_directory(config: Config) -> Path:
    name = f"{time.strftime('%H%M%S')}-{os.getpid()}"
    for number in range(1000):
        work = config.work / "jobs" / f"{name}-{number}"
        if not work.exists():
            work.mkdir(parents=True)
            return work
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
        if machine and machine.kvm == "patched" and kvmhost.kvm_kind() != "patched":
            raise LabError("'kvm: patched', but this machine's KVM is not: use --lab npt")

    def paths(self, work: Path) -> dict[str, str]:
        config = self.config
        roms = work / "firmware"
        roms.mkdir()
        for name, path in initramfs.firmware(config).items():
            (roms / name).symlink_to(path)
        ovmf = initramfs.ovmf()
        return {"qemu": str(config.qemu), "qemu_img": str(config.qemu_img),
                "firmware": str(roms), "ovmf_code": str(ovmf["OVMF_CODE"]),
                "ovmf_vars": str(ovmf["OVMF_VARS"]),
                "kernel": str(packages.kernel(config).image),
                "initrd": str(initramfs.build_guest(config)), "work": str(work / "guests")}

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


def run_job(config: Config, runs: list[dict[str, Any]], machine: Machine | None = None,
            kvm_parameters: dict[str, str] | None = None,
            listener: Listener = lambda message: None) -> Outcome:
    """Run these runs on one host, in order."""
    job = {"runs": runs, "kvm_parameters": kvm_parameters or {}}
    kind = ThisHost if config.lab == "host" else EmulatedHost
    host = kind(config, machine)
    start = time.monotonic()
    outcome = host.run(job, listener)
    outcome.host["seconds"] = round(time.monotonic() - start, 1)
    for notice in outcome.notices:
        print(f"notice: {notice}", file=sys.stderr)
    return outcome
