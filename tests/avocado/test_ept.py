# SPDX-License-Identifier: GPL-2.0-or-later
"""EPT: our KVM modules on stock Debian kernels, on a host emulated by Bochs."""

from framework import bochs
from labtest import LabTest


class Ept(LabTest):
    """
    :avocado: enable
    """

    group = "ept"
    patched = ("6.12", "6.1")

    def setUp(self) -> None:
        if names := bochs.missing():
            self.cancel(f"the EPT lab needs package(s) {', '.join(names)}")
        super().setUp()

    def check_host(self, name: str, kernel: str) -> None:
        """The run was on an Intel host with that kernel and our modules."""
        row = self.row(name)
        self.assertEqual((row["lab"], row["kvm_module"], row["kvm"]),
                         ("ept", "kvm_intel", "patched"))
        self.assertTrue(row["kernel"].startswith(f"{kernel}."), row["kernel"])

    def test_counter_counts(self):
        """Linux 6.12: a stock guest boots and takes hundreds of EPT violations."""
        row = self.row("ept-stock")
        self.check_host("ept-stock", "6.12")
        self.assertTrue(row["booted"])
        self.assertGreater(row["ram_faults"], 100)

    def test_prefault(self):
        """Linux 6.12: prefault=on, not one RAM fault; always-writable is implied."""
        info = self.check_boot("ept-prefault")["query"]
        self.check_host("ept-prefault", "6.12")
        self.assertTrue(info["always-writable"])

    def test_6_1_always_writable(self):
        """Linux 6.1: a guest boots from always-writable slots."""
        row = self.row("ept-6.1-always-writable")
        self.check_host("ept-6.1-always-writable", "6.1")
        self.assertTrue(row["booted"])
        self.assertTrue(row["query"]["always-writable"])

    def test_6_1_prefault(self):
        """Linux 6.1: prefault=on, not one RAM fault."""
        self.check_boot("ept-6.1-prefault")
        self.check_host("ept-6.1-prefault", "6.1")
