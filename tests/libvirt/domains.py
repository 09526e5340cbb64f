# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains made of the examples, with a boot sector of ours as the guest."""

import contextlib
import itertools
import os
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import daemon
from agent import domainxml
from agent.console import Console

HERE = Path(__file__).resolve().parent
GUEST_TIMEOUT = 60
DISK_SIZE = 1 << 20


def boot_sector(scratch: Path) -> Path:
    """A disk that boots guest.S, with nothing else on it."""
    linked, disk = scratch / "guest.o", scratch / "disk.img"
    for command in (["as", "--32", "-o", str(linked), str(HERE / "guest.S")],
                    ["ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary",
                     "-o", str(disk), str(linked)]):
        subprocess.run(command, check=True, timeout=60)
    os.truncate(disk, DISK_SIZE)
    return disk


class Maker:
    """Turns examples into domains for this machine."""

    def __init__(self, qemu: Path, examples: Path, scratch: Path):
        self._disk = boot_sector(scratch)
        self._qemu, self._examples, self._scratch = qemu, examples, scratch
        self._numbers = itertools.count()

    def xml(self, example: str, **more: Any) -> str:
        """A small domain of that kind, under a name of its own."""
        domain = domainxml.read(self._examples / f"{example}.xml")
        number = next(self._numbers)
        fit = domainxml.Fit(
            mem_mib=128, vcpus=1, disk=str(self._disk), emulator=str(self._qemu),
            serial=str(self._scratch / f"serial{number}"), cpu="host-passthrough",
            # nested hosts may offer bits of its MSR that they do not take (0x10a)
            without=("arch-capabilities",),
            host_cpus=os.cpu_count() or 1, limits=False)
        for name, value in more.items():
            setattr(fit, name, value)
        return domainxml.text(domainxml.fitted(domain, fit))

    def with_emulator(self, example: str) -> Path:
        """The example as it is, but for the emulator and nodes that this host lacks."""
        domain = domainxml.read(self._examples / f"{example}.xml")
        emulator = domain.find("devices/emulator")
        assert emulator is not None
        emulator.text = str(self._qemu)
        domainxml.on_one_node(domain)
        path = self._scratch / f"{example}.xml"
        path.write_text(domainxml.text(domain), encoding="utf-8")
        return path


class Domain:
    """A domain of one libvirtd, later perhaps of another."""

    def __init__(self, libvirt: daemon.Libvirtd, xml: str):
        self._libvirt = libvirt
        self._homes = [libvirt]
        self._xml = xml
        root = ET.fromstring(xml)
        self.name = root.findtext("name") or ""
        source = root.find("devices/serial/source")
        assert source is not None
        self._serial = Path(source.get("path", ""))
        self._console: Console | None = None

    def define(self) -> None:
        self._libvirt.define(self._xml)

    def start(self) -> None:
        self._libvirt.virsh("start", self.name)
        self._connect()

    def remove(self) -> None:
        """Whatever has become of it."""
        if self._console:
            self._console.close()
        for libvirt in self._homes:
            for command in (("destroy", self.name), ("undefine", self.name, "--nvram")):
                with contextlib.suppress(daemon.Virsh):
                    libvirt.virsh(*command)

    def _connect(self) -> None:
        if self._console:
            self._console.close()
        self._console = Console(str(self._serial), self._serial.with_suffix(".log"))

    @property
    def console(self) -> Console:
        if self._console is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._console

    def wait_boot(self) -> None:
        self.console.expect("ready", GUEST_TIMEOUT)

    def send(self, command: str) -> None:
        self.console.send(command)

    def count(self) -> int:
        """How far the guest has counted since it was started or reset."""
        return int(self.console.ask("ping", GUEST_TIMEOUT).values["count"], 16)

    def qmp(self, command: str, **arguments: Any) -> Any:
        return self._libvirt.qmp(self.name, command, **arguments)

    def query(self) -> dict[str, Any]:
        """query-kvm-prefault, once nothing is being populated."""
        deadline = time.monotonic() + GUEST_TIMEOUT
        while (info := self.qmp("query-kvm-prefault"))["state"] == "populating":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is still populating: {info}")
            time.sleep(0.2)
        return info

    def statistics(self) -> dict[str, str]:
        lines = self._libvirt.virsh("domstats", self.name).splitlines()
        return dict(line.strip().split("=", 1) for line in lines if "=" in line)

    def save_and_restore(self) -> None:
        file = self._serial.with_suffix(".save")
        self._libvirt.virsh("save", self.name, str(file))
        self._libvirt.virsh("restore", str(file))
        file.unlink()
        self._connect()

    def migrate(self, there: daemon.Libvirtd, machine_options: str = "") -> None:
        """Live, over a socket; the domain stays defined at both ends.

        Unsafe is what libvirt calls a disk on a file system that is not known to be shared.
        The serial port gets another socket there: the source removes its own when it ends.
        """
        serial = self._serial.with_name(f"{self._serial.name}-there")
        root = ET.fromstring(
            self._libvirt.virsh("dumpxml", "--migratable", self.name))
        for source in root.findall("devices//source[@mode='bind']"):
            source.set("path", str(serial))
        if machine_options:
            root.findall(f".//{{{domainxml.QEMU_NS}}}arg")[1].set("value", machine_options)
        xml = self._serial.with_suffix(".xml")
        xml.write_text(domainxml.text(root), encoding="utf-8")
        self._libvirt.virsh("migrate", "--live", "--persistent", "--unsafe", self.name, there.uri,
                            "--migrateuri", f"unix://{self._serial.with_suffix('.migration')}",
                            "--xml", str(xml))
        self._libvirt, self._serial = there, serial
        self._homes.append(there)
        self._connect()
