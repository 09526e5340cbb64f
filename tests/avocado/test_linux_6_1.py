# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux 6.1 with our modules, under NPT; test_vcpu.py has the stock kernel."""

from mtrrchecks import MtrrChecks


class Linux61(MtrrChecks):
    """
    :avocado: enable
    """

    group = "linux-6.1"
    patched = ("6.1",)

    def test_patched(self):
        """Our modules on the stock kernel run a guest, and faults are counted."""
        row = self.row("npt-6.1-patched-stock")
        self.assertEqual((row["lab"], row["kvm_module"], row["kvm"]),
                         ("npt", "kvm_amd", "patched"))
        self.assertTrue(row["kernel"].startswith("6.1."), row["kernel"])
        self.assertTrue(row["booted"])
        self.assertGreater(row["ram_faults"], 100)

    def test_always_writable(self):
        """Our modules: a guest boots from always-writable slots."""
        row = self.row("npt-6.1-always-writable")
        self.assertTrue(row["booted"])
        self.assertTrue(row["query"]["always-writable"])

    def test_prefault(self):
        """Our modules: SeaBIOS deletes slots, and the guest takes not one RAM fault."""
        info = self.check_boot("npt-6.1-pc-seabios-prefault")["query"]
        self.assertTrue(info["host"]["pre-fault-memory"])
        self.assertEqual(info["slot-zap"], "slot")

    def test_prefault_ovmf(self):
        """As above on q35 with OVMF, two vCPUs, and host pages of 4 KiB."""
        self.check_boot("npt-6.1-q35-ovmf-prefault")

    def test_emulated_cpus(self):
        """The CPUs of the emulated host keep their flags to themselves: else no guest boots."""
        self.check_boot("npt-beside-fldenv")

    def check_mtrr_zap(self, name: str, expected: str) -> None:
        info = self.row(name)["query"]
        self.assertEqual(info["mtrr-zap"], expected)
        self.assertEqual(info["host"]["mtrr-zap"], "selectable")

    def test_mtrr_zap(self):
        """Our modules: the VM gets what was asked for; auto takes the least that is possible."""
        self.check_mtrr_zap("npt-6.1-mtrr-range", "range")
        self.assertTrue(self.row("npt-6.1-mtrr-auto")["booted"])
        self.check_mtrr_zap("npt-6.1-mtrr-auto", "none")

    def test_mtrr_zap_none(self):
        """On a CPU without self-snoop "none" is refused."""
        self.check_refused("npt-6.1-mtrr-none", "'mtrr-zap=none'", "self-snoop", "mtrr-zap=range")

    def test_mtrr_zap_stock(self):
        """The stock KVM has no choice to offer."""
        self.check_refused("npt-6.1-mtrr-stock", "'mtrr-zap=range'", "KVM_CAP_MTRR_ZAP",
                           "make kvm-modules", "mtrr-zap=full")

    def test_mtrr_prefault(self):
        """Non-coherent DMA, mode range: MTRRs drop mappings, QEMU learns of it in time."""
        causes = self.check_prefault("npt-6.1-mtrr-prefault")["query"]["repopulations"]
        self.assertGreater(causes["mtrr"], 0)
        self.assertEqual(causes["lost"], 0)

    def test_mtrr_contention(self):
        """Two CPUs, 8 vCPUs: MTRRs, CR0.CD, memory and DMA at once; no hang, no write lost."""
        for zap in ("range", "none"):
            row = self.check_stress(f"npt-mtrr-stress-{zap}")
            self.assertEqual(row["mtrr_zaps"] > 0, zap == "range")
