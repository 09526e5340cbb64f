# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of eight vCPUs with OVMF and non-coherent DMA, Linux 6.1 with our modules."""

from mtrrchecks import MtrrChecks


class MtrrPrefault(MtrrChecks):
    """
    :avocado: enable
    """

    group = "mtrr-prefault"
    patched = ("6.1",)

    def test_range(self):
        """MTRRs drop everything several times; Linux finds all of its memory mapped."""
        causes = self.check_prefault("mtrr-prefault-range")["query"]["repopulations"]
        self.assertGreater(causes["mtrr"], 0)
        self.assertEqual(causes["lost"], 0)

    def test_ept(self):
        """As range, with SeaBIOS under EPT: all leaves have the memory type of the MTRRs."""
        row = self.check_prefault("mtrr-ept-prefault")
        self.assertGreater(row["query"]["repopulations"]["mtrr"], 0)
        self.check_types(row["check"], "populated by vCPUs whose MTRRs changed")

    def test_none(self):
        """MTRRs drop nothing, so that firmware does not fault either."""
        row = self.check_prefault("mtrr-prefault-none")
        self.check_zero(row)
        self.assertEqual(row["query"]["repopulations"]["mtrr"], 0)
