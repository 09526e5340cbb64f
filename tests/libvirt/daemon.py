# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirtd of our own: its files, processes and host name are in namespaces that end with it."""

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

START_TIMEOUT = 60
COMMAND_TIMEOUT = 120

# $1 is the daemon's directory, $2 its host's name. Mounts are private: nothing of the machine's
# own libvirt is seen or changed. The first process lives as long as the namespaces; as it is
# a shell that waits, it also buries QEMUs, whose parent has gone.
ENTER = """set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/run" /run
for name in lib cache log; do
    mount --bind "$1/$name" /var/$name
    mkdir -p /var/$name/libvirt
done
mkdir -p /run/libvirt /run/hugepages2M /run/hugepages1G
mount -t hugetlbfs -o pagesize=2M hugetlbfs /run/hugepages2M
mount -t hugetlbfs -o pagesize=1G hugetlbfs /run/hugepages1G || true
hostname "$2"
libvirtd &
wait
"""

# QEMU is root, because this is a build directory; AppArmor and cgroups are the lab's task.
QEMU_CONF = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = [ ]
"""

LIBVIRTD_CONF = """host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


HIDDEN = ("/run", "/var/lib", "/var/cache", "/var/log")


def missing(qemu: Path) -> str:
    """Why no daemon can be started here with that emulator, or nothing."""
    for program, package in (("libvirtd", "libvirt-daemon"), ("virsh", "libvirt-clients"),
                             ("unshare", "util-linux"), ("hostname", "hostname")):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            return f"{program} is missing: apt-get install {package}"
    if not list(Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so")):
        return "libvirt's QEMU driver is missing: apt-get install libvirt-daemon-driver-qemu"
    if os.geteuid() != 0:
        return "a libvirtd in namespaces of its own needs root"
    if any(qemu.is_relative_to(directory) for directory in HIDDEN):
        return f"{qemu} lies where libvirt's own files are mounted ({', '.join(HIDDEN)})"
    return ""


class Virsh(Exception):
    """virsh failed; the text is what it said."""


class Libvirtd:
    """The directory's path must be short, because sockets lie in it."""

    def __init__(self, work: Path, host_name: str):
        self.work = work
        self._host_name = host_name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.work / "run" / "libvirt" / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"

    def start(self) -> "Libvirtd":
        """Return when it answers."""
        self._write_files()
        out = open(self.work / "out", "wb")
        self._process = subprocess.Popen(
            # whatever becomes of the test, nothing of this stays
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--uts", "--ipc", "--pid",
             "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
             "sh", "-c", ENTER, "sh", str(self.work), self._host_name],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        out.close()
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """The namespace's first process takes libvirtd and all QEMUs with it."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)

    def virsh(self, *args: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """What virsh prints; Virsh is raised if it fails."""
        result = subprocess.run(["virsh", "-q", "-c", self.uri, *args], text=True,
                                stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                                env={**os.environ, "LC_ALL": "C.UTF-8"}, check=False)
        if result.returncode:
            raise Virsh(f"virsh {' '.join(args)}: {result.stderr.strip()}")
        return result.stdout.strip()

    def qmp(self, domain: str, command: str, **arguments: Any) -> Any:
        """One QMP command by way of virsh."""
        request = {"execute": command, "arguments": arguments}
        answer = json.loads(self.virsh("qemu-monitor-command", domain, json.dumps(request)))
        if "error" in answer:
            raise Virsh(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def define(self, xml: str) -> None:
        path = self.work / "define.xml"
        path.write_text(xml, encoding="utf-8")
        self.virsh("define", "--validate", str(path))

    def evidence(self) -> list[str]:
        """The ends of all logs."""
        logs = [self.work / "out", *sorted((self.work / "log" / "libvirt").rglob("*.log"))]
        return [f"{log.name}: {line}" for log in logs if log.exists()
                for line in log.read_text(errors="replace").splitlines()[-10:]]

    def _write_files(self) -> None:
        for name in ("etc", "run", "lib", "cache", "log"):
            (self.work / name).mkdir(parents=True)
        (self.work / "etc" / "qemu.conf").write_text(QEMU_CONF)
        (self.work / "etc" / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
        # Debian's libvirt does not start without a user that another package makes.
        for name, line in (("passwd", "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin\n"),
                           ("group", "libvirt-qemu:x:64055:\nkvm:x:64056:\n")):
            (self.work / name).write_text(Path("/etc", name).read_text() + line)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.virsh("uri", timeout=10)
                return
            except Virsh as error:
                if self._process and self._process.poll() is not None:
                    raise Virsh(f"libvirtd ended: {' '.join(self.evidence())}") from error
                if time.monotonic() > deadline:
                    raise Virsh(f"libvirtd does not answer after {START_TIMEOUT} s: {error}\n"
                                f"{' '.join(self.evidence())}") from error
            time.sleep(0.1)
