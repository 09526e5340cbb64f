# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's serial console: a log, and the @@GUEST lines of guest/init.c."""

import queue
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

LINE = re.compile(r"@@GUEST (\S+)(.*)")


class ConsoleError(Exception):
    """The guest did not say what was expected."""


@dataclass
class Line:
    """One @@GUEST line: its first word, the bare words and key=value pairs."""

    name: str
    words: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join([self.name, *self.words,
                         *(f"{k}={v}" for k, v in self.values.items())])


def parse(line: str) -> Line | None:
    match = LINE.search(line)
    if not match:
        return None
    parsed = Line(match.group(1))
    for word in match.group(2).split():
        key, equals, value = word.partition("=")
        if equals:
            parsed.values[key] = value
        else:
            parsed.words.append(word)
    return parsed


class Console:
    """Reads in a thread of its own, because QEMU drops what nobody reads."""

    def __init__(self, path: str, log: Path):
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._lines: queue.Queue[Line | None] = queue.Queue()
        self._log = log
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def send(self, command: str) -> None:
        self._sock.sendall(command.encode() + b"\n")

    def ask(self, command: str, timeout: float) -> Line:
        """Send a command and return its "ok" line."""
        self.send(command)
        return self.expect("ok", timeout, command.split()[0])

    def expect(self, name: str, timeout: float, word: str | None = None) -> Line:
        """Return the next line of that name; "error" lines raise at once."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._next(deadline, name)
            if line.name == "error":
                raise ConsoleError(f"the guest says: {line.text}")
            if line.name == name and (word is None or word in line.words):
                return line

    def tail(self, lines: int = 60) -> list[str]:
        if not self._log.exists():
            return []
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return text.replace("\r", "").splitlines()[-lines:]

    def close(self) -> None:
        self._sock.close()
        self._thread.join(5)

    def _next(self, deadline: float, name: str) -> Line:
        try:
            line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            raise ConsoleError(f"no '@@GUEST {name}' within the time limit") from None
        if line is None:
            self._lines.put(None)
            raise ConsoleError(f"the console was closed before '@@GUEST {name}'")
        return line

    def _read(self) -> None:
        pending = b""
        with open(self._log, "ab", buffering=0) as log:
            while data := self._receive():
                log.write(data)
                *whole, pending = (pending + data).split(b"\n")
                for raw in whole:
                    if line := parse(raw.decode(errors="replace")):
                        self._lines.put(line)
        self._lines.put(None)

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(65536)
        except OSError:
            return b""
