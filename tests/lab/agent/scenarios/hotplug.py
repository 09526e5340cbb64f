# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory and CPUs that come and go while the guest works with what it has."""

import re
import time
from pathlib import Path
from typing import Any

from ..guest import Guest, GuestError
from . import Context, Steps
from .lifecycle import life, reset_guest

# Linux onlines memory in blocks of 128 MiB.
BLOCK_MIB = 128
FOUR_GIB = 1 << 32


def status_mib(guest: Guest, name: str) -> int:
    text = Path(f"/proc/{guest.process.pid}/status").read_text(encoding="ascii")
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) // 1024 if match else 0


def _host_facts(guest: Guest) -> dict[str, Any]:
    """What QEMU says of the guest's memory, and what the kernel says of QEMU's."""
    info = guest.wait_prefault(("ready", "partial", "off"))
    return {"total_mib": info["total-bytes"] >> 20, "pinned_mib": info["pinned-bytes"] >> 20,
            "populated_mib": info["populated-bytes"] >> 20,
            "locked_mib": status_mib(guest, "VmLck"), "vm_pin_mib": status_mib(guest, "VmPin"),
            "resident_mib": status_mib(guest, "VmRSS"),
            "pauses": info["pauses"]}


def _timed(guest: Guest, *commands: tuple[str, dict[str, Any]]) -> float:
    """Milliseconds until QMP has answered these and one more command."""
    start = time.monotonic()
    for execute, arguments in commands:
        guest.qmp.command(execute, **arguments)
    guest.qmp.command("query-status")
    return round((time.monotonic() - start) * 1e3, 1)


def now_mib(guest: Guest) -> int:
    return int(guest.ask("waitmem 0").values["mem_mib"])


def wait_mib(guest: Guest, mib: int) -> None:
    """Grown or shrunk to that; the kernel keeps a little for itself."""
    more = mib > now_mib(guest)
    guest.ask(f"waitmem {mib - 4}" if more else f"waitless {mib + 4}")


def plug_dimm(guest: Guest, number: int) -> float:
    return _timed(
        guest,
        ("object-add", {"qom_type": "memory-backend-ram", "id": f"ram{number}",
                        "size": BLOCK_MIB << 20}),
        ("device_add", {"driver": "pc-dimm", "id": f"dimm{number}", "memdev": f"ram{number}",
                        "addr": FOUR_GIB + (number * BLOCK_MIB << 20)}))


def _unplug_dimm(guest: Guest, number: int) -> None:
    guest.qmp.command("device_del", id=f"dimm{number}")
    guest.qmp.wait_event("DEVICE_DELETED", guest.left)


@life
def dimm(context: Context, guest: Guest, steps: Steps) -> None:
    """A DIMM plugged and unplugged twice while a process in the guest uses all that is free."""
    before = now_mib(guest)
    guest.ask(f"load {context.spec.touched_mib}")
    for number in (0, 0):
        answer_ms = plug_dimm(guest, number)
        wait_mib(guest, before + BLOCK_MIB)
        guest.ask(f"touch {BLOCK_MIB * 3 // 4}")
        steps.mark("DIMM plugged under load", answer_ms=answer_ms, **_host_facts(guest))
        _unplug_dimm(guest, number)
        steps.mark("DIMM unplugged under load", **_host_facts(guest))
        guest.qmp.command("object-del", id=f"ram{number}")
    guest.ask("unload")


def request_size(guest: Guest, mib: int) -> float:
    return _timed(guest, ("qom-set", {"path": "vmem0", "property": "requested-size",
                                      "value": mib << 20}))


def wait_size(guest: Guest, mib: int) -> None:
    """Until the guest has plugged or unplugged that much."""
    while guest.qmp.command("qom-get", path="vmem0", property="size") != mib << 20:
        if guest.left <= 1:
            raise GuestError(f"virtio-mem has not come to {mib} MiB")
        time.sleep(0.05)


def _resize(guest: Guest, steps: Steps, mib: int, event: str, touch: int = 0) -> None:
    answer_ms = request_size(guest, mib)
    wait_size(guest, mib)
    if touch:
        guest.ask(f"touch {touch}")
    steps.mark(event, answer_ms=answer_ms, **_host_facts(guest))


