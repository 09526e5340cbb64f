# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick KVM selftests of Linux 6.12, on stock and on patched modules."""

import os

from framework import config, modules, selftests
from labtest import LabTest, Row


class Selftests(LabTest):
    """
    :avocado: enable
    """

    kernel = "6.12"

    def setUp(self) -> None:
        self.setup = config.configure(lab=os.environ.get("LAB") or "npt", verbose=False)
        if self.setup.lab == "host":
            self.cancel("the selftests exchange the host's KVM: they need an emulated one")
        for path, how in ((modules.patched_directory(self.setup, self.kernel) / "info",
                           f"run 'make kvm-modules KERNEL={self.kernel}'"),
                          (selftests.directory(self.setup, self.kernel) / "unbuilt",
                           f"run 'scripts/kvm-selftests {self.kernel}'")):
            if not path.is_file():
                self.cancel(f"{path} is missing: {how}")
        self.tests = selftests.load(self.kernel, False, [])
        self._rows = self._shared_rows()

    def _run_all(self) -> dict[str, Row]:
        _, rows = selftests.run_all(self.setup, self.kernel, self.tests, self._log_message)
        self.log.info("\n%s", selftests.table(rows))
        return {f"{row['name']} {row['config']}": row for row in rows}

    def check_passes(self, *names: str) -> None:
        for name in names:
            row = self._rows[f"{name} patched"]
            self.assertEqual(row["result"], "pass", "\n".join(
                [f"{name}: {row['reason']}", *row["output"], *row["kernel_log"]]))

    def test_always_writable(self):
        """Contract, refusals, CoW, KSM, dirty bitmap and ring, pre-fault."""
        self.check_passes("mem_always_writable_test")

    def test_obsolete_root(self):
        """Pre-fault replaces a root that the deletion of a slot has made obsolete."""
        self.check_passes("pre_fault_obsolete_root")

    def test_slot_being_deleted(self):
        """Pre-fault and the deletion of its own or another slot both get on."""
        self.check_passes("pre_fault_delete_same", "pre_fault_delete_other")

    def test_shadow_mmu(self):
        """CR4, unsync page tables and limits of a guest without TDP."""
        self.check_passes("mmu_cr4_pge", "mmu_pge_previous_roots", "mmu_unsync_parents",
                          "mmu_sync_batch", "mmu_zap_accounting", "mmu_zap_pressure")

    def test_flushes(self):
        """One TLB flush per zap of 1 GiB; no vCPU uses what is gone."""
        self.check_passes("mmu_unmap", "mmu_delete", "mmu_delete_slot_only", "mmu_log_end",
                          "mmu_live_tables")

    def test_no_regression(self):
        """What passes with stock modules passes with patched ones; some tests do."""
        rows = list(self._rows.values())
        self.assertEqual(selftests.regressions(rows), [])
        passed = [row["name"] for row in rows if row["result"] == "pass" and not row["ours"]]
        self.assertGreaterEqual(len(passed), 4, f"only {passed} passed at all")
