# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the emulated host's initramfs and, inside it, the guest's."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Iterable

from . import debugkernel, faults, modules, packages
from .config import DEFAULT_KERNEL, LAB, SOURCE, SYSTEM_PYTHON, Config, LabError
from .cpio import Cpio

# The emulated CPU decides which of the first two is loaded.
KVM_VENDORS = ("kvm_amd", "kvm_intel")
OTHER_MODULES = ["msr"]
# Loaded by rows with a "rootfs".
ROOTFS_MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]
GUEST_MODULES = ("virtio_pci", "virtio_mem", "virtio_balloon", "efivarfs")
ROMS = ["bios-256k.bin", "kvmvapic.bin", "linuxboot.bin", "linuxboot_dma.bin",
        "multiboot.bin", "multiboot_dma.bin", "pvh.bin", "vgabios-stdvga.bin"]
SHIMS = ("fail-call", "state-compare", "naive-prefault")
OVMF = Path("/usr/share/OVMF")
BUSYBOX = Path("/bin/busybox")
APPLETS = ["sh", "mount", "mkdir", "poweroff", "dmesg", "insmod", "rmmod", "cat", "ls",
           "sysctl", "swapoff"]

HOST_INIT = """#!/bin/sh
# Set the emulated host up, run the agent, switch off.  SPDX: GPL-2.0-or-later
export PATH=/usr/bin:/bin HOME=/lab
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /dev/shm /dev/hugepages /tmp /run
mount -t tmpfs -o size=90% tmpfs /dev/shm
mount -t hugetlbfs -o pagesize=2M hugetlbfs /dev/hugepages
cd /lab
if [ -e /lab/shell ]; then
    busybox --install -s /bin
    echo "The fork is /lab/qemu; modules are in /lab/modules; 'poweroff -f' ends."
    setsid cttyhack sh
else
    python3 -E -s -S -B -m agent.main /lab/job.json /dev/ttyS1 ||
        echo "@@LAB {\\"type\\": \\"error\\", \\"error\\": \\"the agent ended with status $?\\"}" >/dev/ttyS1
fi
poweroff -f
"""


def libraries(binaries: Iterable[Path]) -> set[Path]:
    """Shared libraries and loader of some executables, as ldd sees them."""
    found: set[Path] = set()
    for binary in binaries:
        text = subprocess.run(["ldd", str(binary)], capture_output=True, text=True,
                              timeout=60, check=False).stdout
        for line in text.splitlines():
            if "not found" in line:
                raise LabError(f"{binary} needs a library that is missing:{line}")
            words = line.replace("=>", " ").split()
            paths = [Path(word) for word in words if word.startswith("/")]
            found.update(paths[-1:])
    return found


def compiled(source: Path, target: Path, *how: str) -> Path:
    """Compile one file; make's rule: only when it or a header beside it is newer."""
    return _compiled([source], [*source.parent.glob("*.h")], target, *how)


def _compiled(sources: list[Path], headers: list[Path], target: Path, *how: str) -> Path:
    newest = max(path.stat().st_mtime for path in (*sources, *headers))
    if not target.exists() or target.stat().st_mtime < newest:
        subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-s", *how,
                        "-o", str(target), *map(str, sources)], check=True, timeout=120)
    return target


def build_guest_init(config: Config) -> Path:
    """Above 4 GiB, so that its addresses tell it from firmware."""
    guest = LAB / "guest"
    return _compiled(sorted(guest.glob("*.c")), sorted(guest.glob("*.h")),
                     config.work / "guest-init-pie", "-static-pie", "-fPIE")


def build_shim(config: Config, name: str) -> Path:
    """A library to be preloaded into QEMU."""
    return compiled(LAB / "host" / f"{name}.c", config.work / f"{name}.so", "-shared", "-fPIC",
                    "-static-libgcc")


def build_hypervisor(config: Config) -> Path:
    """The guest that is a hypervisor, as it lies in flash."""
    return compiled(LAB / "guest" / "hypervisor.S", config.work / "hypervisor.bin", "-m32",
                    "-nostdlib", "-static", "-no-pie",
                    "-Wl,-Ttext=0x10000,--oformat=binary,--build-id=none")


def build_mtrr(config: Config) -> Path:
    """The program of several files that measures and checks guest MTRRs."""
    source, target = LAB / "host" / "mtrr", config.work / "mtrr"
    include = (LAB / "module", SOURCE / "tests" / "unit",
               config.build / f"linux-{modules.MTRR_KERNEL}-src" / "arch/x86/kvm")
    newest = max(path.stat().st_mtime for directory in (source, *include[:2])
                 for path in directory.glob("*.[ch]"))
    if not target.exists() or target.stat().st_mtime < newest:
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-s", "-static", "-pthread",
                        *(f"-I{path}" for path in include), *map(str, source.glob("*.c")),
                        "-o", str(target)], check=True, timeout=120)
    return target


