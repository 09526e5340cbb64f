# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest MTRRs on Linux 6.1 with our modules: what takes too long for every change."""

from mtrrchecks import MtrrChecks


class MtrrPrefault(MtrrChecks):
    """Guests of eight vCPUs with OVMF and non-coherent DMA.

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


class MtrrTypes(MtrrChecks):
    """Leaves of EPT against the architecture; test_ept.py has the rest.

    :avocado: enable
    """

    group = "mtrr-types"
    patched = ("6.1",)

    def test_range_2m(self):
        """Random MTRRs on 4 vCPUs; host pages of 2 MiB are mapped whole where types allow."""
        row = self.check_verified("ept-mtrr-verify-range-2048k")
        self.assertGreater(row["again"]["huge"], 0)

    def test_none(self):
        """Mode none: all memory is WB, whatever the MTRRs say, and nothing is zapped."""
        row = self.check_verified("ept-mtrr-verify-none-4k")
        self.assertEqual(list(row["again"]["types"]), ["6"])
        self.assertEqual(row["mtrr_zaps"], 0)
