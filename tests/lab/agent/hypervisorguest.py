# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that is a hypervisor: guest/hypervisor.S, in flash in place of firmware.

It is in VMX operation, or has SVM enabled, from its first moments on, and looks in each
round of its loop whether it still is.  What it finds is in a mailbox in RAM.
"""

import shutil
import time
from dataclasses import dataclass, fields

from .guest import GuestError
from .spec import Paths, Spec
from .tinyguest import TinyGuest

IMAGE = "/lab/hypervisor.bin"
# From here on as in guest/hypervisor.S.
MAILBOX = 0x500
OPERATIONS = {1: "VMX", 2: "SVM"}
EXCEPTION = 0x100
ERRORS = {1: "the CPU has neither VMX nor SVM", 2: "IA32_FEATURE_CONTROL is locked without VMX",
          3: "a VMX instruction failed", 4: "another VMCS is current",
          5: "a field of the VMCS has another value", 6: "CR4.VMXE is clear",
          7: "EFER.SVME is clear", 8: "VM_HSAVE_PA has another value",
          9: "VMSAVE stored another value", 10: "flash was not written",
          11: "RAM in place of an option ROM was not written"}
FLASH, PAM, TOUCH, TOUCH_DIMM, ENTER_AGAIN = "f", "p", "t", "d", "v"
# So many rounds later the guest has met whatever has happened to it.
ROUNDS = 50


class HypervisorFailed(Exception):
    """The guest has found that something is not as it has to be, and has halted."""


@dataclass
class Mailbox:
    """What the guest writes; it clears all but "lives" when it starts."""

    rounds: int
    error: int
    error_at: int
    error_round: int
    operation: int
    actions: int
    lives: int

    def explain(self) -> str:
        what = ERRORS.get(self.error, f"exception {self.error - EXCEPTION}")
        return f"{what}, at {self.error_at:#x} in round {self.error_round}"


class HypervisorGuest(TinyGuest):
    """QMP and a keyboard."""

    def __init__(self, spec: Spec, paths: Paths, name: str = "hypervisor"):
        super().__init__(spec, paths, name)
        flash = self.work / "flash"
        shutil.copy(IMAGE, flash)
        at = self.argv.index("-bios")
        self.argv[at:at + 2] = ["-drive", f"if=pflash,unit=0,format=raw,file={flash}"]

    def mailbox(self) -> Mailbox:
        """HypervisorFailed as soon as there is an error in it."""
        count = len(fields(Mailbox))
        text = self.qmp.command("human-monitor-command",
                                command_line=f"xp /{count}wx {MAILBOX:#x}")
        words = [word for line in text.splitlines() for word in line.split(":")[1].split()]
        found = Mailbox(*(int(word, 16) for word in words))
        if found.error:
            raise HypervisorFailed(found.explain())
        return found

    def wait_entered(self, life: int) -> str:
        """Until it is a hypervisor, in its first or a later life; of which kind."""
        while (now := self.mailbox()).lives != life or not now.operation:
            self.pause(f"the guest has not begun its life {life}: {now}")
        return OPERATIONS[now.operation]

    def go_on(self) -> int:
        """See it run; returns the number of rounds."""
        before = self.mailbox()
        while (now := self.mailbox()).rounds - before.rounds < ROUNDS:
            self.pause(f"the guest does not run: {now}")
        return now.rounds - before.rounds

    def press(self, key: str) -> None:
        """Have the guest do what this key stands for, and wait until it has."""
        before = self.mailbox().actions
        # Pressed, never released: the guest knows no other code than that of the key.
        self.qmp.command("input-send-event", events=[
            {"type": "key", "data": {"down": True, "key": {"type": "qcode", "data": key}}}])
        while (now := self.mailbox()).actions == before:
            self.pause(f"the guest has not done what '{key}' stands for: {now}")

    def pause(self, otherwise: str) -> None:
        """Between two looks; GuestError when the run's time is over."""
        if self.left <= 0.1:
            raise GuestError(otherwise)
        time.sleep(0.01)