def build_guest(config: Config) -> Path:
    """The guest's whole user space: /init and a console."""
    archive = io.BytesIO()
    cpio = Cpio(archive)
    cpio.character("/dev/console", 5, 1)
    cpio.character("/dev/mem", 1, 1)
    cpio.character("/dev/port", 1, 4)
    for name in ("/proc", "/sys"):
        cpio.directory(name)
    cpio.file("/init", build_guest_init(config))
    cpio.close()
    target = config.work / "guest.cpio"
    if not target.exists() or target.read_bytes() != archive.getvalue():
        target.write_bytes(archive.getvalue())
    return target


def build_guest_modules(config: Config, kernel: packages.Kernel) -> Path:
    """A second archive for guests that need drivers; what is built in is left out."""
    wanted = [name for name in GUEST_MODULES if kernel.has_module(name)]
    order = modules.in_load_order(kernel, wanted, {})
    archive = io.BytesIO()
    cpio = Cpio(archive)
    cpio.directory("/modules")
    for name, elf in order.items():
        cpio.data(f"/modules/{name}.ko", elf)
    cpio.data("/modules/order", "\n".join(order).encode())
    cpio.close()
    target = config.work / f"guest-modules-{kernel.release}.cpio"
    if not target.exists() or target.read_bytes() != archive.getvalue():
        target.write_bytes(archive.getvalue())
    return target


def firmware(config: Config) -> dict[str, Path]:
    """ROM files by name, from the first directory that has each."""
    found = {}
    directories = packages.rom_directories(config)
    for name in ROMS:
        for directory in directories:
            if (directory / name).is_file():
                found[name] = directory / name
                break
        else:
            raise LabError(f"no {name} in {', '.join(map(str, directories))}: "
                           "install the package seabios")
    return found


def ovmf() -> dict[str, Path]:
    """Code without and with SMM; both use the same variables."""
    files = {"OVMF_CODE": OVMF / "OVMF_CODE_4M.fd", "OVMF_VARS": OVMF / "OVMF_VARS_4M.fd",
             "OVMF_CODE_SMM": OVMF / "OVMF_CODE_4M.secboot.fd"}
    for path in files.values():
        if not path.is_file():
            raise LabError(f"{path} does not exist: apt-get install ovmf")
    return files


def build_name(config: Config, binary: Path) -> str:
    """For files made from this binary: fork and unchanged QEMU both lie in a "qemu"."""
    return os.path.relpath(binary.parent, config.build).replace("/", "-")


def stripped(config: Config, binary: Path) -> Path:
    """A copy without debug information: the image is loaded at every boot."""
    target = config.work / "stripped" / build_name(config, binary) / binary.name
    if not target.exists() or target.stat().st_mtime < binary.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["strip", "-o", str(target), str(binary)], check=True, timeout=120)
    return target


