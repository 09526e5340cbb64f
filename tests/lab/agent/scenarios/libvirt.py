# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain of docs/examples/libvirt under Debian's libvirtd and AppArmor."""

import functools
import time
from pathlib import Path
from typing import Any

from .. import domainxml
from ..console import Console
from ..debian import EMULATOR, EXAMPLES, Debian, DebianError
from ..spec import Spec, append_line
from . import Context, Steps, prefault_facts, scenario


@functools.cache
def _debian() -> Debian:
    debian = Debian()
    debian.start_libvirt()
    return debian


class Domain:
    """The guest of a row, by way of virsh."""

    def __init__(self, debian: Debian, context: Context):
        self._debian = debian
        spec = self._spec = context.spec
        self.work = debian.fresh_directory("libvirt")
        root = domainxml.fitted(domainxml.read(EXAMPLES / f"{spec.options['example']}.xml"),
                                self._fit(spec, context.paths.kernel, context.paths.initrd))
        self.name = root.findtext("name") or ""
        self._xml = self.work / "domain.xml"
        self._xml.write_text(domainxml.text(root), encoding="utf-8")
        self._deadline = time.monotonic() + spec.timeout
        self.console: Console

    def _fit(self, spec: Spec, kernel: str, initrd: str) -> domainxml.Fit:
        return domainxml.Fit(mem_mib=spec.mem_mib, vcpus=spec.smp, kernel=kernel, initrd=initrd,
                             append=append_line(spec), serial=str(self.work / "serial"),
                             host_cpus=1)

    @property
    def left(self) -> float:
        return max(0.1, self._deadline - time.monotonic())

    def define(self) -> None:
        self._debian.virsh("define", "--validate", str(self._xml))

    def start(self) -> None:
        self._debian.virsh("start", self.name)
        self.connect()

    def connect(self) -> None:
        self.console = Console(str(self.work / "serial"), self.work / "console.log")

    def boot(self) -> None:
        self.console.expect("ready", self.left)

    def query(self) -> dict[str, Any]:
        return self._debian.qmp(self.name, "query-kvm-prefault")

    def save_and_restore(self) -> None:
        file = str(self.work / "save")
        self._debian.virsh("save", self.name, file)
        self.console.close()
        self._debian.virsh("restore", file)
        self.connect()

    def power_off(self) -> None:
        self.console.send("poweroff")
        while (state := self._debian.virsh("domstate", self.name)) != "shut off":
            if self.left <= 0.1:
                raise DebianError(f"{self.name} is still {state}, expected shut off")
            time.sleep(0.5)
        self._debian.virsh("undefine", self.name, "--nvram")

    def process(self) -> dict[str, Any]:
        """How libvirt runs QEMU: user, AppArmor profile, limit."""
        pid = (self._debian.root / f"run/libvirt/qemu/{self.name}.pid").read_text().strip()
        proc = Path("/proc") / pid
        status = dict(line.split(":\t", 1) for line in
                      (proc / "status").read_text().splitlines() if ":\t" in line)
        limit = next(line for line in (proc / "limits").read_text().splitlines()
                     if line.startswith("Max locked memory"))
        return {"uid": int(status["Uid"].split()[0]), "locked": status["VmLck"].strip(),
                "profile": (proc / "attr/current").read_text().strip(),
                "memlock": limit.split()[3]}


def _refusal(domain: Domain) -> str:
    """What virsh says if AppArmor does not know the fork yet."""
    try:
        domain.start()
    except DebianError as error:
        return str(error)
    raise RuntimeError("the domain started without the AppArmor snippet")


def _statistics(debian: Debian, name: str) -> dict[str, str]:
    lines = debian.virsh("domstats", name).splitlines()
    return dict(line.strip().split("=", 1) for line in lines if "=" in line)


def _life(debian: Debian, domain: Domain, context: Context) -> dict[str, Any]:
    """Boot, reset, save and restore: RAM faults of each."""
    steps = Steps(context)
    domain.start()
    domain.boot()
    steps.mark("boot")
    row = {"process": domain.process(), "domstats": _statistics(debian, domain.name),
           "first_query": domain.query()}
    debian.virsh("reset", domain.name)
    domain.boot()
    steps.mark("reset")
    domain.save_and_restore()
    domain.console.ask(f"touch {context.spec.touched_mib}", domain.left)
    steps.mark("restore")
    row |= prefault_facts(domain.query())
    domain.power_off()
    return {**row, "booted": True, "events": steps.rows}


@scenario
def libvirt(context: Context) -> dict[str, Any]:
    """options.example: which; options.unknown: start it first without the AppArmor snippet.

    "denied" is what AppArmor denies after that.
    """
    debian = _debian()
    domain = Domain(debian, context)
    row: dict[str, Any] = {"libvirt": debian.run("libvirtd", "--version"),
                           "release": debian.release}
    debian.virsh("domcapabilities", "--emulatorbin", EMULATOR)
    domain.define()
    try:
        if context.spec.options.get("unknown"):
            row["refused"] = _refusal(domain)
        row["denied_before"] = debian.denials()
        debian.install_snippets()
        row |= _life(debian, domain, context)
    except Exception as error:
        raise RuntimeError("\n".join([str(error), *debian.denials(),
                                      *debian.domain_log(domain.name)])) from error
    return {**row, "denied": debian.denials()}
