# SPDX-License-Identifier: GPL-2.0-or-later
"""Bochs as the emulated host: VMX, EPT with memory types, MTRRs.

Bochs boots from media only, so kernel and initramfs go onto an ISO image with
isolinux.  Both serial ports end in files, there is no way in; time is counted in
instructions, therefore it stands still while the emulator waits for a CPU.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import tty
from pathlib import Path

from .config import Config, LabError
from .emulator import APPEND, Emulator, Machine

BINARY = Path("/usr/bin/bochs")
BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
VGA_BIOS = Path("/usr/share/vgabios/vgabios.bin")
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
LDLINUX = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
XORRISO = Path("/usr/bin/xorriso")
TERM_GUI = Path("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so")
PACKAGES = {BINARY: "bochs", TERM_GUI: "bochs-term", BIOS: "bochsbios", VGA_BIOS: "vgabios",
            ISOLINUX: "isolinux", LDLINUX: "syslinux-common", XORRISO: "xorriso"}

# About what the emulator does on a machine of today.  Linux calibrates its clocks
# to it, as long as the CPU model does not state a frequency of its own.
INSTRUCTIONS_PER_SECOND = 50_000_000
CPU_MODEL = "corei7_haswell_4770"

# More memory it does not offer a host.
MAX_MEM_MIB = 2048

# Seconds; ends an emulator whose lab was killed and cannot end it.
CPU_LIMIT = 3600

# Self-tests, certificates and type information that nothing in the lab asks for
# take a third of a boot at this speed, a check of the kernel's own mappings more.
NOT_NEEDED = ("jent_mod_init", "load_system_certificate_list", "bpf_tcp_ca_kfunc_init",
              "bpf_dummy_struct_ops_init", "cec_init", "sed_opal_init")
FASTER = f"cryptomgr.notests rodata=off initcall_blacklist={','.join(NOT_NEEDED)}"
# What flushes caches or page tables on every entry costs much and changes no count.
# Pages are cleared twice as fast without the CPU's feature 297, erms: Bochs does
# rep stosb byte by byte.
HOST_APPEND = f"{FASTER} mitigations=off init_on_alloc=0 clearcpuid=297"

ISOLINUX_CFG = """default lab
prompt 0
label lab
  kernel /vmlinuz
  append initrd=/initrd {append}
