# SPDX-License-Identifier: GPL-2.0-or-later
"""Patched KVM modules: always-writable slots, and what the stock KVM refuses."""

from framework import modules
from labtest import LabTest, Row

READONLY = 1 << 1
ALWAYS_WRITABLE = 1 << 15
# Video memory or, in SMM, RAM.
VGA_WINDOW = range(0xa0000, 0xc0000)


class PatchedKvm(LabTest):
    """
    :avocado: enable
    """

    group = "patched"
    patched = ("6.12",)

    def check_patched(self, name: str) -> None:
        """Prefault and always-writable slots on both address spaces, no RAM fault."""
        info = self.check_boot(name)["query"]
        self.assertTrue(info["always-writable"], "always-writable is implied by prefault")
        self.assertTrue(info["host"]["always-writable"])

    def test_boot_pc(self):
        """pc boots under patched modules without a RAM fault."""
        self.check_patched("patched-pc-4k")

    def test_boot_q35(self):
        """q35 boots under patched modules without a RAM fault."""
        self.check_patched("patched-q35-4k")

    def check_slots(self, name: str) -> Row:
        """RAM that the guest may write is flagged, in each address space; nothing else is."""
        row = self.row(name)
        self.assertTrue(row["booted"], f"{name}: did not power off properly")
        for slot in row["slots"]:
            inside = any(start <= slot["gpa"] and slot["gpa"] + slot["size"] <= end
                         for start, end in row["ram"])
            if VGA_WINDOW.start <= slot["gpa"] < VGA_WINDOW.stop:
                continue
            expected = inside and not slot["flags"] & READONLY
            self.assertEqual(bool(slot["flags"] & ALWAYS_WRITABLE), expected,
                             f"{name}: {slot}, RAM is {row['ram']}")
            self.assertEqual(slot["ret"], 0, slot)
        return row

    def check_seen(self, row: Row, gpa: int, size: int, flagged: bool) -> None:
        """There was a slot of that address and size, so that the check above means something."""
        found = [slot for slot in row["slots"] if (slot["gpa"], slot["size"]) == (gpa, size)]
        self.assertTrue(found, f"no slot at {gpa:#x}, size {size:#x}: {row['slots']}")
        for slot in found:
            self.assertEqual(bool(slot["flags"] & ALWAYS_WRITABLE), flagged, slot)

    def test_slots_q35(self):
        """q35 with two nodes: RAM and a plugged DIMM, not flash, ROM or video memory."""
        row = self.check_slots("slot-flags-q35")
        self.check_seen(row, 1 << 32, 128 << 20, True)
        self.assertTrue([s for s in row["slots"] if s["gpa"] >= 0xff000000
                         and s["gpa"] < 1 << 32], "no flash seen")

    def test_slots_pc(self):
        """pc: RAM and a plugged DIMM, not ROM or video memory."""
        row = self.check_slots("slot-flags-pc")
        self.check_seen(row, 1 << 32, 128 << 20, True)
        self.assertTrue([s for s in row["slots"] if s["size"] == 16 << 20
                         and s["gpa"] >= 256 << 20], "no video memory seen")

    def check_cow(self, name: str, exits: float, mapped: int, copies: float) -> Row:
        """Exits are counted on the pages only, mappings made in the whole guest."""
        row = self.row(name)
        self.assertTrue(row["booted"], f"{name}: did not power off properly")
        if row["tdp_faults_per_page"] is None:
            self.cancel("RAM faults cannot be counted: tracefs needs root")
        self.assertEqual(row["tdp_faults_per_page"], exits)
        self.assertGreaterEqual(row["tdp_mapped_per_page"], mapped)
        self.assertLess(row["tdp_mapped_per_page"], mapped + 0.1)
        self.assertAlmostEqual(row["host_cow_per_page"], copies, delta=0.05)
        self.assertEqual(row["nonzero_before"], 0, "pages were not untouched")
        self.assertEqual(row["nonzero_after"], row["pages"], "writes were lost")
        return row

    def test_cow_stock(self):
        """Two mappings and a copy per page: the zero page, then the page itself.

        The copy makes KVM's own fault stale, so that it is taken once more.
        """
        row = self.check_cow("cow-4k-stock", 3, 2, 1)
        self.assertFalse(row["always_writable"])
        self.assertEqual(row["tdp_read_faults_per_page"], 1)

    def test_cow_always_writable(self):
        """One fault per page, on the read; no copy."""
        row = self.check_cow("cow-4k-always-writable", 1, 1, 0)
        self.assertTrue(row["always_writable"])
        self.assertEqual(row["tdp_read_faults_per_page"], 1)

    def test_cow_prefault(self):
        """No fault at all."""
        self.check_cow("cow-4k-prefault", 0, 0, 0)

    def test_population(self):
        """One pass and two passes both populate all of untouched RAM; times are logged."""
        row = self.row("populate-4k")
        self.log.info("one pass %s ms, two passes %s ms",
                      row["populate_ms_all"], row["two_pass_populate_ms_all"])
        self.check_zero(row)

    def test_dma(self):
        """Non-coherent DMA starts, then stops: KVM drops everything, QEMU maps it again."""
        if not modules.lab_module(self.setup, "6.12", "patched"):
            self.cancel("the lab's module is missing: run 'scripts/kvm-lab-module 6.12'")
        self.check_repaired(self.row("dma"))


class StockKvm(LabTest):
    """
    :avocado: enable
    """

    group = "stock-kvm"

    def test_on(self):
        """always-writable=on without the patched KVM is refused with the remedy."""
        self.check_refused("always-writable-on-stock", "'always-writable=on'",
                           "KVM_MEM_ALWAYS_WRITABLE")

    def test_auto(self):
        """always-writable=auto boots there; the query says why it is not."""
        row = self.row("always-writable-auto-on-stock")
        self.assertTrue(row["booted"])
        self.assertFalse(row["query"]["always-writable"])
        self.assertFalse(row["query"]["host"]["always-writable"])
        self.assertIn("KVM_MEM_ALWAYS_WRITABLE", " ".join(row["query"]["reasons"]))
