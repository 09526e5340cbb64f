# SPDX-License-Identifier: GPL-2.0-or-later
"""One run as data: what a job asks for, and the QEMU command line for it."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .mtrrlab import ZAPS

# "stock" is the fork that was not asked for anything, "upstream" the unchanged QEMU.
CONFIGS = ("stock", "prealloc", "prefault", "always-writable", "upstream")
BACKENDS = ("ram", "memfd", "file", "hugetlb")


@dataclass
class Spec:
    """A guest run; the defaults are the row that measured.md describes."""

    name: str
    scenario: str = "boot"
    config: str = "stock"
    machine: str = "pc"
    firmware: str = "seabios"
    smp: int = 1
    mem_mib: int = 256
    # RAM below 4 GiB; 0: as much as there is room for.
    below_mib: int = 0
    host_page_kib: int = 2048
    smm: bool = True
    backend: str = "ram"
    share: bool = False
    nodes: int = 0
    prealloc: bool = False
    reserve: bool = True
    memlock_kib: int | None = None
    touch_mib: int = 0
    # Room for memory that is plugged, from 4 GiB on, where faults count as well.
    hotplug_mib: int = 0
    guest_modules: bool = False
    zap: str = "stock"
    append: str = ""
    accel: dict[str, str] = field(default_factory=dict)
    machine_options: dict[str, str] = field(default_factory=dict)
    args: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    timeout: float = 180

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Spec":
        """Check names and values, so that a typing error is not a result."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"run '{data.get('name')}': unknown field(s) {unknown}; "
                             f"known are {sorted(known)}")
        spec = cls(**data)
        for name, value, allowed in (
                ("config", spec.config, CONFIGS),
                ("backend", spec.backend, BACKENDS),
                ("firmware", spec.firmware, ("seabios", "ovmf", "ovmf-smm")),
                ("machine", spec.machine, ("pc", "q35")),
                ("zap", spec.zap, tuple(ZAPS)),
                ("host_page_kib", spec.host_page_kib, (4, 2048, 1048576))):
            if value not in allowed:
                raise ValueError(f"run '{spec.name}': {name}={value!r}, "
                                 f"must be one of {allowed}")
        return spec

    @property
    def dimensions(self) -> dict[str, Any]:
        """The fields that every result row repeats."""
        return {"name": self.name, "config": self.config, "firmware": self.firmware,
                "machine": self.machine, "smp": self.smp, "mem_mib": self.mem_mib,
                "host_page_kib": self.host_page_kib, "smm": self.smm,
                "backend": self.backend, "share": self.share}

    @property
    def touched_mib(self) -> int:
        """Five eighths of RAM: 160 MiB of 256."""
        return self.touch_mib or self.mem_mib * 5 // 8


@dataclass
class Paths:
    """Where the pieces lie on the host that runs the guests."""

    qemu: str
    qemu_upstream: str
    qemu_img: str
    firmware: str
    ovmf_code: str
    ovmf_smm_code: str
    ovmf_vars: str
    kernel: str
    initrd: str
    modules: str
    work: str
    host_validate: str


def _join(name: str, options: dict[str, str]) -> str:
    return ",".join([name, *(f"{k}={v}" for k, v in options.items())])


def accel_args(spec: Spec) -> list[str]:
    options = dict(spec.accel)
    if spec.config == "prefault":
        options.setdefault("prefault", "on")
        # What takes a real host 2 ms takes the emulated one 100: rows that are about the
        # limit say so, in the others no clock decides what is counted.
        options.setdefault("prefault-max-hold", "0")
    if spec.config == "always-writable":
        options.setdefault("always-writable", "on")
    return ["-accel", _join("kvm", options)]


def machine_args(spec: Spec) -> list[str]:
    options = {"smm": "on" if spec.smm else "off"}
    if spec.below_mib:
        options["max-ram-below-4g"] = f"{spec.below_mib}M"
    if not spec.nodes:
        options["memory-backend"] = "mem"
    return ["-machine", _join(spec.machine, options | spec.machine_options)]


def backend_object(spec: Spec, name: str, mib: int, work: Path) -> str:
    kinds = {"ram": "memory-backend-ram", "memfd": "memory-backend-memfd",
             "file": "memory-backend-file", "hugetlb": "memory-backend-memfd"}
    options = {"id": name, "size": f"{mib}M", "share": "on" if spec.share else "off"}
    if spec.backend == "file":
        options["mem-path"] = str(work / f"{name}.ram")
    if spec.backend == "hugetlb":
        options |= {"hugetlb": "on", "hugetlbsize": f"{max(spec.host_page_kib, 2048)}K"}
    if not spec.reserve:
        options["reserve"] = "off"
    if spec.prealloc or spec.config == "prealloc":
        options["prealloc"] = "on"
    return _join(kinds[spec.backend], options)


def memory_args(spec: Spec, work: Path) -> list[str]:
    size = f"{spec.mem_mib}M"
    if spec.hotplug_mib:
        size += f",slots=4,maxmem={spec.mem_mib + spec.hotplug_mib}M"
    args = ["-m", size, "-smp", str(spec.smp)]
    if not spec.nodes:
        return [*args, "-object", backend_object(spec, "mem", spec.mem_mib, work)]
    share = spec.mem_mib // spec.nodes
    for node in range(spec.nodes):
        backend = backend_object(spec, f"mem{node}", share, work)
        args += ["-object", f"{backend},host-nodes={node},policy=bind",
                 "-numa", f"node,nodeid={node},memdev=mem{node}"]
    return args


def firmware_args(spec: Spec, paths: Paths, work: Path) -> list[str]:
    if spec.firmware == "seabios":
        return []
    code, drives = paths.ovmf_code, []
    if spec.firmware == "ovmf-smm":
        # flash can be written to in SMM only
        code, drives = paths.ovmf_smm_code, ["-global", "driver=cfi.pflash01,property=secure,"
                                                        "value=on"]
    for unit, (file, read_only) in enumerate(((code, "on"),
                                              (str(work / "vars.fd"), "off"))):
        drives += ["-drive", f"if=pflash,unit={unit},format=raw,"
                             f"readonly={read_only},file={file}"]
    return drives


def initrd(spec: Spec, paths: Paths, work: Path) -> str:
    """The kernel reads archives that stand one behind another."""
    if not spec.guest_modules:
        return paths.initrd
    path = work / "initrd"
    path.write_bytes(Path(paths.initrd).read_bytes() + Path(paths.modules).read_bytes())
    return str(path)


def append_line(spec: Spec) -> str:
    return f"console=ttyS0 quiet panic=-1 lab_touch={spec.touched_mib} {spec.append}".rstrip()


def command_line(spec: Spec, paths: Paths, work: Path) -> list[str]:
    """QEMU's argv; sockets and RAM files lie in work."""
    return [
        paths.qemu_upstream if spec.config == "upstream" else paths.qemu,
        "-L", paths.firmware, "-nodefaults", "-vga", "none",
        "-display", "none", "-no-user-config", "-no-reboot",
        *machine_args(spec), *accel_args(spec), *memory_args(spec, work),
        *firmware_args(spec, paths, work),
        "-kernel", paths.kernel, "-initrd", initrd(spec, paths, work),
        "-append", append_line(spec),
        "-chardev", f"socket,id=console,path={work}/console,server=on,wait=off",
        "-serial", "chardev:console",
        "-qmp", f"unix:{work}/qmp,server=on,wait=off",
        *spec.args,
    ]
