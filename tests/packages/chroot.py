# SPDX-License-Identifier: GPL-2.0-or-later
"""A clean Debian 12 in a directory, made from the machine's own apt sources.

The tree with what the packages depend on is made once by mmdebstrap and kept as a tarball in
build/cache/chroot. Tests work in an overlay over it. Everything that is mounted is mounted in the
namespace of one command and disappears with it.
"""
from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests" / "lab"))

# pylint: disable=wrong-import-position
from framework.packages import apt_suite, mmdebstrap_sources  # noqa: E402

BUILD = Path(os.environ.get("BUILD_DIR", ROOT / "build"))
CACHE = BUILD / "cache" / "chroot"
WORK = BUILD / "packages"
LOG = BUILD / "log"
RELEASE = "bookworm"
SUITES = [RELEASE, f"{RELEASE}-updates", f"{RELEASE}-security"]
BACKPORTS = f"{RELEASE}-backports"
# A tree older than this is made anew: its kernel's source has left the archive by then.
MAX_AGE = 14 * 24 * 3600
MAKE_TIMEOUT = 1800
# What the tests put into the tree is there.
INSIDE = "/srv/test"
TIMEOUT = 300

# Runs in a mount and PID namespace of its own. $1 is the tree, the rest the command.
ENTER = """
set -e
tree=$1; shift
options=lowerdir=$tree/lower,upperdir=$tree/upper,workdir=$tree/work
mount -t overlay overlay -o "$options" "$tree/root"
mount -t proc proc "$tree/root/proc"
mount --bind /sys "$tree/root/sys"
mount --rbind /dev "$tree/root/dev"
mount -t tmpfs tmpfs "$tree/root/tmp"
exec chroot "$tree/root" "$@"
"""
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
               "DEBIAN_FRONTEND": "noninteractive", "TERM": "dumb", "MANWIDTH": "100"}


class ChrootError(Exception):
    """Something could not be done; the text says what."""


class Unavailable(Exception):
    """This machine cannot run the tests; the text says why."""


def require(*tools: str) -> None:
    """Raise Unavailable unless this is root with the tools."""
    if os.geteuid() != 0:
        raise Unavailable("a chroot needs root")
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not installed; run scripts/deps install")
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise Unavailable("this kernel has no overlay file system")
    # Containers often may not.
    command = "unshare --mount --pid --fork mount -t tmpfs tmpfs /tmp".split()
    probe = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if probe.returncode:
        raise Unavailable(f"nothing can be mounted here: {probe.stderr.strip()}")


def logged(name: str, command: list[str], timeout: int, **more) -> None:
    """Run with output in build/log; print name and time, on failure the last lines."""
    LOG.mkdir(parents=True, exist_ok=True)
    log = LOG / f"packages-{name.replace(' ', '-')}.log"
    start = time.monotonic()
    with log.open("w") as stream:
        try:
            done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False,
                                  stdin=subprocess.DEVNULL, timeout=timeout, **more).returncode
        except subprocess.TimeoutExpired:
            done = f"{timeout} s"
    print(f"# {name} {time.monotonic() - start:.0f} s", flush=True)
    if done != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise ChrootError(f"{name} failed ({done}); the whole log: {log}\n{tail}")


def kernel_packages(kernel: str) -> list[str]:
    """Image, headers and source of the kernel that upstream/linux-KERNEL.version names for the
    modules or, when that has left the archive, of the newest one of the series; empty if none.
    """
    text = (ROOT / "upstream" / f"linux-{kernel}.version").read_text()
    pin = dict(re.findall(r"^modules-(\S+) (.*)$", text, re.M))
    module = apt_suite()
    try:
        suites = module.Suites(pin["suite"].split(","))
        module.lock_cache(suites.dir)
        if not suites.fresh():
            suites.update()
        version, release = pin["version"], pin["headers"].removeprefix("linux-headers-")
        if not suites.has(f"linux-source-{kernel}={version}", "Packages"):
            text = suites.run("apt-cache", "show", "linux-headers-amd64")
            release, version = re.findall(rf"^Depends:.*linux-headers-({re.escape(kernel)}\.\S+)"
                                          r" \(= ([^)]*)\)", text, re.M)[-1]
    except (module.SuiteError, IndexError) as error:
        print(f"# no kernel {kernel}: {str(error).splitlines()[0]}")
        return []
    return [f"{name}={version}" for name in (f"linux-image-{release}", f"linux-headers-{release}",
                                            f"linux-source-{kernel}")]


