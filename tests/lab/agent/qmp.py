# SPDX-License-Identifier: GPL-2.0-or-later
"""A minimal QMP client: one unix socket, one command at a time."""

import json
import socket
import time
from typing import Any, TextIO


class QmpError(Exception):
    """QEMU answered with an error, or not at all."""


class Qmp:
    """Talks to one QEMU; every wait ends after a timeout."""

    def __init__(self, path: str, log: TextIO, timeout: float = 60):
        self.events: list[dict[str, Any]] = []
        self._log = log
        self._timeout = timeout
        self._pending = b""
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(timeout)
        self._sock.connect(path)
        self._read_message(time.monotonic() + timeout)  # the greeting
        self.command("qmp_capabilities")

    def close(self) -> None:
        self._sock.close()

    def command(self, execute: str, timeout: float | None = None,
                **arguments: Any) -> Any:
        """Run a command, return its value; QmpError if it is refused."""
        answer = self.exchange(execute, timeout, **arguments)
        if "error" in answer:
            raise QmpError(f"{execute}: {answer['error']['desc']}")
        return answer["return"]

    def exchange(self, execute: str, timeout: float | None = None,
                 **arguments: Any) -> dict[str, Any]:
        """Run a command, return the whole answer, errors included."""
        request: dict[str, Any] = {"execute": execute}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value
                                    for name, value in arguments.items()}
        deadline = time.monotonic() + (timeout or self._timeout)
        self._note("->", request)
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"{execute}: {error}") from error
        while True:
            message = self._read_message(deadline)
            if "event" not in message:
                return message

    def wait_event(self, name: str, timeout: float = 60) -> dict[str, Any]:
        """Return the first event of that name not yet taken."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            self._read_message(deadline)

    def forget_events(self, name: str) -> None:
        """Drop what has arrived so far, so that a wait sees only news."""
        self.command("query-status")
        self.events = [e for e in self.events if e["event"] != name]

    def _read_message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._pending:
            self._receive(deadline)
        line, self._pending = self._pending.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        self._note("<-", message)
        if "event" in message:
            self.events.append(message)
        return message

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise QmpError("no answer from QEMU within the time limit")
        self._sock.settimeout(left)
        try:
            data = self._sock.recv(65536)
        except TimeoutError as error:
            raise QmpError("no answer from QEMU within the time limit") from error
        except OSError as error:
            raise QmpError(f"QMP connection lost: {error}") from error
        if not data:
            raise QmpError("QEMU closed the QMP connection")
        self._pending += data

    def _note(self, arrow: str, message: dict[str, Any]) -> None:
        self._log.write(f"{time.monotonic():.3f} {arrow} {json.dumps(message)}\n")
        self._log.flush()
