# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated host itself: what used to go wrong in QEMU's TCG (patches/qemu)."""

import ctypes
import mmap
import os
import signal
from typing import Any

from . import Context, scenario
from .boot import boot

# fnstenv [rdi]; fldenv [rdi]; jump back to the latter
FLDENV_LOOP = b"\xd9\x37\xd9\x27\xeb\xfc"


def _fldenv_forever() -> int:
    """A process on the last CPU."""
    if child := os.fork():
        return child
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(FLDENV_LOOP)
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(at)(at + mmap.PAGESIZE // 2)
    os._exit(1)


@scenario
def boot_beside_fldenv(context: Context) -> dict[str, Any]:
    """Each FLDENV of one emulated CPU used to write the flags of the first one."""
    child = _fldenv_forever()
    try:
        return boot(context)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