"""

BOCHSRC = """config_interface: textconfig
display_library: term
romimage: file={bios}
vgaromimage: file={vga_bios}
cpu: model={model}, count=1, ips={ips}, ignore_bad_msrs=1
memory: guest={mem_mib}, host={mem_mib}
boot: cdrom
ata0-master: type=cdrom, path={work}/host.iso, status=inserted
com1: enabled=1, mode=file, dev={work}/console.log
com2: enabled=1, mode=file, dev={work}/agent.log
clock: sync=none, time0=1767225600
sound: waveoutdrv=dummy
panic: action=fatal
log: {work}/bochs.log
"""


def missing() -> list[str]:
    """Debian packages that this lab needs and that are not installed."""
    return sorted({package for path, package in PACKAGES.items() if not path.exists()})


def _check_packages() -> None:
    if names := missing():
        raise LabError(f"the EPT lab needs package(s) {', '.join(names)}: run "
                       "'scripts/deps install'")


class BochsVmx(Emulator):
    """Bochs with Intel's VMX and EPT."""

    name = "ept"
    vendor_module = "kvm_intel"
    # The debugger, which Debian's build has, makes a power-off an exit status of 1.
    end_statuses = (0, 1)
    patience = 2
    real_time_factor = 4
    guest_append = FASTER
    parallel = True
    environment = {"TERM": "xterm"}

    @staticmethod
    def default_binary(config: Config) -> Path:
        return BINARY

    def command(self, machine: Machine, kernel: Path, initrd: Path,
                work: Path) -> list[str]:
        _check_packages()
        if machine.cpus != 1:
            raise LabError(f"host_cpus={machine.cpus}, but the EPT lab emulates one CPU: "
                           "use --lab npt")
        self._write_iso(machine, kernel, initrd, work)
        mem_mib = min(machine.mem_mib, MAX_MEM_MIB)
        (work / "bochsrc").write_text(BOCHSRC.format(
            bios=BIOS, vga_bios=VGA_BIOS, model=CPU_MODEL, work=work,
            ips=INSTRUCTIONS_PER_SECOND, mem_mib=mem_mib), encoding="utf-8")
        (work / "bochs.rc").write_text("continue\n", encoding="ascii")
        return ["prlimit", f"--cpu={CPU_LIMIT}", str(self.binary), "-q",
                "-f", str(work / "bochsrc"), "-rc", str(work / "bochs.rc")]

    @staticmethod
    def clock(process: "subprocess.Popen[bytes]") -> float:
        """CPU time: it never sleeps, but other work on this machine may starve it."""
        try:
            text = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        user, system = text.rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def started(self, process: "subprocess.Popen[bytes]") -> None:
        threading.Thread(target=_read_screen, args=(process,), daemon=True).start()

    def tidy(self, work: Path) -> None:
        (work / "host.iso").unlink(missing_ok=True)

    def evidence(self, work: Path, process: "subprocess.Popen[bytes]") -> str:
        """Registers, which the debugger prints into emulator.log, twice."""
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(2)
            _ask(process, b"r\nsreg\ncreg\ncontinue\n")
            time.sleep(1)
        log = (work / "emulator.log").read_text(errors="replace").splitlines()
        return "\n".join(["the end of emulator.log:", *log[-120:]])

    @staticmethod
    def _write_iso(machine: Machine, kernel: Path, initrd: Path, work: Path) -> None:
        root = work / "iso"
        (root / "isolinux").mkdir(parents=True)
        for source in (ISOLINUX, LDLINUX):
            shutil.copy(source, root / "isolinux" / source.name)
        append = f"{APPEND} audit=0 {HOST_APPEND} {machine.append}".strip()
        (root / "isolinux" / "isolinux.cfg").write_text(
            ISOLINUX_CFG.format(append=append), encoding="ascii")
        shutil.copy(kernel, root / "vmlinuz")
        os.link(initrd, root / "initrd")
        made = subprocess.run(
            [str(XORRISO), "-as", "mkisofs", "-quiet", "-o", str(work / "host.iso"),
             "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot",
             "-boot-load-size", "4", "-boot-info-table", str(root)],
            capture_output=True, text=True, timeout=120, check=False)
        shutil.rmtree(root)
        if made.returncode:
            raise LabError(f"xorriso cannot make {work}/host.iso:\n{made.stderr[-2000:]}")


def _screen_number(process: "subprocess.Popen[bytes]") -> str | None:
    """Which /dev/pts/NUMBER shows the screen of Bochs, once it has opened one."""
    directory = Path(f"/proc/{process.pid}")
    for link in directory.glob("fd/*"):
        if os.readlink(link).endswith("ptmx"):
            text = (directory / "fdinfo" / link.name).read_text(encoding="ascii")
            return re.findall(r"tty-index:\s*(\d+)", text)[0]
    return None


def _read_screen(process: "subprocess.Popen[bytes]") -> None:
    """Bochs stops for good when nobody reads what it draws, if only a cursor."""
    number = None
    try:
        while number is None:
            if process.poll() is not None:
                return
            time.sleep(0.1)
            number = _screen_number(process)
        terminal = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return  # ended meanwhile
    try:
        tty.setraw(terminal)
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # the way in which a terminal reports the end of its other side
    finally:
        os.close(terminal)


def _ask(process: "subprocess.Popen[bytes]", commands: bytes) -> None:
    """Bochs may be gone already; then its log has to do."""
    try:
        if process.stdin:
            process.stdin.write(commands)
            process.stdin.flush()
    except BrokenPipeError:
        pass