class HostImage:
    """The emulated host's initramfs; rebuilt only when an input changed."""

    def __init__(self, config: Config, kvm: str = "stock", series: str = DEFAULT_KERNEL,
                 upstream: bool = False):
        self._config = config
        self._upstream = upstream
        self._patched: dict[str, Path] = {}
        self.kernel: packages.Kernel | debugkernel.DebugKernel
        # Guests are not what is debugged.
        self._guest_kernel = packages.kernel(config) if kvm == "debug" else None
        if kvm == "debug":
            self.kernel = debugkernel.kernel(config, series)
        elif kvm == "patched":
            self.kernel, self._patched = modules.patched(config, series)
        else:
            self.kernel = packages.kernel(config, series)
        self._lab_module = modules.lab_module(config, series, kvm)
        # Not "qemu" alone: an image per build, so that none replaces another's.
        name = build_name(config, config.qemu) + ("-and-upstream" if upstream else "")
        self.path = config.work / f"host-{series}-{kvm}-{name}.cpio"
        self._files: dict[str, Path] = {}

    def build(self) -> Path:
        self._config.work.mkdir(parents=True, exist_ok=True)
        self._collect()
        key = self._key()
        stamp = self.path.with_suffix(".key")
        if not self.path.exists() or not stamp.exists() or stamp.read_text() != key:
            self._config.say("  building the emulated host's initramfs ...")
            self._write()
            stamp.write_text(key)
        return self.path

    def _collect(self) -> None:
        config = self._config
        binaries = [config.qemu]
        self._files = {"/lab/qemu": stripped(config, config.qemu)}
        if self._upstream:
            if not config.qemu_upstream.exists():
                raise LabError("the unchanged QEMU has not been built: run 'make stock'")
            self._files["/lab/qemu-upstream"] = stripped(config, config.qemu_upstream)
        if config.qemu_img.exists():
            self._files["/lab/qemu-img"] = stripped(config, config.qemu_img)
            binaries.append(config.qemu_img)
        if config.host_validate.exists():
            # Its library is one of QEMU's.
            self._files["/lab/prefault-host-validate"] = stripped(config, config.host_validate)
        for name, path in (firmware(config) | ovmf()).items():
            self._files[f"/lab/firmware/{name}"] = path
        self._files["/lab/kernel"] = (self._guest_kernel or self.kernel).image
        self._files["/lab/guest.cpio"] = build_guest(config)
        guest_kernel = self._guest_kernel or self.kernel
        if isinstance(guest_kernel, packages.Kernel):
            self._files["/lab/guest-modules.cpio"] = build_guest_modules(config, guest_kernel)
        for name in SHIMS:
            self._files[f"/lab/{name}.so"] = build_shim(config, name)
        self._files["/lab/hypervisor.bin"] = build_hypervisor(config)
        self._files["/lab/fail-call.functions"] = faults.functions_file(config)
        if self._lab_module:
            self._files[f"/lab/modules/{self._lab_module.name}"] = self._lab_module
        if self._lab_module and self._lab_module.name == modules.LAB_MODULES[modules.MTRR_KERNEL]:
            self._files["/lab/mtrr"] = build_mtrr(config)
        self._files["/usr/bin/busybox"] = BUSYBOX

    def _key(self) -> str:
        """Names, sizes and times of the inputs, and the agent's text."""
        seen = hashlib.sha256(HOST_INIT.encode())
        inputs = [*self._files.values(), *self._patched.values()]
        inputs += sorted((LAB / "agent").rglob("*.py"))
        inputs += sorted((LAB / "framework").glob("*.py"))
        for path in inputs:
            info = path.stat()
            seen.update(f"{path} {info.st_size} {info.st_mtime_ns}\n".encode())
        return seen.hexdigest()

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        with open(part, "wb") as out, tempfile.TemporaryDirectory() as scratch:
            cpio = Cpio(out)
            self._add_skeleton(cpio)
            self._add_python(cpio, Path(scratch))
            self._add_modules(cpio)
            for name, path in self._files.items():
                cpio.file(name, path)
            cpio.close()
        part.rename(self.path)

    @staticmethod
    def _add_skeleton(cpio: Cpio) -> None:
        for name in ("bin", "lib", "lib64", "sbin"):
            cpio.directory(f"/usr/{name}")
            cpio.symlink(f"/{name}", f"usr/{name}")
        for name in ("/proc", "/sys", "/dev", "/tmp", "/run"):
            cpio.directory(name)
        cpio.character("/dev/console", 5, 1)
        for name in APPLETS:
            cpio.symlink(f"/usr/bin/{name}", "busybox")
        cpio.data("/init", HOST_INIT.encode(), 0o755)

    def _add_python(self, cpio: Cpio, scratch: Path) -> None:
        script = LAB / "framework" / "pycollect.py"
        result = subprocess.run(
            [str(SYSTEM_PYTHON), "-I", "-B", str(script), str(LAB), str(scratch)],
            capture_output=True, text=True, timeout=120, check=False)
        if result.returncode:
            raise LabError(f"cannot collect Python's modules:\n{result.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(result.stdout)
        for name, source in found["files"].items():
            cpio.file(name, Path(source))
        binaries = [Path(name) for name in found["binaries"]]
        cpio.symlink("/usr/bin/python3", binaries[0].name)
        if self._upstream:
            binaries.append(self._config.qemu_upstream)
        needed = libraries([*binaries, self._config.qemu,
                            *(p for p in [self._config.qemu_img] if p.exists())])
        for path in [*binaries, *sorted(needed)]:
            place = Path(os.path.realpath(path.parent)) / path.name
            cpio.file(str(place), path)

    def _add_modules(self, cpio: Cpio) -> None:
        for vendor in KVM_VENDORS:
            self._add_module_set(cpio, vendor, [vendor, *OTHER_MODULES])
        self._add_module_set(cpio, "rootfs", ROOTFS_MODULES)

    def _add_module_set(self, cpio: Cpio, name: str, wanted: list[str]) -> None:
        """The modules, and their order in a file; what is built in needs neither."""
        order: dict[str, bytes] = {}
        if isinstance(self.kernel, packages.Kernel):
            loadable = [module for module in wanted if self.kernel.has_module(module)]
            order = modules.in_load_order(self.kernel, loadable, self._patched)
        for module, elf in order.items():
            cpio.data(f"/lab/modules/{module}.ko", elf)
        cpio.data(f"/lab/modules/order.{name}", "\n".join(order).encode())


def with_extra(base: Path, target: Path, extra: dict[str, bytes]) -> Path:
    """A copy of an archive with a second one behind it: the kernel reads both."""
    shutil.copyfile(base, target)
    with open(target, "ab") as out:
        cpio = Cpio(out)
        for name, content in extra.items():
            cpio.data(name, content)
        cpio.close()
    return target
