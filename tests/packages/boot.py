# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot the tree of a chroot with its own kernel as an emulated host that has NPT.

The emulator is the packaged one, under TCG. The host's root is an overlay in memory over the tree,
which it reads by 9p, so nothing that it does is kept.
"""
from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from chroot import INSIDE, ChrootError
from host import Host

TIMEOUT = 900
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /lower /memory /new
/bin/busybox mount -t proc proc /proc
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$module
done
options=ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose
/bin/busybox mount -t 9p -o $options tree /lower
/bin/busybox mount -t tmpfs -o size=80% memory /memory
/bin/busybox mkdir -p /memory/upper /memory/work
options=lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work
/bin/busybox mount -t overlay -o $options tree /new
# The tree has no mount command.
/bin/busybox mount -t proc proc /new/proc
/bin/busybox mount -t sysfs sysfs /new/sys
/bin/busybox mount -t devtmpfs dev /new/dev
/bin/busybox mount -t tmpfs tmpfs /new/tmp
/bin/busybox mount -t tmpfs tmpfs /new/run
# depmod reads every module, which takes minutes here: leave this kernel, and of it what KVM needs.
release=$(/bin/busybox uname -r)
/bin/busybox mkdir -p /memory/modules/$release
/bin/busybox cp -a /new/lib/modules/$release/modules.* /new/lib/modules/$release/build \
    /memory/modules/$release
for part in arch/x86 virt drivers/crypto/ccp drivers/char/hw_random; do
    /bin/busybox mkdir -p /memory/modules/$release/kernel/$part
    /bin/busybox cp -a /new/lib/modules/$release/kernel/$part/. \
        /memory/modules/$release/kernel/$part
done
/bin/busybox mount -o bind /memory/modules /new/lib/modules
exec /bin/busybox switch_root /new """ + f"""{INSIDE}/switch-init
"""


def module_files(tree: Path, kernel: str) -> list[Path]:
    """Files in the order in which they have to be loaded."""
    files: list[Path] = []
    for module in MODULES:
        command = ["/usr/sbin/modprobe", "-d", str(tree), "-S", kernel, "--show-depends", module]
        done = subprocess.run(command, text=True, capture_output=True, check=True, timeout=60)
        for line in re.findall(r"^insmod (\S+)", done.stdout, re.M):
            path = Path(line)
            if path not in files:
                files.append(path)
    return files


def make_initramfs(host: Host, target: Path) -> None:
    """busybox and the modules that the root file system needs."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "bin").mkdir()
        (root / "modules").mkdir()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        files = module_files(host.dir / "lower", host.kernel)
        for path in files:
            shutil.copy(path, root / "modules")
        (root / "modules/order").write_text("\n".join(path.name for path in files) + "\n")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with target.open("wb") as stream:
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(),
                           stdout=stream, cwd=root, check=True, timeout=60)


def boot(host: Host, init: Path) -> str:
    """Console of the emulated host, which runs init as its first process and powers off."""
    host.copy(init, f"{INSIDE}/switch-init")
    make_initramfs(host, host.path(f"{INSIDE}/initramfs"))
    share = "local,path=/,mount_tag=tree,security_model=none,readonly=on,multidevs=remap"
    console = host.path(f"{INSIDE}/console")
    console.unlink(missing_ok=True)
    reason = ""
    try:
        host.run("qemu-system-x86_64-prefault", "-M", "q35", "-accel", "tcg,thread=multi",
                 "-cpu", "max,+svm,+npt", "-smp", "2", "-m", "2G", "-nodefaults",
                 "-display", "none", "-no-reboot", "-serial", f"file:{INSIDE}/console",
                 "-kernel", f"/boot/vmlinuz-{host.kernel}", "-initrd", f"{INSIDE}/initramfs",
                 "-append", "console=ttyS0 quiet panic=-1", "-virtfs", share, timeout=TIMEOUT)
    except ChrootError as error:
        reason = str(error)
    text = console.read_text(errors="replace") if console.exists() else ""
    if "switch-init: done" not in text:
        raise ChrootError(f"the emulated host did not get to its end; its console:\n"
                          f"{text[-4000:]}\n{reason}")
    return text
