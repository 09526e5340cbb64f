# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock kernel 7.3: its KVM_PRE_FAULT_MEMORY leaves alone what is mapped read-only."""

from migrationchecks import PHASES, STOPPED_PHASES, MigrationTest

STOCK_FAULTS_MIN = 500


class Linux73(MigrationTest):
    """
    :avocado: enable
    """

    group = "linux-7.3"

    def check_host(self, name: str) -> None:
        row = self.row(name)
        self.assertEqual((row["lab"], row["kvm_module"], row["kvm"]), ("npt", "kvm_amd", "stock"))
        self.assertTrue(row["kernel"].startswith("7.3."), row["kernel"])

    def test_stock_faults(self):
        """Faults are counted on this kernel as well: a stock guest takes hundreds."""
        self.check_host("7.3-boot-pc-stock")
        row = self.row("7.3-boot-pc-stock")
        self.assertTrue(row["booted"])
        self.assertGreater(row["ram_faults"], STOCK_FAULTS_MIN)
        self.assertGreater(row["ram_faults_os"], 0)

    def test_prefault(self):
        """prefault=on: not one RAM fault, and the ioctl mapped it all."""
        self.check_host("7.3-boot-pc-prefault")
        query = self.check_boot("7.3-boot-pc-prefault")["query"]
        self.assertEqual(query["method"], "ioctl")
        self.assertTrue(query["host"]["pre-fault-memory"])

    def test_snapshot(self):
        """savevm and loadvm write-protect everything; writes afterwards are free again."""
        row = self.check_last("7.3-snapshot-pc", ("boot", "savevm", "loadvm"))
        arrival = row["query"]["incoming"]
        self.assertEqual((arrival["early-bytes"], arrival["late-bytes"]),
                         (0, row["query"]["total-bytes"]))

    def test_incoming(self):
        """Incoming migration on q35, then cont."""
        self.check_last("7.3-migrate-q35", ("boot",))
        self.check_arrival("7.3-migrate-q35")

    def test_cancelled(self):
        """A cancelled migration ends dirty logging; mappings are writable again."""
        self.check_last("7.3-dirty_log-pc", ("boot", "after a cancelled migration"))

    def test_source_fails(self):
        """In each phase: mappings and page sizes are as before."""
        steps = self.check_source("7.3-source_fails-pc", *PHASES)
        for phase in STOPPED_PHASES:
            self.assertIn(f"{phase}: before", steps, "the guest was not stopped in this phase")
