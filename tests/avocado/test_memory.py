# SPDX-License-Identifier: GPL-2.0-or-later
"""All memory backends; NUMA policies; the fault counter."""

from labtest import LabTest
from pinchecks import PinTest


class Backends(LabTest):
    """
    :avocado: enable
    """

    group = "backends"

    def check_backend(self, backend: str) -> None:
        for share in ("False", "True"):
            row = self.check_boot(f"backend-{backend}-share-{share}")
            info = row["query"]
            self.assertEqual(info["pinned-bytes"], row["mem_mib"] << 20)
            self.assertEqual(info["pin-ram"], "mlock")

    def test_ram(self):
        """Anonymous memory, private and shared."""
        self.check_backend("ram")

    def test_memfd(self):
        """memfd, private and shared."""
        self.check_backend("memfd")

    def test_file(self):
        """A file, private and shared."""
        self.check_backend("file")

    def test_hugetlb(self):
        """Huge pages of hugetlbfs, private and shared: mapped as 2 MiB."""
        self.check_backend("hugetlb")
        for share in ("False", "True"):
            info = self.row(f"backend-hugetlb-share-{share}")["query"]
            self.assertGreaterEqual(info["mapped"]["page-2m"], 250 << 20)

    def test_prealloc(self):
        """Together with the backend's own prealloc=on."""
        self.check_boot("backend-prealloc")


class Numa(PinTest):
    """
    :avocado: enable
    """

    group = "numa"
    shared_file = "lifecycle.json"

    def test_policy(self):
        """Two backends bound to two nodes: each page is where it was asked for."""
        row = self.row("numa")
        self.check_zero(row)
        self.check_placement(row)

    def test_fault_counter(self):
        """Faults made on purpose: the query counts what the tracepoint counts."""
        row = self.row("fault-counter")
        self.assertEqual(row["before"], [0, 0])
        self.assertGreater(row["traced"], 1000, "moving pages should cause faults")
        self.assertEqual(row["queried"], row["traced"])

    def test_lost(self):
        """Pages are moved, twice: QEMU says so, maps them again, and touching them is free."""
        row = self.row("lost")
        self.check_repaired(row)
        self.assertIn(row["query"]["repopulations"]["lost"], range(2, 8),
                      "the second pass should wait, and the next ones longer")

    def test_pinned(self):
        """pin-ram=longterm: neither compaction nor NUMA balancing moves or unmaps a page."""
        found = self.check_longterm("pin-movers", "compaction", "NUMA balancing")
        self.assertEqual(set(found), {"boot", "compaction", "NUMA balancing"})

    def test_io_uring_disabled(self):
        """sysctl kernel.io_uring_disabled is named, and what to do."""
        self.check_refused("pin-io-uring-disabled", "'pin-ram=longterm' needs io_uring",
                           "kernel.io_uring_disabled=2", "Set it to 0", "pin-ram=mlock")
