# SPDX-License-Identifier: GPL-2.0-or-later
"""An example domain (docs/examples/libvirt) made to fit a small host.

Sizes, CPU and node numbers, disk and serial port change; all the rest is what the example says.
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
KIB = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20}
ET.register_namespace("qemu", QEMU_NS)


@dataclass
class Fit:
    """What a domain may use."""

    mem_mib: int = 256
    vcpus: int = 1
    # Its file, or without one a kernel of these.
    disk: str = ""
    kernel: str = ""
    initrd: str = ""
    append: str = ""
    # A socket that QEMU listens on.
    serial: str = ""
    # Empty: what the example says.
    emulator: str = ""
    machine_options: str = ""
    cpu: str = ""
    # Features of the host's CPU that its KVM offers, but refuses when they are set.
    without: tuple[str, ...] = ()
    host_cpus: int = 1
    # False: limits cannot be set or lifted here.
    limits: bool = True


def read(path: Path) -> ET.Element:
    return ET.parse(path).getroot()


def text(domain: ET.Element) -> str:
    return ET.tostring(domain, encoding="unicode")


def _one(parent: ET.Element, name: str) -> ET.Element:
    found = parent.find(name)
    if found is None:
        raise ValueError(f"<{parent.tag}> has no <{name}>")
    return found


def _kib(element: ET.Element) -> int:
    return int(element.text or "") * KIB[element.get("unit", "KiB")]


def _set_kib(element: ET.Element, kib: int) -> None:
    element.text = str(kib)
    element.set("unit", "KiB")


def _without_limits(domain: ET.Element) -> None:
    for element in domain.findall("memtune"):
        domain.remove(element)
    for backing in domain.findall("memoryBacking"):
        for locked in backing.findall("locked"):
            backing.remove(locked)


def _fit_memory(domain: ET.Element, fit: Fit) -> None:
    """Limits above RAM stay as far above it."""
    memory = _one(domain, "memory")
    change = (fit.mem_mib << 10) - _kib(memory)
    for path in ("memory", "maxMemory", "memtune/hard_limit"):
        for element in domain.findall(path):
            _set_kib(element, _kib(element) + change)
    cells = domain.findall("cpu/numa/cell")
    for cell in cells:
        cell.set("memory", str((fit.mem_mib << 10) // len(cells)))
        cell.set("unit", "KiB")
    if not fit.limits:
        _without_limits(domain)


def on_one_node(domain: ET.Element) -> None:
    """For hosts that have node 0 only."""
    for element in domain.findall("numatune/*"):
        element.set("nodeset", "0")


def _fit_cpus(domain: ET.Element, fit: Fit) -> None:
    """At least one vCPU per cell."""
    cells = domain.findall("cpu/numa/cell")
    vcpus = max(fit.vcpus, len(cells))
    _one(domain, "vcpu").text = str(vcpus)
    share = vcpus // max(1, len(cells))
    for number, cell in enumerate(cells):
        cell.set("cpus", f"{number * share}-{(number + 1) * share - 1}")
    for tune in domain.findall("cputune"):
        for pin in tune.findall("vcpupin"):
            if int(pin.get("vcpu", "")) >= vcpus:
                tune.remove(pin)
            pin.set("cpuset", str(int(pin.get("cpuset", "")) % fit.host_cpus))
    on_one_node(domain)
    if fit.cpu:
        _one(domain, "cpu").set("mode", fit.cpu)
    for name in fit.without:
        ET.SubElement(_one(domain, "cpu"), "feature", {"policy": "disable", "name": name})


def _fit_boot(domain: ET.Element, fit: Fit) -> None:
    if fit.disk:
        _one(domain, "devices/disk/source").set("file", fit.disk)
        return
    devices, system = _one(domain, "devices"), _one(domain, "os")
    for disk in devices.findall("disk"):
        devices.remove(disk)
    for boot in system.findall("boot"):
        system.remove(boot)
    for name, value in (("kernel", fit.kernel), ("initrd", fit.initrd), ("cmdline", fit.append)):
        ET.SubElement(system, name).text = value


def _fit_devices(domain: ET.Element, fit: Fit) -> None:
    devices = _one(domain, "devices")
    if fit.emulator:
        _one(devices, "emulator").text = fit.emulator
    devices.remove(_one(devices, "serial"))
    serial = ET.SubElement(devices, "serial", {"type": "unix"})
    ET.SubElement(serial, "source", {"mode": "bind", "path": fit.serial})


def fitted(domain: ET.Element, fit: Fit) -> ET.Element:
    """The domain, changed in place."""
    _fit_memory(domain, fit)
    _fit_cpus(domain, fit)
    _fit_boot(domain, fit)
    _fit_devices(domain, fit)
    if fit.machine_options:
        arguments = domain.findall(f"{{{QEMU_NS}}}commandline/{{{QEMU_NS}}}arg")
        arguments[1].set("value", fit.machine_options)
    return domain
