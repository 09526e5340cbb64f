# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest of a few instructions instead of firmware, for hundreds of short runs.

It counts in RAM, so that it can be seen to run, and switches the memory at 0xc0000
between RAM and ROM as firmware does (PAM), so that slots change all the time, or does not.
Some RAM has a pattern in it that nobody may change.
"""

import hashlib
import os
import random
import time
from pathlib import Path

from .guest import Guest, GuestError
from .qmp import Qmp
from .spec import Paths, Spec, accel_args, machine_args, memory_args

COUNTER = 0x500
PATTERN_AT = 32 << 20
PATTERN_SIZE = 1 << 20
# Port accesses between two changes; each leaves the guest for QEMU.
PAUSE = 400
FIRMWARE_SIZE = 64 << 10

_WAIT = bytes((0xb9, PAUSE & 0xff, PAUSE >> 8,      # mov  cx, PAUSE
               0xe4, 0x80,                          # in   al, 0x80
               0xe2, 0xfc))                         # loop to the line before
_SWITCH = bytes((0x66, 0xb8, 0x58, 0x00, 0x00, 0x80,  # mov  eax, 0x80000058
               0xba, 0xf8, 0x0c, 0x66, 0xef,        # mov  dx, 0xcf8; out dx, eax
               0xba, 0xfe, 0x0c,                    # mov  dx, 0xcfe: register 0x5a, PAM 1
               0xb0, 0x33, 0xee,                    # mov  al, 0x33; out dx, al
               *_WAIT,
               0xb0, 0x00, 0xee,                    # mov  al, 0; out dx, al
               *_WAIT))
_COUNT = bytes((0x66, 0xff, 0x06, COUNTER & 0xff, COUNTER >> 8))  # inc dword [COUNTER]
_START = bytes((0xfa, 0x31, 0xc0, 0x8e, 0xd8,       # cli; xor ax, ax; mov ds, ax
                0x66, 0xc7, 0x06, COUNTER & 0xff, COUNTER >> 8, 0, 0, 0, 0))
_RESET_VECTOR = bytes((0xea, 0x00, 0x00, 0x00, 0xf0))  # jmp  0xf000:0


def firmware(switch: bool) -> bytes:
    """64 KiB that end at 1 MiB and at 4 GiB."""
    loop = (_SWITCH if switch else _WAIT) + _COUNT
    code = _START + loop
    code += b"\xe9" + (-len(loop) - 3).to_bytes(2, "little", signed=True)
    return (code.ljust(FIRMWARE_SIZE - 16, b"\xf4") + _RESET_VECTOR).ljust(FIRMWARE_SIZE, b"\xf4")


class TinyGuest(Guest):
    """QMP only; the pattern is loaded by QEMU."""

    def __init__(self, spec: Spec, paths: Paths, name: str, switch: bool = True):
        super().__init__(spec, paths, name)
        self._pattern = random.Random(1).randbytes(PATTERN_SIZE)
        (self.work / "firmware").write_bytes(firmware(switch))
        (self.work / "pattern").write_bytes(self._pattern)
        self.argv = [
            paths.qemu, "-L", paths.firmware, "-nodefaults", "-vga", "none", "-display", "none",
            "-no-user-config", *machine_args(spec), *accel_args(spec),
            *memory_args(spec, self.work), "-bios", str(self.work / "firmware"),
            "-device", f"loader,file={self.work}/pattern,addr={PATTERN_AT},force-raw=on",
            "-qmp", f"unix:{self.work}/qmp,server=on,wait=off", *spec.args]

    def start_monitor(self) -> None:
        """GuestError if QEMU ends before it answers."""
        self.start(console=False)
        self.qmp = self._connect("qmp", lambda path: Qmp(path, self._qmp_log, self.left))

    def counter(self) -> int:
        text = self.qmp.command("human-monitor-command", command_line=f"xp /1wd {COUNTER}")
        return int(text.split(":")[1])

    def wait_alive(self) -> None:
        """Until the counter has gone on."""
        before = self.counter()
        while self.counter() == before:
            if self.left <= 0.1:
                raise GuestError("the guest does not run: its counter stays "
                                 f"{before}, {self.qmp.command('query-status')}")
            time.sleep(0.01)

    def pattern_is_intact(self) -> bool:
        dump = self.work / "dump"
        self.qmp.command("pmemsave", val=PATTERN_AT, size=PATTERN_SIZE, filename=str(dump))
        found = hashlib.sha1(dump.read_bytes()).digest()
        return found == hashlib.sha1(self._pattern).digest()

    def holds(self) -> dict[str, int]:
        """What must not become more from case to case."""
        root = Path(f"/proc/{self.process.pid}")
        fields = dict(line.split(":", 1) for line in (root / "status").read_text(
            encoding="ascii", errors="replace").splitlines())
        return {"fds": len(os.listdir(root / "fd")),
                "VmLck": int(fields["VmLck"].split()[0]),
                "VmPin": int(fields["VmPin"].split()[0])}
