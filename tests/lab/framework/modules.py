# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules in load order, decompressed, without depmod."""

import lzma
import re
import subprocess
from pathlib import Path

from .config import LabError
from .packages import Kernel


def read(path: Path) -> bytes:
    """A module's ELF bytes, whatever Debian compressed it with."""
    if path.suffix == ".ko":
        return path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", str(path)], capture_output=True,
                              timeout=60, check=True).stdout
    raise LabError(f"{path.name}: unknown compression, expected .ko, .ko.xz or .ko.zst")


def depends(elf: bytes) -> list[str]:
    """The names in the module's own "depends=" (modinfo) string."""
    match = re.search(rb"\0depends=([^\0]*)\0", elf)
    names = match.group(1).decode() if match else ""
    return [name.replace("-", "_") for name in names.split(",") if name]


def in_load_order(kernel: Kernel, wanted: list[str]) -> dict[str, bytes]:
    """The wanted modules, each after everything that it depends on."""
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order:
            return
        elf = read(kernel.module(name))
        for other in depends(elf):
            add(other)
        order[name] = elf

    for name in wanted:
        add(name)
    return order
