# SPDX-License-Identifier: GPL-2.0-or-later
"""What rows of the scenario "movers" must show."""

from labtest import LabTest, Row


class PinTest(LabTest):
    """Base of tests of pin-ram."""

    def check_placement(self, row: Row) -> None:
        """Each of two bound backends is on its node, and nowhere else."""
        for node in ("0", "1"):
            placed = row["placement"][f"bind:{node}"]
            self.assertGreaterEqual(placed.get(node, 0), 128, row["placement"])
            self.assertEqual(placed.get(str(1 - int(node)), 0), 0, row["placement"])

    def check_movers(self, name: str) -> dict[str, Row]:
        """Started without a fault; the row's events by name."""
        row = self.row(name)
        self.assertTrue(row["booted"])
        self.check_ready(row["query"])
        found = {step["event"]: step for step in row["events"]}
        self.log.info("%s: %s", name, found)
        self.assertEqual(found["boot"]["ram_faults"], 0)
        return found

    def check_mlock(self, name: str, *movers: str) -> dict[str, Row]:
        """These movers do move, or unmap, what is only locked."""
        found = self.check_movers(name)
        self.assertEqual(self.row(name)["status_kib"]["VmPin"], 0)
        for mover in movers:
            self.assertGreater(found[mover]["ram_faults"], 50, mover)
        return found

    def check_longterm(self, name: str, *movers: str) -> dict[str, Row]:
        """All is pinned, nothing moves, no pin is left behind; these cause no fault."""
        found, row = self.check_movers(name), self.row(name)
        size = row["mem_mib"] << 20
        self.assertEqual(row["query"]["pin-ram"], "longterm")
        self.assertEqual(row["query"]["pinned-bytes"], size)
        self.assertEqual(row["status_kib"], {"VmPin": size >> 10, "VmLck": size >> 10})
        self.assertEqual(row["pins"], size >> 12)
        self.assertEqual(row["pins_left"], 0)
        self.assertEqual([step for step in row["events"] if step.get("moved")], [])
        for mover in movers:
            self.assertEqual(found[mover]["ram_faults"], 0, mover)
        return found
