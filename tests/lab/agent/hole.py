# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that the guest's kernel was told to leave alone (memmap=SIZE$AT).

Nothing in the guest has touched it before a scenario does, neither firmware nor kernel nor
an earlier program, and no kernel clears it: a first touch costs what the host takes.
"""

import dataclasses

from .spec import Spec

# Above where the kernel unpacks itself; its end must leave the top of memory to the
# initrd and to OVMF, which has the last 64 MiB of RAM below 4 GiB.
AT_MIB = 160
SMALL_MIB = 32
# RAM of a guest that has room for the small one.
NEEDS_MIB = 256


def with_hole(spec: Spec, mib: int = SMALL_MIB) -> Spec:
    append = f"memmap={mib}M${AT_MIB}M {spec.append}".rstrip()
    return dataclasses.replace(spec, append=append)
