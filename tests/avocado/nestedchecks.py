# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold for guests that are hypervisors."""

from labtest import LabTest, Row

EVENTS = ("start", "kvm-prefault", "flash written", "PAM switched", "DIMM plugged",
          "end of dirty logging", "left and entered", "system_reset",
          "all of it after a reset")


class NestedChecks(LabTest):
    """Checks on the steps of the scenario in agent/scenarios/nested.py."""

    def check_hypervisor(self, name: str, operation: str) -> Row:
        """It stays what it is through all events; all memory is mapped after each."""
        row = self.row(name)
        self.log.info("%s: %s", name, row["events"])
        self.assertEqual(row["operation"], operation)
        self.assertIsNone(row["trouble"], row["events"][-1])
        steps = {step["event"]: step for step in row["events"]}
        for event in EVENTS:
            self._check_step(steps[f"hypervisor: {event}"], row)
        self.assertGreater(steps["hypervisor: while migrating"]["ram_faults"], 0,
                           "pages were not write-protected")
        self.check_ready(row["query"])
        self.assertTrue(row["intact"], "data of the guest's has changed")
        self.assertTrue(row["booted"], f"{name}: QEMU did not end properly")
        return row

    def _check_step(self, step: Row, row: Row) -> None:
        self.assertGreater(step["rounds"], 0, step)
        self.assertEqual(step["state"], "ready", step)
        self.assertEqual(step["populated"], step["total"], step)
        self.assertEqual(step["ram_faults"], 0, f"{step}\n{row.get('fault_samples')}")
