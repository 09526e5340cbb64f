# SPDX-License-Identifier: GPL-2.0-or-later
"""Write initramfs archives ("newc" cpio) without root and reproducibly."""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO


class Cpio:
    """Adds entries in order; directories above an entry come by themselves."""

    def __init__(self, out: BinaryIO):
        self._out = out
        self._inode = 0
        self._known: set[str] = set()

    def directory(self, name: str, mode: int = 0o755) -> None:
        path = PurePosixPath(name)
        if str(path) in self._known or str(path) in (".", "/"):
            return
        self.directory(str(path.parent))
        self._known.add(str(path))
        self._entry(str(path), stat.S_IFDIR | mode, b"")

    def data(self, name: str, content: bytes, mode: int = 0o644) -> None:
        if name in self._known:
            return
        self.directory(str(PurePosixPath(name).parent))
        self._known.add(name)
        self._entry(name, stat.S_IFREG | mode, content)

    def file(self, name: str, source: Path) -> None:
        """Copy a file; its execute permission is kept."""
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        self.data(name, source.read_bytes(), mode)

    def symlink(self, name: str, target: str) -> None:
        self.directory(str(PurePosixPath(name).parent))
        self._known.add(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character(self, name: str, major: int, minor: int) -> None:
        self.directory(str(PurePosixPath(name).parent))
        self._entry(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def close(self) -> None:
        self._entry("TRAILER!!!", 0, b"")

    def _entry(self, name: str, mode: int, content: bytes,
               device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        raw = name.lstrip("/").encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0,
                  *device, len(raw), 0)
        header = b"070701" + b"".join(b"%08x" % value for value in fields)
        self._write(header + raw)
        self._write(content)

    def _write(self, data: bytes) -> None:
        """Every part starts at a multiple of four bytes."""
        self._out.write(data + b"\0" * (-len(data) % 4))
