# SPDX-License-Identifier: GPL-2.0-or-later
"""prefault-host-validate on the host, next to what the fork says of it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .. import hostrecord
from . import Context, scenario

TIMEOUT = 120


def _shell(command: str) -> None:
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=TIMEOUT,
                   stdout=subprocess.DEVNULL)


def _validate(context: Context, *options: str) -> dict[str, Any]:
    """Its report, with the exit status."""
    if not os.access(context.paths.host_validate, os.X_OK):
        raise RuntimeError("prefault-host-validate is not built: run 'make host-validate'")
    result = subprocess.run([context.paths.host_validate, "--json", *options],
                            capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if result.returncode not in (0, 1):
        raise RuntimeError(f"prefault-host-validate ended with status {result.returncode}: "
                           f"{result.stderr}")
    return {**json.loads(result.stdout), "exit_status": result.returncode}


def _query(context: Context) -> dict[str, Any] | None:
    with context.guest(extra=["-S"]).start() as guest:
        info = guest.prefault()
        guest.quit()
    return info


@scenario
def host_validate(context: Context) -> dict[str, Any]:
    """Look, record, look at the record, ask the fork, do as told, look again.

    options.before: shell commands that come first; options.kvm: false if they take KVM away;
    options.remedies: whether to do what the report's commands say.
    """
    options = context.spec.options
    for command in options.get("before", []):
        _shell(command)
    record = Path(context.paths.work) / "record"
    shutil.rmtree(record, ignore_errors=True)
    has_kvm = options.get("kvm", True)
    report = _validate(context, "--record", str(record),
                       *(["--qemu", context.paths.qemu] if has_kvm else []))
    row = {"booted": False, "report": report, "replayed": _validate(context, "--root", str(record)),
           "record": hostrecord.pack(record), "query": _query(context) if has_kvm else None}
    if options.get("remedies"):
        for check in report["checks"]:
            if check["command"]:
                _shell(check["command"])
        row["after"] = _validate(context)
    return row
