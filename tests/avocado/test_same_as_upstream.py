# SPDX-License-Identifier: GPL-2.0-or-later
"""With prefault off the fork is upstream QEMU, to the byte."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from avocado import Test

from agent.qmp import Qmp

FORK = os.environ.get("QTEST_QEMU_BINARY", "")
STOCK = os.environ.get("QTEST_QEMU_STOCK", "")


class StoppedMachine:
    """A machine that has been built and never run, so that nothing in it depends on time.

    Its RAM is small: QEMU cuts the stream into sections by the clock, every 50 ms.
    """

    def __init__(self, binary: str, machine: str, accel: str, work: Path):
        self.work = work
        socket = work / "qmp"
        self.log = open(work / "qmp.log", "a", encoding="utf-8")
        self.process = subprocess.Popen(
            [binary, "-S", "-display", "none", "-nodefaults", "-machine", machine,
             "-accel", accel, "-m", "16M", "-smp", "2",
             "-rtc", "base=2020-01-01T00:00:00,clock=vm",
             "-uuid", "5a6d4a9c-6c0e-4c2c-9e2c-5d8f3a1b7c11",
             "-qmp", f"unix:{socket},server=on,wait=off"],
            stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while not socket.exists() and time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(self.process.stderr.read().decode())
            time.sleep(0.05)
        self.qmp = Qmp(str(socket), self.log)

    def __enter__(self) -> "StoppedMachine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.qmp.close()
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def flat_view(self) -> str:
        """The views in a fixed order: QEMU prints them as a hash table of pointers has them."""
        text = self.qmp.command("human-monitor-command", command_line="info mtree -f")
        views = [view.strip() for view in re.split(r"^FlatView #\d+", text, flags=re.MULTILINE)]
        return "\n\n".join(sorted("\n".join(self.sort_users(view)) for view in views))

    @staticmethod
    def sort_users(view: str) -> list[str]:
        """The lines of a view, the address spaces that share it in a fixed order."""
        lines = view.splitlines()
        users = [line for line in lines if line.lstrip().startswith("AS ")]
        return sorted(users) + [line for line in lines if line not in users]

    def migration_stream(self) -> bytes:
        stream = self.work / "stream"
        self.qmp.command("migrate", uri=f"file:{stream}")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status = self.qmp.command("query-migrate")["status"]
            if status == "completed":
                return stream.read_bytes()
            if status == "failed":
                break
            time.sleep(0.1)
        raise RuntimeError(f"migration to a file: {self.qmp.command('query-migrate')}")


class SameAsUpstream(Test):
    """Flat view and migration stream of the fork equal those of the unpatched build."""

    def setUp(self) -> None:
        if not os.path.exists(STOCK):
            self.cancel("the unpatched QEMU is not built (make stock)")

    def look(self, binary: str, machine: str, accel: str) -> tuple[str, bytes]:
        with tempfile.TemporaryDirectory() as work:
            with StoppedMachine(binary, machine, accel, Path(work)) as vm:
                return vm.flat_view(), vm.migration_stream()

    def compare(self, machine: str, accel: str, fork_option: str) -> None:
        stock_view, stock_stream = self.look(STOCK, machine, accel)
        again_view, again_stream = self.look(STOCK, machine, accel)
        self.assertEqual(stock_view, again_view)
        self.assertEqual(stock_stream, again_stream, "upstream differs from itself: "
                         "this comparison would say nothing")
        self.assertIn("pc.ram", stock_view)
        fork_view, fork_stream = self.look(FORK, machine + fork_option, accel)
        self.assertEqual(stock_view, fork_view)
        self.assertGreater(len(stock_stream), 100_000)
        self.assertTrue(stock_stream == fork_stream, f"{machine}: migration streams differ")

    def test_pc(self) -> None:
        """pc, nothing of ours on the command line."""
        self.compare("pc", "tcg", "")

    def test_q35(self) -> None:
        """q35, nothing of ours on the command line."""
        self.compare("q35", "tcg", "")

    def test_pc_explicit_off(self) -> None:
        """pc, prefault=off said."""
        self.compare("pc", "tcg", ",prefault=off,slot-zap=all,pin-ram=off")

    def test_flat_view_under_kvm(self) -> None:
        """q35 under KVM, where our listeners could have changed something."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            self.cancel("no /dev/kvm")
        with tempfile.TemporaryDirectory() as stock, tempfile.TemporaryDirectory() as fork:
            with StoppedMachine(STOCK, "q35", "kvm", Path(stock)) as vm:
                expected = vm.flat_view()
            with StoppedMachine(FORK, "q35", "kvm", Path(fork)) as vm:
                self.assertEqual(expected, vm.flat_view())
