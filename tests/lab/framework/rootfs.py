# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian userland for the emulated host: an image of a whole file system, made once.

mmdebstrap makes it from the archive that this machine's apt uses, for this machine's release
or a newer one: the fork that runs in it was built here, with these libraries.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from . import initramfs
from .config import SOURCE, Config, LabError, exclusive
from .packages import apt_suite, mmdebstrap_sources

# libvirt as Debian installs it, and firmware.
PACKAGES = ("libvirt-daemon-system", "libvirt-clients", "apparmor", "seabios", "ovmf",
            "qemu-system-data", "ipxe-qemu")
# Nobody reads them on the emulated host, and they are half of it.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/info/*")
TOOLS = {"mmdebstrap": "mmdebstrap", "genext2fs": "genext2fs"}
TIMEOUT = 1200
EXAMPLES = SOURCE / "docs" / "examples" / "libvirt"


def missing_tools() -> list[str]:
    """Packages that this machine needs to make an image."""
    return [package for tool, package in TOOLS.items() if not shutil.which(tool)]


def _sources(suite: str) -> str:
    """For mmdebstrap; "own" is this machine's release."""
    codename = apt_suite().os_codename() if suite == "own" else suite
    return mmdebstrap_sources([codename, f"{codename}-security"])


def _command(sources: Path, target: Path) -> list[str]:
    """mmdebstrap signals its whole process group when it fails; timeout gives it one."""
    left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    settings = [f"--aptopt={line}" for line in _apt_settings()]
    return ["timeout", "--kill-after=10", str(TIMEOUT),
            "mmdebstrap", "--quiet", "--variant=essential", "--format=ext2",
            f"--include={','.join(PACKAGES)}", *left_out, *settings,
            "", str(target), str(sources)]


def _apt_settings() -> list[str]:
    """How this machine's apt reaches the archive: proxies and the like."""
    dumped = subprocess.run(["apt-config", "dump", "--format", "%F \"%v\";%n", "Acquire::http",
                             "Acquire::https"], capture_output=True, text=True, timeout=60,
                            check=True).stdout
    return [line for line in dumped.splitlines() if '""' not in line]


def image(config: Config, suite: str) -> Path:
    """The file system with Debian's SUITE; made now if there is none of this kind."""
    if missing := missing_tools():
        raise LabError(f"'rootfs: {suite}' needs mmdebstrap: apt-get install {' '.join(missing)}")
    sources = _sources(suite)
    key = hashlib.sha256("\n".join([sources, *PACKAGES, *LEFT_OUT]).encode()).hexdigest()[:12]
    target = config.cache / "rootfs" / f"{suite}-{key}.ext2"
    with exclusive(config.cache / "rootfs" / "lock"):
        if not target.exists():
            _make(config, sources, target)
    return target


def _make(config: Config, sources: str, target: Path) -> None:
    config.say(f"  making a Debian userland ({target.name}) ...")
    listed, part = target.with_suffix(".sources"), target.with_suffix(".part")
    listed.write_text(sources, encoding="utf-8")
    part.unlink(missing_ok=True)
    result = subprocess.run(_command(listed, part), capture_output=True, text=True,
                            stdin=subprocess.DEVNULL, check=False)
    listed.unlink()
    if result.returncode:
        part.unlink(missing_ok=True)
        raise LabError(f"mmdebstrap ended with status {result.returncode} (124: after "
                       f"{TIMEOUT} s):\n" + "\n".join(result.stderr.splitlines()[-20:]))
    part.rename(target)


def files(config: Config) -> dict[str, bytes]:
    """What a job that uses an image has with it: the examples, and what the fork is linked to."""
    linked = "\n".join(sorted(map(str, initramfs.libraries([config.qemu]))))
    return {"/lab/libraries": linked.encode()} | {
        f"/lab/libvirt/{path.relative_to(EXAMPLES)}": path.read_bytes()
        for path in sorted(EXAMPLES.rglob("*")) if path.is_file()}
