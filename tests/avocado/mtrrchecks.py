# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of guest MTRRs have in common; the hosts are those of other classes."""

from framework import modules
from labtest import LabTest, Row


class MtrrChecks(LabTest):
    """Checks for rows of the scenarios in agent/scenarios/mtrr.py."""

    def mtrr_row(self, name: str) -> Row:
        """A run's result; cancels the test where the lab's module has not been built."""
        if not modules.lab_module(self.setup, modules.MTRR_KERNEL, "patched"):
            self.cancel("the lab's module is missing: run "
                        f"'scripts/kvm-lab-module {modules.MTRR_KERNEL}'")
        return self.row(name)

    def check_types(self, check: Row, what: str) -> None:
        """All leaves have the memory type that the manual has for these MTRRs."""
        self.log.info("%s: %s", what, check)
        self.assertGreater(check["leaves"], 0, f"{what}: nothing is mapped")
        self.assertEqual(check["wrong"], 0, f"{what}: of {check['leaves']} frames; the first "
                                            f"is {check['sample']}")

    def check_verified(self, name: str) -> Row:
        row = self.mtrr_row(name)
        self.check_types(row["left"], f"{name}, right after MTRRs were written")
        self.check_types(row["again"], f"{name}, all memory touched again")
        return row

    def check_prefault(self, name: str) -> Row:
        """Firmware's MTRRs drop mappings; from its end on the guest has all of them.

        Faults are counted by QEMU since the last pass that MTRRs were the cause of, and by
        the host on RAM above 1 MiB, of which the operating system's MTRRs do not change the type.
        """
        row = self.mtrr_row(name)
        self.log.info("%s: %s, %s zaps, %s RAM faults, %s of the system's", name,
                      row["query"]["repopulations"], row["zaps"], row["ram_faults"],
                      row["ram_faults_os"])
        self.assertTrue(row["booted"])
        self.check_ready(row["query"])
        self.assertEqual(row["faults_since_ready"], 0, row.get("fault_samples"))
        self.assertEqual(row["ram_faults_os_above_1m"], 0, row.get("os_samples"))
        return row

    def check_stress(self, name: str) -> Row:
        """Every vCPU got on, and what it wrote is in memory."""
        row = self.mtrr_row(name)
        self.assertGreater(row["loops"], 2 * row["vcpus"], f"{name}: nothing happened")
        self.assertEqual(row["lost_writes"], 0, f"{name}: words of guest memory are wrong")
        return row
