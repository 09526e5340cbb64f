# SPDX-License-Identifier: GPL-2.0-or-later
"""EPT: our KVM modules on stock Debian kernels, on a host emulated by Bochs."""

from framework import bochs
from mtrrchecks import MtrrChecks
from nestedchecks import NestedChecks


class Ept(MtrrChecks, NestedChecks):
    """
    :avocado: enable
    """

    group = "ept"
    shared_file = "lifecycle.json"
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

    def check_vmx(self, machine: str, method: str) -> None:
        row = self.check_hypervisor(f"nested-vmx-{machine}", "VMX")
        self.assertEqual(row["query"]["method"], method)
        self.assertEqual((row["lab"], row["kvm_module"], row["kvm"]),
                         ("ept", "kvm_intel", "stock"))

    def test_vmx_pc(self):
        """Stock Linux 6.12, borrowed vCPUs: a guest stays in VMX operation, all is mapped."""
        self.check_vmx("pc", "vcpu")

    def test_vmx_q35(self):
        """The same by KVM_PRE_FAULT_MEMORY, on q35."""
        self.check_vmx("q35", "ioctl")

    def test_6_1_prefault(self):
        """Linux 6.1: prefault=on, not one RAM fault; always-writable is implied."""
        info = self.check_boot("ept-6.1-prefault")["query"]
        self.assertTrue(info["always-writable"])
        self.check_host("ept-6.1-prefault", "6.1")

    def test_6_1_mtrr_range(self):
        """Mode range: random MTRRs on 4 vCPUs, 4 KiB pages; types of all sorts are seen."""
        row = self.check_verified("ept-mtrr-verify-range-4k")
        self.assertGreater(row["mtrr_zaps"], 0)
        self.assertEqual(set(row["again"]["types"]), {"0", "1", "4", "5", "6"})

    def test_6_1_mtrr_check_sees_wrong_types(self):
        """Mode full, as upstream 6.1, reads a mask with a hole as one without: that is found.

        Looked at when memory was touched again: what zaps leave behind depends on who was last.
        """
        row = self.mtrr_row("ept-mtrr-verify-full-4k")
        self.log.info("left: %s, again: %s", row["left"], row["again"])
        self.assertGreater(row["again"]["wrong"], 100)

    def test_6_1_mtrr_stress(self):
        """MTRRs, CR0.CD, memory and DMA all at once; no stale type, no write lost."""
        row = self.check_stress("ept-mtrr-stress-range")
        self.check_types(row["left"], row["name"])
        self.check_types(row["again"], row["name"])
