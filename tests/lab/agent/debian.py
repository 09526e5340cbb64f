# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian userland on the emulated host's disk, and libvirt in it.

It is the root of a mount namespace, as it would be on a host that booted from it: AppArmor knows
programs by their paths from there.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from . import kvmhost

BUSYBOX = "/bin/busybox"
EMULATOR = "/usr/bin/qemu-system-x86_64-prefault"
EXAMPLES = Path("/lab/libvirt")
PROFILES = ("usr.sbin.libvirtd", "usr.lib.libvirt.virt-aa-helper")
TIMEOUT = 120
ENTER = f"""set -e
busybox mount -t ext4 /dev/vda /debian
cd /debian
for name in proc sys dev lab tmp; do
    busybox mkdir -p $name
    busybox mount -o rbind /$name $name
done
busybox mount -t tmpfs tmpfs run
busybox mount -t cgroup2 cgroup2 sys/fs/cgroup
busybox mount -t securityfs securityfs sys/kernel/security
busybox mkdir -p dev/pts
busybox mount -t devpts devpts dev/pts
: >.{EMULATOR}
busybox chmod 755 .{EMULATOR}
busybox mount -o bind /lab/qemu .{EMULATOR}
for library in $(busybox cat /lab/libraries); do
    [ -e .$library ] || busybox cp $library .$library
done
: >lab-ready
busybox mount -o move . /
exec busybox chroot . /usr/bin/sleep infinity
"""


class DebianError(Exception):
    """A program failed; the text is what it said."""


class Debian:
    """Entered once, for all runs of a job."""

    def __init__(self) -> None:
        self._load_modules()
        Path("/debian").mkdir()
        self._process = subprocess.Popen([BUSYBOX, "unshare", "-m", "/bin/sh", "-c", ENTER],
                                         stdin=subprocess.DEVNULL)
        self._wait_until_ready()
        self._own_device()
        self._snippets = False
        self._log_position = 0
        # every denial, however many there are
        Path("/proc/sys/kernel/printk_ratelimit").write_text("0", encoding="ascii")

    @property
    def root(self) -> Path:
        """Its files, seen from outside."""
        return Path(f"/proc/{self._process.pid}/root")

    @staticmethod
    def _load_modules() -> None:
        order = Path("/lab/modules/order.rootfs").read_text(encoding="ascii").split()
        for name in order:
            subprocess.run([BUSYBOX, "insmod", f"/lab/modules/{name}.ko"], check=True, timeout=60)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not (self.root / "lab-ready").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DebianError("the Debian userland on /dev/vda cannot be entered")
            time.sleep(0.05)

    def _own_device(self) -> None:
        """What udev does for /dev/kvm."""
        groups = (self.root / "etc/group").read_text(encoding="utf-8")
        match = re.search(r"^kvm:[^:]*:(\d+):", groups, re.M)
        if not match:
            raise DebianError("the Debian userland has no group kvm")
        os.chown("/dev/kvm", 0, int(match.group(1)))
        os.chmod("/dev/kvm", 0o660)

    def run(self, *argv: str) -> str:
        """A program in there, as root; DebianError if it fails."""
        result = subprocess.run(
            [BUSYBOX, "nsenter", "-t", str(self._process.pid), "-m", "-r", "-w", *argv],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}, check=False)
        if result.returncode:
            raise DebianError(f"{' '.join(argv)}: {(result.stdout + result.stderr).strip()}")
        return result.stdout.strip()

    @property
    def release(self) -> str:
        """debian-12 or debian-13: the names of the snippets' directories."""
        text = (self.root / "etc/os-release").read_text(encoding="utf-8")
        match = re.search(r'^VERSION_ID="?(\d+)', text, re.M)
        return f"debian-{match.group(1) if match else 'unknown'}"

    def start_libvirt(self) -> None:
        """With AppArmor's profiles, but not yet with what the fork needs in them."""
        self.run("apparmor_parser", "-r", *(f"/etc/apparmor.d/{name}" for name in PROFILES))
        for daemon in ("virtlogd", "libvirtd"):
            self.run(daemon, "-d")

    def install_snippets(self) -> None:
        """As the examples' README says, once."""
        if self._snippets:
            return
        etc, snippets = self.root / "etc/apparmor.d", EXAMPLES / "apparmor" / self.release
        if self.release == "debian-12":
            target = etc / "local/abstractions/libvirt-qemu"
        else:
            target = etc / "abstractions/libvirt-qemu.d/prefault"
            target.parent.mkdir(exist_ok=True)
        self._append(snippets / "libvirt-qemu", target)
        self._append(snippets / "usr.sbin.libvirtd", etc / "local/usr.sbin.libvirtd")
        self.run("apparmor_parser", "-r", f"/etc/apparmor.d/{PROFILES[0]}")
        self._snippets = True

    @staticmethod
    def _append(source: Path, target: Path) -> None:
        with open(target, "a", encoding="utf-8") as out:
            out.write(source.read_text(encoding="utf-8"))

    def virsh(self, *args: str) -> str:
        return self.run("virsh", "-q", "-c", "qemu:///system", *args)

    def qmp(self, domain: str, command: str) -> Any:
        answer = json.loads(self.virsh("qemu-monitor-command", domain,
                                       json.dumps({"execute": command})))
        if "error" in answer:
            raise DebianError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def denials(self) -> list[str]:
        """What AppArmor has denied since the last call."""
        lines = [line for line in kvmhost.kernel_log().splitlines() if 'apparmor="DENIED"' in line]
        new, self._log_position = lines[self._log_position:], len(lines)
        return new

    def domain_log(self, domain: str) -> list[str]:
        """The end of what QEMU has said."""
        path = self.root / "var/log/libvirt/qemu" / f"{domain}.log"
        if not path.exists():
            return []
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]

    def fresh_directory(self, name: str) -> Path:
        """Seen under the same path from in there."""
        path = Path("/tmp/lab") / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path
