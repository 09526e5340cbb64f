# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that moves pages, on locked and on pinned memory."""

from pinchecks import PinTest


class Pinning(PinTest):
    """
    :avocado: enable
    """

    group = "pinning"

    def test_pin_life(self):
        """Pinned once, resets or not; a DIMM is while it is plugged; nothing after the end."""
        row = self.row("pin-life")
        ram, dimm = row["mem_mib"] << 20, 128 << 20
        found = {step["event"]: (step["pinned"], step["vm_pin"]) for step in row["pin_events"]}
        self.assertEqual(found, {"boot": (ram, ram), "system_reset": (ram, ram),
                                 "plugged": (ram + dimm, ram + dimm), "unplugged": (ram, ram)})
        self.assertEqual(row["pins_left"], 0)

    def test_mlock(self):
        """Private locked memory is moved by compaction; NUMA balancing unmaps it."""
        found = self.check_mlock("movers-6.12-ram-mlock", "compaction", "NUMA balancing",
                                 "migrate_pages")
        self.assertGreater(found["compaction"]["moved"], 0)

    def test_longterm(self):
        """Pinned, neither does; migrate_pages(2) unmaps it, and gives up then."""
        found = self.check_longterm("movers-6.12-ram-longterm", "compaction", "KSM",
                                    "NUMA balancing")
        self.assertGreater(found["migrate_pages"]["ram_faults"], 0,
                           "fewer faults than documented: put that into the limits section")

    def test_mlock_shared(self):
        """Shared locked memory is moved by compaction."""
        found = self.check_mlock("movers-6.12-memfd-mlock", "compaction", "migrate_pages")
        self.assertGreater(found["compaction"]["moved"], 0)

    def test_longterm_shared(self):
        """Pinned it is not, but compaction unmaps it first, of which QEMU warns."""
        self.check_longterm("movers-6.12-memfd-longterm")
        row = self.row("movers-6.12-memfd-longterm")
        self.assertIn("compact_unevictable_allowed=0", row["message"])
        self.assertIn("compaction", " ".join(row["query"]["reasons"]))

    def test_longterm_shared_left_out(self):
        """With vm.compact_unevictable_allowed=0 there is neither a fault nor a warning."""
        self.check_longterm("movers-locked-stays", "compaction")
        row = self.row("movers-locked-stays")
        self.assertEqual((row["message"], row["query"]["reasons"]), ("", []))

    def test_linux_6_1(self):
        """Linux 6.1: the same from the moment that memory is populated."""
        locked, pinned = ({step["event"]: step for step in self.row(name)["events"]}
                          for name in ("movers-6.1-mlock", "movers-6.1-longterm"))
        for mover in ("compaction", "NUMA balancing"):
            self.assertGreater(locked[mover]["ram_faults"], 50, mover)
            self.assertEqual(pinned[mover]["ram_faults"], 0, mover)
        self.assertEqual(self.row("movers-6.1-longterm")["pins_left"], 0)

    def test_numa(self):
        """Two backends bound to two nodes are pinned where they belong."""
        row = self.row("pin-numa")
        self.check_zero(row)
        self.assertEqual(row["query"]["pinned-bytes"], row["mem_mib"] << 20)
        self.check_placement(row)

    def test_hugetlb(self):
        """Huge pages of hugetlbfs."""
        row = self.check_boot("pin-hugetlb")
        self.assertEqual(row["query"]["pin-ram"], "longterm")
        self.assertEqual(row["query"]["pinned-bytes"], row["mem_mib"] << 20)
