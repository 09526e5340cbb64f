# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that boot without one fault on their RAM."""

from labtest import LabTest


class Boot(LabTest):
    """
    :avocado: enable
    """

    group = "boots"

    def test_counter_counts(self):
        """Stock takes hundreds of faults with 2 MiB pages, tens of thousands with 4 KiB."""
        large, small = self.row("boots-pc-2048k-stock"), self.row("boots-pc-4k-stock")
        self.assertTrue(large["booted"] and small["booted"])
        self.assertGreater(large["ram_faults"], 100)
        self.assertGreater(small["ram_faults"], 10000)

    def test_pc_2m(self):
        """pc, SeaBIOS, 2 MiB pages."""
        self.check_boot("boots-pc-2048k-prefault")

    def test_pc_4k(self):
        """pc, SeaBIOS, 4 KiB pages."""
        self.check_boot("boots-pc-4k-prefault")

    def test_q35_2m(self):
        """q35, SeaBIOS, 2 MiB pages."""
        self.check_boot("boots-q35-2048k-prefault")

    def test_q35_4k(self):
        """q35, SeaBIOS, 4 KiB pages."""
        self.check_boot("boots-q35-4k-prefault")

    def test_pc_without_smm(self):
        """pc with smm=off has one address space."""
        row = self.check_boot("smm-off-pc")
        self.assertEqual({r["as-id"] for r in row["query"]["ranges"]}, {0})

    def test_q35_without_smm(self):
        """q35 with smm=off."""
        self.check_boot("smm-off-q35")

    def test_both_address_spaces(self):
        """With SMM the ranges of address space 1 are kept mapped as well."""
        row = self.check_boot("boots-pc-2048k-prefault")
        self.assertEqual({r["as-id"] for r in row["query"]["ranges"]}, {0, 1})

    def test_query_agrees(self):
        """The query's fault count is the tracepoint's, with and without faults."""
        for machine in ("pc", "q35"):
            row = self.row(f"boots-{machine}-4k-prefault")
            self.assertEqual(row["faults_since_ready"], row["ram_faults_at_query"])


class Smp(LabTest):
    """
    :avocado: enable
    """

    group = "smp"

    def test_two_vcpus_pc(self):
        """pc: two vCPUs touch memory at once and raise SMIs."""
        self.check_events("vcpus-pc")

    def test_two_vcpus_q35(self):
        """q35: two vCPUs touch memory at once and raise SMIs."""
        self.check_events("vcpus-q35")

    def test_ovmf(self):
        """q35, OVMF, two vCPUs."""
        self.check_boot("smp-ovmf-prefault")

    def test_two_gib_four_vcpus(self):
        """2 GiB and four vCPUs."""
        self.check_boot("smp-large-prefault")
