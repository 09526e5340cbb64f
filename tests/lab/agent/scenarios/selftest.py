# SPDX-License-Identifier: GPL-2.0-or-later
"""One KVM selftest of the kernel's tree: run it, time it, end it in time."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from .. import kernellog, kvmhost
from . import Context, scenario

SKIP_STATUS = 4
OUTPUT_LINES = 60


def _reason(result: str, output: str) -> str:
    """The line of the output that says why a test did not pass."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if result == "skip":
        found = [line for line in lines if re.search(r"skip", line, re.I)]
    else:
        # TEST_ASSERT prints its message last, behind the stack trace.
        found = [line for line in lines
                 if not re.match(r"(\d+\s|#|ok |1\.\.|\(?stack|sh: addr2line)", line)]
    return (found or lines or ["no output"])[-1][:300]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the test with its children; a hung kernel may not even allow that."""
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{process.args} cannot be killed: it hangs in the kernel") from error


def _run(command: list[str], limit: float, log: Path) -> tuple[str, str]:
    """The result, and how the test ended if it did not by itself."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=out, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _end(process)
            return "timeout", f"no end within {limit} s"
    how = f"ended by {signal.Signals(-status).name}" if status < 0 else ""
    return {0: "pass", SKIP_STATUS: "skip"}.get(status, "fail"), how


def _set(values: dict[str, str]) -> dict[str, str]:
    """Write settings; returns what they were."""
    old = {path: Path(path).read_text(encoding="ascii").strip() for path in values}
    for path, value in values.items():
        Path(path).write_text(value, encoding="ascii")
    return old


@scenario
def selftest(context: Context) -> dict[str, Any]:
    """options: command, limit (seconds) and settings {file: value}, put back afterwards."""
    options, log = context.spec.options, Path(context.paths.work) / "selftest.log"
    settings = _set(options.get("settings", {}))
    seen = len(kvmhost.kernel_log().splitlines())
    start = time.monotonic()
    result, how = _run(options["command"], options["limit"], log)
    seconds = round(time.monotonic() - start, 1)
    _set(settings)
    output = log.read_text(errors="replace")
    kernel = kvmhost.kernel_log().splitlines()[seen:]
    reason = "" if result == "pass" else _reason(result, output)
    if how:
        reason = f"{how}, last output: {reason}"
    if trouble := kernellog.reports(kernel):
        result, reason = "fail", f"kernel log: {trouble[0]}"
    return {"result": result, "reason": reason, "seconds_of_test": seconds,
            "output": output.splitlines()[-OUTPUT_LINES:], "kernel_log": kernel[-OUTPUT_LINES:]}
