# SPDX-License-Identifier: GPL-2.0-or-later
"""Which memory slots QEMU gives to KVM, and with which flags."""

import re
from dataclasses import replace
from typing import Any

from ..ftrace import ram_ranges
from ..guest import Guest
from . import Context, scenario

EVENT = re.compile(r"kvm_set_user_memory AddrSpace#(?P<as_id>\d+) Slot#\d+ flags=0x(?P<flags>\w+) "
                   r"gpa=0x(?P<gpa>\w+) size=0x(?P<size>\w+) .* ret=(?P<ret>-?\d+)")
# Linux onlines memory in blocks of 128 MiB and complains about anything else.
DIMM_MIB = 128
DIMM_AT = 1 << 32
# q35 shows RAM at 0xa0000 here as well, for firmware in SMM.
HIGH_SMRAM = (0xfeda0000, 0xfedc0000)


def _plug_dimm(guest: Guest) -> None:
    guest.qmp.command("object-add", qom_type="memory-backend-ram", id="plugged",
                      size=DIMM_MIB << 20)
    guest.qmp.command("device_add", driver="pc-dimm", id="dimm", memdev="plugged",
                      addr=DIMM_AT)


def _slots(text: str) -> list[dict[str, Any]]:
    """Every slot that was created or changed, in order; deletions left out."""
    rows = []
    for match in EVENT.finditer(text):
        size = int(match["size"], 16)
        if size:
            rows.append({"as_id": int(match["as_id"]), "gpa": int(match["gpa"], 16),
                         "size": size, "flags": int(match["flags"], 16),
                         "ret": int(match["ret"])})
    return rows


@scenario
def slot_flags(context: Context) -> dict[str, Any]:
    """Boot with a VGA, plug a DIMM; the trace tells all slots."""
    spec = context.spec
    extra = ["-m", f"{spec.mem_mib}M,slots=1,maxmem=1G", "-device", "VGA",
             "-trace", "kvm_set_user_memory"]
    with context.guest(extra=extra).start() as guest:
        guest.boot()
        _plug_dimm(guest)
        guest.ask("ping")
        status = guest.power_off()
    ram = [*ram_ranges(spec.machine, spec.mem_mib), (DIMM_AT, DIMM_AT + (DIMM_MIB << 20))]
    if spec.machine == "q35":
        ram.append(HIGH_SMRAM)
    return {"booted": status == 0, "ram": ram, "slots": _slots(guest.stderr())}


def _stopped_view(context: Context, machine: str, prefault: str) -> list[str]:
    """What the memory of a machine looks like before its first instruction."""
    paths = context.paths
    spec = replace(context.spec, machine=machine, machine_options={}, args=[])
    guest = context.remember(Guest(spec, paths, f"{machine}-{prefault}"))
    guest.argv = [
        paths.qemu, "-L", paths.firmware, "-bios", "bios-256k.bin", "-nodefaults", "-S",
        "-display", "none", "-no-user-config", "-machine", machine, "-m", f"{spec.mem_mib}M",
        "-accel", f"kvm,prefault={prefault}",
        "-chardev", f"socket,id=console,path={guest.work}/console,server=on,wait=off",
        "-serial", "chardev:console", "-qmp", f"unix:{guest.work}/qmp,server=on,wait=off"]
    with guest.start():
        return _views(guest)


def _views(guest: Guest) -> list[str]:
    """All flat views; their order, and so their number, is that of a hash table."""
    text: str = guest.qmp.command("human-monitor-command", command_line="info mtree -f")
    return sorted(view.lstrip("0123456789") for view in text.split("FlatView #"))


def _booted_view(context: Context, machine: str, config: str
                 ) -> tuple[list[str], list[dict[str, Any]]]:
    """The same after firmware and kernel, and the slots that there have been."""
    spec = replace(context.spec, machine=machine, config=config)
    guest = context.remember(Guest(spec, context.paths, f"{machine}-{config}",
                                   ["-trace", "kvm_set_user_memory"]))
    with guest.start():
        guest.boot()
        views = _views(guest)
        guest.power_off()
    return views, _slots(guest.stderr())


@scenario
def flat_view(context: Context) -> dict[str, Any]:
    """The flat views without and with prefault, and the slots of RAM made for it."""
    stopped = {machine: [_stopped_view(context, machine, prefault) for prefault in ("off", "on")]
               for machine in ("pc", "q35", "isapc")}
    booted, slots = {}, {}
    for machine in ("pc", "q35"):
        pairs = [_booted_view(context, machine, config) for config in ("stock", "prefault")]
        booted[machine] = [views for views, _ in pairs]
        slots[machine] = [[s for s in made if s["gpa"] < context.spec.mem_mib << 20]
                          for _, made in pairs]
    return {"stopped": stopped, "booted": booted, "slots": slots}
