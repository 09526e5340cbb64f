# SPDX-License-Identifier: GPL-2.0-or-later
"""The other end of a migration, without a second QEMU."""

import socket
import threading

PIECE = 1 << 20


class Sink:
    """A destination that takes what comes and never answers, until it hangs up."""

    def __init__(self, path: str):
        self.uri = f"unix:{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hang_up(self) -> None:
        """As the death of a destination; also ends the thread."""
        for end in (self._listener, self._peer):
            if end:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # not connected, or the other side was first
        self._thread.join(10)
        for end in (self._listener, self._peer):
            if end:
                end.close()

    def _serve(self) -> None:
        try:
            self._peer = self._listener.accept()[0]
            while self._peer.recv(65536):
                pass
        except OSError:
            pass  # hung up


def feed(path: str, data: bytes, timeout: float) -> None:
    """Send a stream and hang up; the receiver may hang up first."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(timeout)
        peer.connect(path)
        try:
            for at in range(0, len(data), PIECE):
                peer.sendall(data[at:at + PIECE])
        except (BrokenPipeError, ConnectionResetError):
            pass
