# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulators that offer a host machine with second-level page tables."""

import socket
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

APPEND = "console=ttyS0 panic=-1 quiet loglevel=4 nokaslr audit=0"


@dataclass
class Machine:
    """The emulated host: size, additions to its kernel command line, whose KVM."""

    cpus: int = 1
    mem_mib: int = 3072
    append: str = ""
    kvm: str = "stock"


class Emulator(ABC):
    """One kind of emulated host; console and agent channel end in files."""

    name: str

    def __init__(self, binary: Path, firmware: list[Path]):
        self.binary = binary
        self.firmware = firmware

    @abstractmethod
    def command(self, machine: Machine, kernel: Path, initrd: Path,
                work: Path) -> list[str]:
        """argv; writes work/console.log and work/agent.log."""

    def evidence(self, work: Path) -> str:
        """What the emulator itself can say about a host that hangs."""
        return f"no monitor for {self.name} in {work.name}"


class TcgSvm(Emulator):
    """QEMU's TCG with AMD's SVM and nested paging."""

    name = "npt"

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
            "-append", f"{APPEND} {machine.append}".strip(),
            "-serial", f"file:{work}/console.log",
            "-serial", f"file:{work}/agent.log",
            "-monitor", f"unix:{work}/monitor,server=on,wait=off",
        ]

    def evidence(self, work: Path) -> str:
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
