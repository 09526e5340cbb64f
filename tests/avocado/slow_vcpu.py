# SPDX-License-Identifier: GPL-2.0-or-later
"""prefault-method=vcpu for life: resets, sleep, migrations, more vCPUs and machines."""

from vcpuchecks import VcpuChecks


class VcpuFull(VcpuChecks):
    """
    :avocado: enable
    """

    group = "vcpu-full"
    timeout = 2400
    shared_file = "lifecycle.json"

    def check_life(self, event: str, *busy: str) -> None:
        """Linux 6.12: no RAM fault.  Stock 6.1: none but firmware's, after each event.

        Busy: steps in which pages are write-protected.
        """
        for kernel, zap, whose in (("6.12", "slot", "ram_faults"), ("6.1", "all", "ram_faults_os")):
            row = self.check_method(f"vcpu-{kernel}-{event}", kernel)
            self.assertTrue(row["booted"])
            self.check_ready(row["query"])
            self.assertEqual(row["query"]["slot-zap"], zap)
            found = {step["event"]: step[whose] for step in row["events"]}
            self.log.info("%s: %s", row["name"], found)
            self.assertLessEqual(set(busy), set(found))
            after = {name: count for name, count in found.items() if name not in busy}
            self.assertGreater(len(after), 1)
            self.assertEqual(set(after.values()), {0}, f"{found} {row.get('fault_samples')}")

    def test_reset(self):
        """system_reset, also twice in a row."""
        self.check_life("reset")

    def test_reboot(self):
        """The guest's own reboot."""
        self.check_life("reboot")

    def test_stop_cont(self):
        """stop and cont; kvm-prefault while stopped."""
        self.check_life("stop_cont")

    def test_suspend(self):
        """Suspend to RAM and wake-up."""
        self.check_life("suspend")

    def test_smi(self):
        """System management interrupts, on q35."""
        self.check_life("smi")

    def test_cancelled_migration(self):
        """Dirty logging begins and ends."""
        self.check_life("dirty_log", "while migrating", "cancelling")

    def test_quit(self):
        """quit while vCPUs are borrowed."""
        row = self.row("vcpu-6.1-quit_early")
        self.assertEqual(row["state_before"], "populating")
        self.assertEqual(row["exit_status"], 0)

    def test_nowait(self):
        """prefault-wait=off: ready comes while the guest runs; no fault after that."""
        row = self.check_method("vcpu-6.1-nowait", "6.1")
        self.check_ready(row["ready"])
        self.assertEqual(row["events"][-1]["event"], "after ready")
        self.assertEqual(row["events"][-1]["ram_faults"], 0, row.get("fault_samples"))

    def check_threads(self, vcpus: int) -> None:
        for pages in (4, 2048):
            row = self.check_state(f"vcpu-state-threads-{vcpus}-{pages}k", "6.1", 4)
            self.assertEqual(row["query"]["threads"], 4)

    def test_threads_4(self):
        """Four threads, all vCPUs borrowed at once."""
        self.check_threads(4)

    def test_threads_5(self):
        """Four threads of five."""
        self.check_threads(5)

    def test_threads_6(self):
        """Four threads of six."""
        self.check_threads(6)

    def test_6_12_state(self):
        """Two vCPUs of a q35 on Linux 6.12."""
        self.check_state("vcpu-6.12-state-2", "6.12", 2)

    def test_q35_seabios(self):
        """SMM and a firmware that changes slots; both page sizes."""
        for pages in (2048, 4):
            self.check_os(f"vcpu-q35-seabios-{pages}k", "6.1")

    def test_q35_ovmf(self):
        """OVMF changes slots hundreds of times; with 4 KiB pages that takes many minutes here."""
        row = self.check_os("vcpu-q35-ovmf-2048k", "6.1")
        self.assertGreater(row["query"]["repopulations"]["zap-all"], 10)
