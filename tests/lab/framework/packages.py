# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's Debian packages: stock kernel and the ROMs that QEMU's -kernel needs."""

import importlib.machinery
import importlib.util
import os
import re
import subprocess
import types
from pathlib import Path

from .config import DEFAULT_KERNEL, SOURCE, Config, LabError

APT_SUITE = SOURCE / "scripts" / "apt-suite"


def _run(argv: list[str], env: dict[str, str] | None = None) -> str:
    result = subprocess.run(argv, env=env, capture_output=True, text=True,
                            timeout=1800, check=False)
    if result.returncode:
        raise LabError(f"'{' '.join(argv)}' failed:\n"
                       f"{(result.stdout + result.stderr)[-2000:]}")
    return result.stdout


def apt_suite() -> types.ModuleType:
    """scripts/apt-suite as a module: it knows where this machine's apt gets Debian from."""
    loader = importlib.machinery.SourceFileLoader("apt_suite", str(APT_SUITE))
    spec = importlib.util.spec_from_loader("apt_suite", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def mmdebstrap_sources(suites: list[str]) -> str:
    """A deb822 file with the binary packages of these suites."""
    return str(apt_suite().render_sources(suites)).replace("Types: deb deb-src", "Types: deb")


def key_values(path: Path) -> dict[str, str]:
    """The "KEY VALUE" lines of a file."""
    pairs = [line.split(maxsplit=1) for line in
             path.read_text(encoding="utf-8").splitlines()
             if line.strip() and not line.startswith("#")]
    return {key: value.strip() for key, value in pairs}


def pinned(series: str = DEFAULT_KERNEL) -> dict[str, str]:
    return key_values(SOURCE / "upstream" / f"linux-{series}.version")


def download(config: Config, package: str, version: str = "", suite: str = "",
             place: str = "lab") -> Path:
    """The .deb of a package in a suite (the lab's own), kept in cache/PLACE."""
    debs = config.cache / place
    # The kernel that modules are built for may be the lab's, too.
    if found := _newest(debs, package) or _newest(config.cache / "kernel", package, version):
        return found
    config.say(f"  downloading {package} ...")
    wanted = f"{package}={version}" if version else package
    debs.mkdir(parents=True, exist_ok=True)
    _run([str(APT_SUITE), "-C", str(debs), suite or pinned()["suite"], "download", wanted],
         env={**os.environ, "BUILD_DIR": str(config.build)})
    if found := _newest(debs, package):
        return found
    raise LabError(f"{APT_SUITE.name} left no {package}_*.deb in {debs}")


def _newest(directory: Path, name: str, version: str = "*") -> Path | None:
    found = sorted(directory.glob(f"{name}_{version}_*.deb"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else None


def unpack(config: Config, deb: Path) -> Path:
    """Unpack once; a stamp says that it was completed."""
    target = config.work / "packages" / deb.name.removesuffix(".deb")
    stamp = target / ".unpacked"
    if not stamp.exists():
        config.say(f"  unpacking {deb.name} ...")
        target.mkdir(parents=True, exist_ok=True)
        _run(["dpkg-deb", "-x", str(deb), str(target)])
        stamp.touch()
    return target


def _image_now(config: Config, pin: dict[str, str]) -> tuple[str, str]:
    """The image package, and its version, that the suite's meta package depends on today."""
    meta = download(config, pin["package"], suite=pin["suite"],
                    place=f"meta-{pin['series']}")
    depends = _run(["dpkg-deb", "-f", str(meta), "Depends"])
    match = re.search(r"(linux-image-\d\S+) \(= ([^)]+)\)", depends)
    if not match or not match.group(2).startswith(pin["series"]):
        raise LabError(f"{pin['package']} depends on {depends.strip()!r}, expected a kernel "
                       f"{pin['series']}*: change the linux-*.version of that series")
    return match.group(1), match.group(2)


def kernel_debs(config: Config, series: str) -> list[Path]:
    """The pinned kernel, or with a notice the newer one that replaced it."""
    pin = pinned(series)
    wanted = (pin["image"], pin["version"])
    try:
        return _with_parts(config, *wanted, pin["suite"])
    except LabError as error:
        offered = _image_now(config, pin)
        if offered == wanted:
            raise error
        config.say(f"notice: {' '.join(wanted)} is gone from the archive, "
                   f"using {' '.join(offered)}")
        return _with_parts(config, *offered, pin["suite"])


def _with_parts(config: Config, package: str, version: str, suite: str) -> list[Path]:
    """The image package, and those of its version that have its contents in 7.x."""
    image = download(config, package, version, suite)
    depends = _run(["dpkg-deb", "-f", str(image), "Depends"])
    parts = re.findall(r"(linux-(?:binary|modules)-\d\S+) \(= ([^)]+)\)", depends)
    return [image, *(download(config, name, version, suite) for name, version in parts)]


class Kernel:
    """A Debian kernel, image and modules, from the packages that it was unpacked from."""

    def __init__(self, *roots: Path):
        self.image, self.release = _kernel_image(roots)
        self._modules = {path.name.split(".ko")[0].replace("-", "_"): path
                         for root in roots for usr in ("usr/lib", "lib")
                         for path in root.glob(f"{usr}/modules/*/kernel/**/*.ko*")}

    def has_module(self, name: str) -> bool:
        """False for what is built in."""
        return name in self._modules

    def module(self, name: str) -> Path:
        if name not in self._modules:
            raise LabError(f"kernel {self.release} has no module '{name}'")
        return self._modules[name]


def _kernel_image(roots: tuple[Path, ...]) -> tuple[Path, str]:
    """The image and its release, by the file's name or, in 7.x, its directory's."""
    for root in roots:
        for path in root.glob("boot/vmlinuz-*"):
            return path, path.name.removeprefix("vmlinuz-")
        for path in root.glob("usr/lib/modules/*/vmlinuz"):
            return path, path.parent.name
    raise LabError(f"no vmlinuz in {', '.join(map(str, roots))}")


def kernel(config: Config, series: str = DEFAULT_KERNEL) -> Kernel:
    """The stock kernel of the lab."""
    return Kernel(*(unpack(config, deb) for deb in kernel_debs(config, series)))


def kernel_of_modules(config: Config, series: str, info: dict[str, str]) -> Kernel:
    """The stock kernel that patched modules were built for; their "info" names it."""
    deb = download(config, info["image"], info["version"],
                   pinned(series)["modules-suite"], "kernel")
    return Kernel(unpack(config, deb))


def rom_directories(config: Config) -> list[Path]:
    """Where firmware lies, best first; qemu-system-data need not be installed."""
    data = unpack(config, download(config, "qemu-system-data"))
    return [Path("/usr/share/seabios"), data / "usr/share/qemu", Path("/usr/share/qemu")]
