# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel of scripts/debug-kernel: KVM is built in, so there are no modules to load."""

from dataclasses import dataclass
from pathlib import Path

from .config import Config, LabError, check_patches
from .packages import key_values

# Lockdep and KASAN make the emulated host several times slower: a factor for time limits.
SLOWNESS = 5
# Reports are warnings, and a host that hangs after one has no other way to tell it.  A
# stall of 21 s, the kernel's own limit, may as well be this machine's: it is emulated.
# With five levels an interrupt early in the kernel's start makes KASAN report memory
# that is good: identify_cpu() forgets for a moment that there are five.
APPEND = "loglevel=5 rcupdate.rcu_cpu_stall_timeout=100 no5lvl"
# The self-test of RCU tasks in 6.1 asks whether their thread runs already, and then takes
# tasks_gp_mutex.  If the thread gets to run in between, it takes the mutex first and waits
# for work with it, and the boot ends there.  mutex_lock() begins with might_sleep(), at
# which voluntary preemption lets the thread in.
APPEND_FOR = {"6.1": "preempt=none"}


@dataclass
class DebugKernel:
    """Image and release, as a Debian kernel has them."""

    image: Path
    release: str


def kernel(config: Config, series: str) -> DebugKernel:
    """The one that was built last; scripts/debug-kernel knows whether it is current."""
    check_patches(series, "'kvm: debug'")
    directory = config.build / f"linux-{series}-debug"
    image = directory / "arch" / "x86" / "boot" / "bzImage"
    info = directory / "info"
    for path in (info, image):
        if not path.is_file():
            raise LabError(f"{path} does not exist, but 'kvm: debug' needs it: run "
                           f"'scripts/debug-kernel {series}'")
    return DebugKernel(image, key_values(info)["release"])


def command_line(series: str, parameters: dict[str, str]) -> str:
    """Parameters of built-in modules: {"kvm_amd": "npt=0"} is kvm_amd.npt=0."""
    words = [f"{name}.{word}" for name, text in parameters.items() for word in text.split()]
    return " ".join([APPEND, *APPEND_FOR.get(series, "").split(), *words])
