# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's module for non-coherent DMA, where there are no guest MTRRs, on the emulated host."""

import ctypes
import fcntl
import os
import subprocess
from pathlib import Path

MODULE = Path("/lab/modules/dma-lab.ko")
DEVICE = Path("/dev/dma-lab")
VM_LINK = "anon_inode:kvm-vm"
# The same on all architectures.
SYS_PIDFD_GETFD = 438
# MTRR_LAB_DMA_START and _STOP, see mtrr-lab.h; _IO() is type and number.
COMMANDS = {True: (ord("m") << 8) | 1, False: (ord("m") << 8) | 2}


def load() -> None:
    """Insert the module, once."""
    if DEVICE.exists():
        return
    if not MODULE.exists():
        raise RuntimeError("the lab's module is not in the image of this host: run "
                           "'scripts/kvm-lab-module 6.12'")
    subprocess.run(["/bin/busybox", "insmod", str(MODULE)], check=True, timeout=60)


def _vm_number(pid: int) -> int:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link) == VM_LINK:
            return int(link.name)
    raise RuntimeError(f"process {pid} has no VM")


def _vm_of(pid: int) -> int:
    """A file descriptor of our own for that process's VM."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        vm: int = libc.syscall(SYS_PIDFD_GETFD, pidfd, _vm_number(pid), 0)
    finally:
        os.close(pidfd)
    if vm < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_getfd() of process {pid}")
    return vm


def change(pid: int, start: bool) -> None:
    """As if a device with such DMA were attached to that process's VM, or detached."""
    vm, device = _vm_of(pid), os.open(DEVICE, os.O_RDWR)
    try:
        fcntl.ioctl(device, COMMANDS[start], vm)
    finally:
        os.close(device)
        os.close(vm)
