# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulators that offer a host machine with second-level page tables."""

import socket
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from .config import DEFAULT_KERNEL, Config

# no_timer_check: the kernel waits for ticks by counting cycles, and panics if the
# emulator got no CPU from a busy machine meanwhile.
APPEND = "console=ttyS0 panic=-1 quiet loglevel=4 nokaslr no_timer_check"


@dataclass
class Machine:
    """The emulated host: size, additions to its kernel command line, kernel, whose KVM.

    With upstream, it has the unchanged QEMU beside the fork; with rootfs, a disk with the
    userland of that Debian release.
    """

    cpus: int = 1
    mem_mib: int = 3072
    append: str = ""
    kvm: str = "stock"
    kernel: str = DEFAULT_KERNEL
    lab: str = ""
    upstream: bool = False
    rootfs: str = ""
    disk: Path | None = None


class Emulator(ABC):
    """One kind of emulated host; console and agent channel end in files."""

    name: str
    # The KVM module of the emulated CPU.
    vendor_module: str
    # Exit statuses of the emulator after the host's power-off.
    end_statuses: tuple[int, ...] = (0,)
    # Factor for all time limits, by clock(); those of rows are for the NPT lab.
    patience = 1
    # What limits in real time are, in limits by clock().
    real_time_factor = 1
    # Additions to the guests' kernel command line.
    guest_append = ""
    # Whether several of them may run at a time, one per CPU of this machine.
    parallel = False
    environment: dict[str, str] = {}

    def __init__(self, config: Config, firmware: list[Path]):
        self.binary = config.emulator or self.default_binary(config)
        self.firmware = firmware

    @staticmethod
    @abstractmethod
    def default_binary(config: Config) -> Path:
        """What runs where the user named no other."""

    @abstractmethod
    def command(self, machine: Machine, kernel: Path, initrd: Path,
                work: Path) -> list[str]:
        """argv; writes work/console.log and work/agent.log."""

    @abstractmethod
    def evidence(self, work: Path, process: "subprocess.Popen[bytes]") -> str:
        """What the emulator itself can say about a host that hangs."""

    def started(self, process: "subprocess.Popen[bytes]") -> None:
        """Whatever the emulator needs from us while it runs."""

    @staticmethod
    def clock(process: "subprocess.Popen[bytes]") -> float:
        """Seconds that count against time limits."""
        return time.monotonic()

    def tidy(self, work: Path) -> None:
        """Remove what command() made and nobody wants to keep."""


class TcgSvm(Emulator):
    """QEMU's TCG with AMD's SVM and nested paging."""

    name = "npt"
    vendor_module = "kvm_amd"
    # TCG does a repeated string instruction step by step: plain stores zero a page faster.
    guest_append = "clearcpuid=rep_good"

    @staticmethod
    def default_binary(config: Config) -> Path:
        return config.qemu

    def command(self, machine: Machine, kernel: Path, initrd: Path,
                work: Path) -> list[str]:
        search = [word for path in self.firmware for word in ("-L", str(path))]
        return [
            str(self.binary), *search, "-nodefaults", "-no-user-config",
            "-vga", "none", "-display", "none", "-no-reboot",
            "-accel", "tcg,thread=multi,tb-size=512",
            # TCG does rep stosb byte by byte: without erms, kernels use rep stosq
            "-machine", "q35,smm=off", "-cpu", "max,+svm,+npt,-erms,-fsrm",
            "-smp", str(machine.cpus), "-m", f"{machine.mem_mib}M",
            "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", self._append(machine),
            "-serial", f"file:{work}/console.log",
            "-serial", f"file:{work}/agent.log",
            "-monitor", f"unix:{work}/monitor,server=on,wait=off",
            *self._disk(machine),
        ]

    @staticmethod
    def _append(machine: Machine) -> str:
        """AppArmor of a userland reports by way of audit."""
        return f"{APPEND} audit={bool(machine.rootfs):d} {machine.append}".strip()

    @staticmethod
    def _disk(machine: Machine) -> list[str]:
        """What the host writes is gone when it ends."""
        if machine.disk is None:
            return []
        return ["-drive", f"if=none,id=disk,format=raw,snapshot=on,file={machine.disk}",
                "-device", "virtio-blk-pci,drive=disk"]

    def evidence(self, work: Path, process: "subprocess.Popen[bytes]") -> str:
        """Registers twice, a second apart: same place means stuck there."""
        text = []
        for command in ("info status", "info registers -a", "info registers -a"):
            text.append(_monitor(work / "monitor", command))
            time.sleep(1)
        return "\n".join(text)


def _monitor(path: Path, command: str) -> str:
    """Ask the emulator's own monitor; a hung one must not hang us."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            sock.sendall(command.encode() + b"\n")
            while answer.count(b"(qemu)") < 2:
                data = sock.recv(65536)
                if not data:
                    break
                answer += data
    except OSError as error:
        answer += f"\n[monitor: {error}]".encode()
    return answer.decode(errors="replace").replace("\r", "")
