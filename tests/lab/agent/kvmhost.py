# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host must offer: modules, huge pages, and its own description."""

import ctypes
import fcntl
import mmap
import os
import subprocess
from pathlib import Path
from typing import Any

KVM_CHECK_EXTENSION = 0xAE03
KVM_CAP_PRE_FAULT_MEMORY = 236
# Private numbers of patches/kvm, as in accel/kvm/kvm-prefault-abi.h.
KVM_CAP_MEM_ALWAYS_WRITABLE = 0x4b570001
KVM_MEM_ALWAYS_WRITABLE_MAGIC = 0x414c5752
THP = Path("/sys/kernel/mm/transparent_hugepage")
HUGE_2M = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


def load_modules(directory: Path, vendor: str, parameters: dict[str, str]) -> None:
    """Insert the modules named in directory/order.VENDOR, in that order."""
    for name in (directory / f"order.{vendor}").read_text(encoding="ascii").split():
        words = parameters.get(name, "").split()
        subprocess.run(["/bin/busybox", "insmod", str(directory / f"{name}.ko"), *words],
                       check=True, timeout=60)


def kvm_extension(number: int) -> int:
    """KVM_CHECK_EXTENSION, or -1 where /dev/kvm cannot be opened."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR)
    except OSError:
        return -1
    try:
        return fcntl.ioctl(fd, KVM_CHECK_EXTENSION, number)
    finally:
        os.close(fd)


def kvm_kind() -> str:
    """Whose KVM is loaded, told by what only the patched one answers."""
    magic = kvm_extension(KVM_CAP_MEM_ALWAYS_WRITABLE)
    return "patched" if magic == KVM_MEM_ALWAYS_WRITABLE_MAGIC else "stock"


def set_page_size(kib: int) -> None:
    """Let anonymous and shmem memory use 2 MiB pages, or never."""
    mode = "never" if kib == 4 else "always"
    for name in ("enabled", "shmem_enabled"):
        path = THP / name
        if f"[{mode}]" not in path.read_text(encoding="ascii"):
            path.write_text(mode, encoding="ascii")


def page_size_now() -> dict[str, str]:
    """The selected modes, to be put back by restore_page_size()."""
    found = {}
    for name in ("enabled", "shmem_enabled"):
        text = (THP / name).read_text(encoding="ascii")
        found[name] = text.split("[")[1].split("]")[0]
    return found


def restore_page_size(modes: dict[str, str]) -> None:
    for name, mode in modes.items():
        (THP / name).write_text(mode, encoding="ascii")


def set_huge_pages(mib: int) -> int:
    """Reserve 2 MiB huge pages; returns MiB really reserved."""
    if mib:
        Path("/proc/sys/vm/compact_memory").write_text("1", encoding="ascii")
    (HUGE_2M / "nr_hugepages").write_text(str(mib // 2), encoding="ascii")
    return int((HUGE_2M / "nr_hugepages").read_text(encoding="ascii")) * 2


def free_huge_pages(kib: int = 2048) -> int:
    """MiB in huge pages of that size that nobody uses."""
    free = HUGE_2M.with_name(f"hugepages-{kib}kB") / "free_hugepages"
    return int(free.read_text(encoding="ascii")) * kib // 1024


def scrub(mib: int) -> None:
    """Write once to memory that is about to be given to a guest.

    What an earlier guest ran from still has translated code attached in the
    emulator, which makes the first write slow; that must not be measured.
    """
    with mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                   | mmap.MAP_POPULATE):
        pass


def mem_available_mib() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def vendor_module() -> str:
    for name in ("kvm_amd", "kvm_intel"):
        if Path(f"/sys/module/{name}").is_dir():
            return name
    return "none"


def describe() -> dict[str, Any]:
    tdp_mmu = Path("/sys/module/kvm/parameters/tdp_mmu")
    return {
        "kernel": os.uname().release,
        "cpus": os.cpu_count(),
        "mem_available_mib": mem_available_mib(),
        "kvm": kvm_kind(),
        "kvm_module": vendor_module(),
        "tdp_mmu": tdp_mmu.read_text(encoding="ascii").strip() if tdp_mmu.exists() else None,
        "pre_fault_memory": kvm_extension(KVM_CAP_PRE_FAULT_MEMORY),
    }


def kernel_log() -> str:
    result = subprocess.run(["dmesg"], capture_output=True, text=True,
                            errors="replace", timeout=60, check=False)
    return result.stdout


def power_off() -> None:
    """Switch the emulated host off at once; does not return."""
    os.sync()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(0x4321FEDC)
    raise OSError(ctypes.get_errno(), "reboot")
