# SPDX-License-Identifier: GPL-2.0-or-later
"""A bug on request: whoever looks for reports has to find this one."""

import subprocess
from pathlib import Path
from typing import Any

from . import Context, scenario

DEBUGFS = Path("/sys/kernel/debug")
TRIGGER = DEBUGFS / "provoke-crash" / "DIRECT"


@scenario
def provoke(context: Context) -> dict[str, Any]:
    """options.trigger: a crash type of the kernel's LKDTM; a child that may die does it."""
    if not TRIGGER.exists():
        subprocess.run(["/bin/busybox", "mount", "-t", "debugfs", "debugfs", str(DEBUGFS)],
                       check=True, timeout=60)
    trigger = context.spec.options["trigger"]
    done = subprocess.run(["/bin/busybox", "sh", "-c", f"echo {trigger} >{TRIGGER}"],
                          timeout=60, check=False)
    return {"trigger": trigger, "exit_status": done.returncode}
