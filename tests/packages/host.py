# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian host that the packages are installed on."""
from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
from pathlib import Path

from chroot import (BUILD, INSIDE, Chroot, ChrootError, Unavailable, kernel_packages,
                    make_tarball, require)

EMULATOR = "qemu-system-x86-prefault"
MODULES = "kvm-prefault-dkms"
# What a host has besides: Debian's QEMU, and what the tests look with.
HOST = ["qemu-system-x86", "bash-completion", "man-db"]


def output(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=120, check=False)
    if done.returncode:
        raise ChrootError(f"'{' '.join(map(str, command))}' failed:\n{done.stderr}")
    return done.stdout.strip()


def wants_of(deb: Path) -> list[str]:
    """Packages named by Depends and Recommends but kernels; of alternatives the first one."""
    text = ",".join(output("dpkg-deb", "-f", deb, name) for name in ("Depends", "Recommends"))
    names = [re.split(r"[ |(]", want.strip())[0] for want in text.split(",") if want.strip()]
    return [name for name in names if not name.startswith("linux-")]


class Host(Chroot):
    """An overlay with the packages at hand but not installed."""

    def __init__(self, name: str, tarball: Path, debs: dict[str, Path]) -> None:
        super().__init__(name, tarball)
        self.debs = debs
        self.version = output("dpkg-deb", "-f", debs[MODULES], "Version")
        self.emulator = self.copy(debs[EMULATOR], f"{INSIDE}/{debs[EMULATOR].name}")
        self.modules = self.copy(debs[MODULES], f"{INSIDE}/{debs[MODULES].name}")
        # Kernels with headers; the first is Debian 12's own, whose image is installed too.
        found = self.sh("ls -d /lib/modules/*/build").split()
        self.kernels = sorted((path.split("/")[3] for path in found),
                              key=lambda kernel: kernel.startswith("6.12"))
        self.kernel = self.kernels[0]
        self.before: dict[str, str] = {}

    def newer_modules(self) -> str:
        """The package of the modules in a higher version, for an upgrade."""
        tree, newer = self.dir / "newer", f"{self.version}+new"
        output("dpkg-deb", "-R", self.debs[MODULES], tree)
        for path in tree.rglob("*"):
            if path.is_file() and not path.name.endswith((".gz", ".patch")):
                text = path.read_text()
                if self.version in text:
                    path.write_text(text.replace(self.version, newer))
        source = tree / "usr/src"
        (source / f"kvm-prefault-{self.version}").rename(source / f"kvm-prefault-{newer}")
        deb = self.dir / f"{MODULES}_{newer}_all.deb"
        output("dpkg-deb", "--root-owner-group", "-b", tree, deb)
        return self.copy(deb, f"{INSIDE}/{deb.name}")


def arguments(program: str, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, default=BUILD / "deb", metavar="DIR",
                        help="where the packages are (default: build/deb)")
    parser.add_argument("--keep", action="store_true", help="keep the tree in build/packages")
    return parser.parse_args()


def stopped(*_: object) -> None:
    print("Bail out! stopped by a signal", flush=True)
    sys.exit(143)


def open_host(name: str, options: argparse.Namespace) -> Host | str:
    """A fresh host, or why there cannot be one."""
    # Commands in the tree end with the test, when meson's time is up as well.
    signal.signal(signal.SIGTERM, stopped)
    debs = {}
    for package in (EMULATOR, MODULES):
        found = sorted(options.debs.glob(f"{package}_*.deb"))
        if len(found) != 1:
            return f"no package {package} in {options.debs}; run make deb"
        debs[package] = found[0]
    try:
        require("mmdebstrap", "unshare", "dpkg-deb")
    except Unavailable as reason:
        return str(reason)
    packages = {*HOST, *(want for deb in debs.values() for want in wants_of(deb))}
    kernel, newer = kernel_packages("6.1"), kernel_packages("6.12")
    if not kernel:
        return "the archive has no kernel 6.1"
    # Of the newer one no image: it is not booted, and 100 MB less to fetch.
    packages |= {*kernel, *newer[1:]}
    return Host(name, make_tarball(sorted(packages), bool(newer)), debs)
