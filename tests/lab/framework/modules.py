# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules in load order, decompressed, without depmod; patched ones for KVM."""

import lzma
import re
import subprocess
from pathlib import Path

from .config import DEFAULT_KERNEL, Config, LabError, check_patches
from .packages import Kernel, kernel_of_modules, key_values

PATCHED = ("kvm", "kvm_amd", "kvm_intel")
# Since 6.11 KVM ignores guest MTRRs.
MTRR_KERNEL = "6.1"
LAB_MODULES = {MTRR_KERNEL: "mtrr-lab.ko", "6.12": "dma-lab.ko"}


def how_to_build(series: str = DEFAULT_KERNEL) -> str:
    return f"run 'make kvm-modules KERNEL={series}'"


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


def patched_directory(config: Config, series: str = DEFAULT_KERNEL) -> Path:
    return config.build / "kvm" / series


def patched(config: Config, series: str) -> tuple[Kernel, dict[str, Path]]:
    """Our KVM modules by name, and the stock kernel that they were built for."""
    check_patches(series, "'kvm: patched'")
    directory = patched_directory(config, series)
    files = {name: directory / f"{name.replace('_', '-')}.ko" for name in PATCHED}
    for path in (directory / "info", *files.values()):
        if not path.is_file():
            raise LabError(f"{path} does not exist, but 'kvm: patched' needs it: "
                           f"{how_to_build(series)}")
    info = key_values(directory / "info")
    if missing := {"image", "version"} - set(info):
        raise LabError(f"{directory}/info lacks {', '.join(sorted(missing))}: "
                       f"{how_to_build(series)}")
    kernel = kernel_of_modules(config, series, info)
    for path in files.values():
        check_vermagic(path, kernel.release, series)
    return kernel, files


def lab_module(config: Config, series: str, kvm: str) -> Path | None:
    """The module of scripts/kvm-lab-module for this KVM, where there is one."""
    if series not in LAB_MODULES:
        return None
    path = patched_directory(config, series) / "lab-module" / kvm / LAB_MODULES[series]
    return path if path.is_file() else None


def check_vermagic(path: Path, release: str, series: str) -> None:
    """A module of another kernel must not even be offered to this one."""
    match = re.search(rb"\0vermagic=([^ \0]*)", path.read_bytes())
    built_for = match.group(1).decode() if match else "unknown"
    if built_for != release:
        raise LabError(f"{path} was built for kernel '{built_for}', the lab would boot "
                       f"'{release}': {how_to_build(series)}")


def in_load_order(kernel: Kernel, wanted: list[str],
                  replaced: dict[str, Path]) -> dict[str, bytes]:
    """The wanted modules, each after what it depends on; some from elsewhere."""
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order:
            return
        elf = read(replaced.get(name) or kernel.module(name))
        for other in depends(elf):
            add(other)
        order[name] = elf

    for name in wanted:
        add(name)
    return order
