# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest under the fork: start it, talk to it, end it, keep its logs."""

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

from .console import Console, Line
from .qmp import Qmp, QmpError
from .spec import Paths, Spec, command_line


NOBODY = 65534
# Of a guest that has failed, whose run is over
SECONDS_TO_ANSWER = 5


class GuestError(Exception):
    """QEMU ended, or never came up."""


class Guest:
    """Context manager: QEMU is gone when the block is left, come what may."""

    def __init__(self, spec: Spec, paths: Paths, name: str = "guest",
                 extra: list[str] | None = None):
        self.spec = spec
        self.work = Path(paths.work) / name
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        if spec.firmware != "seabios":
            shutil.copy(paths.ovmf_vars, self.work / "vars.fd")
        self.argv = command_line(spec, paths, self.work) + (extra or [])
        self._started = time.monotonic()
        self._deadline = self._started + spec.timeout
        self.milliseconds = 0.0
        self.env: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp_log = open(self.work / "qmp.log", "a", encoding="utf-8")
        self.console: Console
        self.qmp: Qmp

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *exc: object) -> None:
        if exc and exc[0] is not None:
            self._ask_what_it_does()
        self.kill()
        for name in ("console", "qmp"):
            if hasattr(self, name):
                getattr(self, name).close()
        self._qmp_log.close()
        for ram in self.work.glob("*.ram"):
            ram.unlink()

    @property
    def left(self) -> float:
        """Seconds until this run's time is over."""
        return max(0.1, self._deadline - time.monotonic())

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise GuestError("QEMU has not been started")
        return self._process

    def start(self, console: bool = True) -> "Guest":
        """Run QEMU and connect to console and QMP, both or neither."""
        with open(self.work / "stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                preexec_fn=self._user(), env={**os.environ, **self.env})
        if console:
            self.connect()
        return self

    def connect(self) -> None:
        """Wait until QEMU has made its sockets."""
        self.console = self._connect("console", lambda path: Console(
            path, self.work / "console.log"))
        self.qmp = self._connect("qmp", lambda path: Qmp(path, self._qmp_log))

    def renew_deadline(self) -> None:
        """The run's time starts again, for a guest that is used more than once."""
        self._deadline = time.monotonic() + self.spec.timeout

    def boot(self) -> Line:
        """Wait for the guest's user space and its first touch of memory."""
        self.console.expect("boot", self.left)
        touched = self.console.expect("touched", self.left)
        self.console.expect("ready", self.left)
        self.milliseconds = round((time.monotonic() - self._started) * 1e3)
        return touched

    def ask(self, command: str) -> Line:
        return self.console.ask(command, self.left)

    def prefault(self) -> dict[str, Any] | None:
        """query-kvm-prefault, or None where this QEMU has no such command."""
        answer = self.qmp.exchange("query-kvm-prefault")
        if "error" in answer:
            if answer["error"]["class"] == "CommandNotFound":
                return None
            raise QmpError(f"query-kvm-prefault: {answer['error']['desc']}")
        return answer["return"]

    def wait_prefault(self, states: tuple[str, ...]) -> dict[str, Any]:
        """Poll until the population reaches one of the states.

        Ever less often: on a slow host the answers take the time that the
        population needs.
        """
        pause = 0.05
        while True:
            info = self.prefault()
            if info is None:
                raise GuestError("this QEMU has no query-kvm-prefault")
            if info["state"] in states:
                return info
            if self.left <= 0.1:
                raise GuestError(f"prefault state is still {info['state']}, "
                                 f"expected {' or '.join(states)}")
            time.sleep(pause)
            pause = min(pause * 1.5, 2)

    def power_off(self) -> int:
        self.console.send("poweroff")
        return self.wait()

    def quit(self) -> int:
        self.qmp.command("quit")
        return self.wait()

    def wait(self) -> int:
        """QEMU's exit status; GuestError if it does not end in time."""
        try:
            return self.process.wait(self.left)
        except subprocess.TimeoutExpired:
            raise GuestError("QEMU did not end within the time limit") from None

    def kill(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def _ask_what_it_does(self) -> None:
        """After a failure; the answers are in the QMP log, or that there were none."""
        if not hasattr(self, "qmp") or self.process.poll() is not None:
            return
        try:
            for line in ("info status", "info kvm_prefault", "info registers -a",
                         "info registers -a", "info lapic"):
                self.qmp.command("human-monitor-command", SECONDS_TO_ANSWER, command_line=line)
        except (QmpError, OSError):
            return

    def stderr(self) -> str:
        path = self.work / "stderr"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def evidence(self) -> dict[str, Any]:
        """What a failure report needs."""
        qmp_log = self.work / "qmp.log"
        return {
            "argv": " ".join(self.argv),
            "exit_status": self._process.poll() if self._process else None,
            "stderr": self.stderr()[-4000:],
            "console": self.console.tail() if hasattr(self, "console") else [],
            "qmp_log": qmp_log.read_text(encoding="utf-8").splitlines()[-40:],
        }

    def _user(self) -> Callable[[], None] | None:
        """With a memlock limit QEMU runs as nobody: root is not limited."""
        if self.spec.memlock_kib is None:
            return None
        limit = self.spec.memlock_kib * 1024
        os.chmod("/dev/kvm", 0o666)
        for path in (self.work.parent, self.work):
            os.chmod(path, 0o777)

        def become_nobody() -> None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return become_nobody

    def _connect(self, name: str, make: Callable[[str], Any]) -> Any:
        path = self.work / name
        while True:
            if self.process.poll() is not None:
                raise GuestError(f"QEMU ended with status {self.process.returncode}: "
                                 f"{self.stderr().strip()[-2000:]}")
            try:
                return make(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                if self.left <= 0.1:
                    raise GuestError(f"QEMU did not open {path.name} in time") from None
                time.sleep(0.02)
