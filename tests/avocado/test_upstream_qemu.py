# SPDX-License-Identifier: GPL-2.0-or-later
"""Old QEMU on patched KVM modules: they change nothing for who does not ask."""

from labtest import LabTest


class UpstreamQemu(LabTest):
    """
    :avocado: enable
    """

    group = "upstream-qemu"
    patched = ("6.1", "6.12")
    upstream_qemu = True

    def check_same(self, kernel: str) -> None:
        """The same guest takes the same faults, but for what timing makes of them."""
        stock, patched = (self.row(f"upstream-qemu-{kernel}-{kvm}")
                          for kvm in ("stock", "patched"))
        for row, kvm in ((stock, "stock"), (patched, "patched")):
            self.assertTrue(row["booted"], f"{row['name']}: did not power off properly")
            self.assertEqual(row["kvm"], kvm)
            self.assertIsNone(row["query"], "that is not the unchanged QEMU")
        if stock["ram_faults"] is None:
            self.cancel("RAM faults cannot be counted: tracefs needs root")
        self.log.info("%s: %d and %d RAM faults", kernel, stock["ram_faults"],
                      patched["ram_faults"])
        self.assertGreater(stock["ram_faults"], 100)
        self.assertAlmostEqual(patched["ram_faults"] / stock["ram_faults"], 1, delta=0.1)

    def test_linux_6_1(self):
        """The queue for 6.1."""
        self.check_same("6.1")

    def test_linux_6_12(self):
        """The queue for 6.12."""
        self.check_same("6.12")
