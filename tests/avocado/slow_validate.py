# SPDX-License-Identifier: GPL-2.0-or-later
"""prefault-host-validate on all kinds of emulated hosts."""

from framework import bochs
from validatechecks import ValidateTest


class AllHosts(ValidateTest):
    """
    :avocado: enable
    """

    group = "validate-full"
    patched = ("6.1", "6.12")

    def setUp(self) -> None:
        if names := bochs.missing():
            self.cancel(f"the EPT lab needs package(s) {', '.join(names)}")
        super().setUp()

    def test_no_tdp(self):
        """Shadow paging: the parameter and the capability both fail."""
        checks = self.check_agrees("validate-no-tdp")
        for name in ("kvm_amd.npt", "kvm.pre-fault-memory"):
            self.assertEqual(checks[name]["status"], "fail", checks[name])

    def test_no_kvm(self):
        """KVM unloaded: the device and second-level tables are missing."""
        row = self.row("validate-no-kvm")
        self.check_record(row)
        self.assertEqual({check["name"] for check in row["report"]["checks"]
                          if check["status"] == "fail"}, {"kvm.device", "kvm.tdp"})
        self.assertEqual(row["report"]["exit_status"], 1)

    def test_6_1_stock(self):
        """vCPUs are borrowed, slots zap everything, MTRRs too."""
        checks = self.check_agrees("validate-6.1-stock")
        for name in ("kvm.pre-fault-memory", "kvm.slot-zap", "kvm.mtrr-zap"):
            self.assertEqual(checks[name]["status"], "warn", checks[name])

    def test_6_1_patched(self):
        """All that the fork uses is there."""
        self.check_ours("validate-6.1-patched")

    def test_6_12_patched(self):
        """The same."""
        self.check_ours("validate-6.12-patched")

    def test_ept(self):
        """kvm_intel: EPT and its accessed and dirty bits."""
        checks = self.check_ours("validate-ept-6.1-patched")
        self.assertEqual(checks["kvm_intel.ept"]["status"], "pass")
        self.assertIn("kvm_intel.eptad", checks)

    def check_ours(self, name: str):
        checks = self.check_agrees(name)
        for capability in ("pre-fault-memory", "slot-zap", "statistics", "mtrr-zap", "modules"):
            check = checks[f"kvm.{capability}"]
            self.assertEqual(check["status"], "pass", check)
        return checks