def make_tarball(packages: list[str], with_backports: bool) -> Path:
    """The tree with these packages as a tarball; made if there is none or it is old."""
    suites = SUITES + ([BACKPORTS] if with_backports else [])
    text = mmdebstrap_sources(suites)
    key = hashlib.sha256("\n".join([text, *sorted(packages)]).encode()).hexdigest()[:16]
    tarball = CACHE / f"{RELEASE}-{key}.tar.zst"
    if tarball.exists() and time.time() - tarball.stat().st_mtime < MAX_AGE:
        return tarball
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob(f"{RELEASE}-*"):
        old.unlink()
    (CACHE / "chroot.sources").write_text(text)
    new = CACHE / f"{RELEASE}-new.tar.zst"
    # No daemon is started, no initramfs made in the tree.
    hook = ('mkdir -p "$1/etc/initramfs-tools" "$1/usr/sbin"; '
            'printf "#!/bin/sh\\nexit 101\\n" >"$1/usr/sbin/policy-rc.d"; '
            'chmod +x "$1/usr/sbin/policy-rc.d"; '
            'printf "update_initramfs=no\\n" >"$1/etc/initramfs-tools/update-initramfs.conf"')
    logged("make a Debian tree",
           ["mmdebstrap", "--mode=root", "--variant=apt", f"--setup-hook={hook}",
            "--dpkgopt=force-confold", "--aptopt=Apt::Install-Recommends false",
            f"--include={' '.join(packages)}", RELEASE, str(new), str(CACHE / "chroot.sources")],
           MAKE_TIMEOUT)
    new.rename(tarball)
    return tarball


class Chroot:
    """An overlay over the unpacked tarball, new with each object."""

    def __init__(self, name: str, tarball: Path) -> None:
        self.dir = WORK / name
        self.root = self.dir / "root"
        lower = WORK / "lower"
        stamp = WORK / "lower.of"
        if not stamp.exists() or stamp.read_text() != f"{tarball} {tarball.stat().st_mtime_ns}":
            shutil.rmtree(lower, ignore_errors=True)
            lower.mkdir(parents=True)
            logged("unpack the Debian tree", ["tar", "-xf", str(tarball), "-C", str(lower),
                                              "--numeric-owner", "--exclude=./dev/*"], MAKE_TIMEOUT)
            stamp.write_text(f"{tarball} {tarball.stat().st_mtime_ns}")
        self.remove()
        for part in ("upper", "work", "root"):
            (self.dir / part).mkdir(parents=True)
        link = self.dir / "lower"
        link.symlink_to(lower)

    def remove(self) -> None:
        """Nothing is mounted here once no command runs."""
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, inside: str) -> Path:
        """Where a file that the tests write is found from outside."""
        return self.dir / "upper" / inside.lstrip("/")

    def copy(self, source: Path, inside: str) -> str:
        """Put a file into the tree; returns its path there."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        return inside

    def run(self, *command: str, status: int | None = 0, stdin: str = "",
            timeout: int = TIMEOUT) -> str:
        """Output of a command in the tree; status None: whatever its exit status is."""
        line = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh",
                str(self.dir), *command]
        try:
            done = subprocess.run(line, input=stdin, text=True, errors="replace", timeout=timeout,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  env=ENVIRONMENT, check=False)
        except subprocess.TimeoutExpired as error:
            so_far = error.stdout or b""
            so_far = so_far if isinstance(so_far, str) else so_far.decode(errors="replace")
            raise ChrootError(f"'{' '.join(command)}' took longer than {timeout} s:\n"
                              f"{so_far[-4000:]}") from error
        if status is not None and done.returncode != status:
            raise ChrootError(f"'{' '.join(command)}' has exit status {done.returncode}, "
                              f"expected {status}:\n{done.stdout}")
        return done.stdout

    def sh(self, script: str, **more) -> str:
        return self.run("bash", "-euc", script, **more)