@life
def virtio_mem(context: Context, guest: Guest, steps: Steps) -> None:
    """Blocks plugged and unplugged under load; a reset, which unplugs all; plugged again."""
    before = now_mib(guest)
    guest.ask(f"load {context.spec.touched_mib}")
    request_size(guest, BLOCK_MIB)
    wait_mib(guest, before + BLOCK_MIB)
    _resize(guest, steps, BLOCK_MIB, "virtio-mem: 128 MiB plugged under load", BLOCK_MIB * 3 // 4)
    _resize(guest, steps, 2 * BLOCK_MIB, "virtio-mem: 256 MiB plugged", BLOCK_MIB)
    _resize(guest, steps, BLOCK_MIB // 2, "virtio-mem: unplugged to 64 MiB")
    guest.ask("unload")
    reset_guest(guest)
    # the guest plugs them again when it boots, as long as they are asked for
    wait_size(guest, BLOCK_MIB // 2)
    steps.mark("virtio-mem: system_reset", **_host_facts(guest))
    _resize(guest, steps, 0, "virtio-mem: all unplugged")


@life
def virtio_mem_refused(context: Context, guest: Guest, steps: Steps) -> None:
    """What must not be locked is not plugged; the guest lives on without it."""
    request_size(guest, BLOCK_MIB)
    while "is not plugged" not in guest.stderr():
        if guest.left <= 1:
            raise GuestError("QEMU does not say that memory was not plugged")
        time.sleep(0.05)
    guest.ask("touch 32")
    size = guest.qmp.command("qom-get", path="vmem0", property="size")
    steps.mark("virtio-mem: plug refused", plugged_mib=size >> 20, **_host_facts(guest))
    request_size(guest, 0)


@life
def balloon(context: Context, guest: Guest, steps: Steps) -> None:
    """A balloon that the guest inflates; what was in it is used again afterwards."""
    full = context.spec.mem_mib << 20
    taken = full // 4
    guest.qmp.command("balloon", value=full - taken)
    while guest.qmp.command("query-balloon")["actual"] > full - taken:
        if guest.left <= 1:
            raise GuestError("the guest does not inflate its balloon")
        time.sleep(0.05)
    guest.ask("touch 32")
    steps.mark("balloon inflated", **_host_facts(guest))
    guest.qmp.command("balloon", value=full)
    while guest.qmp.command("query-balloon")["actual"] < full:
        if guest.left <= 1:
            raise GuestError("the guest does not deflate its balloon")
        time.sleep(0.05)
    guest.ask(f"touch {context.spec.touched_mib}")
    steps.mark("balloon deflated", **_host_facts(guest))


def _plug_cpu(guest: Guest) -> None:
    free = [cpu for cpu in guest.qmp.command("query-hotpluggable-cpus") if "qom-path" not in cpu]
    guest.qmp.command("device_add", driver=free[0]["type"], id="plugged-cpu", **free[0]["props"])


@life
def cpu_plug(context: Context, guest: Guest, steps: Steps) -> dict[str, Any]:
    """A vCPU more; all of them touch memory, then raise SMIs; options.reset: then a reset."""
    guest.ask(f"load {context.spec.touched_mib // 4}")
    _plug_cpu(guest)
    end = time.monotonic() + 30
    while (line := guest.ask("cpuonline")).values["cpus"] != "2":
        if time.monotonic() > end:
            raise GuestError(f"the guest has {line.values['cpus']} CPU(s)")
        time.sleep(0.1)
    guest.ask("unload")
    cpus = guest.ask(f"cputouch {context.spec.touched_mib // 2}").values["cpus"]
    steps.mark("vCPU plugged")
    guest.ask("smi 8")
    steps.mark("vCPU plugged, smi")
    if context.spec.options.get("reset"):
        reset_guest(guest)
        guest.ask(f"cputouch {context.spec.touched_mib // 2}")
        steps.mark("vCPU plugged, system_reset")
    return {"cpus": int(cpus)}


def _faults(guest: Guest) -> int:
    info = guest.wait_prefault(("ready", "partial", "off"))
    return info.get("faults-since-ready", 0)


@life
def bar_flip(context: Context, guest: Guest, steps: Steps) -> None:
    """RAM behind a PCI BAR goes and comes, as a VFIO device's would, and is written to."""
    guest.ask("barflip 1")
    steps.mark("BAR off and on")
    before = _faults(guest)
    guest.ask("barflip 8")
    guest.ask(f"touch {context.spec.touched_mib // 2}")
    steps.mark("BAR off and on, 8 times", all_faults=_faults(guest) - before)


@life
def efi_variables(context: Context, guest: Guest, steps: Steps) -> None:
    """The guest's kernel has firmware write to flash."""
    guest.ask("efivar 4")
    guest.ask(f"touch {context.spec.touched_mib // 2}")
    steps.mark("EFI variables written", **_host_facts(guest))
