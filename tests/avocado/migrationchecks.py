# SPDX-License-Identifier: GPL-2.0-or-later
"""What rows of migrations must show, whether they succeed or not."""

from labtest import LabTest, Row

# Firmware's slots below 1 MiB and TSEG change when a guest's state is loaded.
LATE_BYTES_MAX = 48 << 20

# In these the guest is stopped when the migration ends.
STOPPED_PHASES = ("cancel while stopped", "cancel before switch-over", "cancel in device state",
                  "destination dies in device state")
PHASES = ("nobody listens", "cancel at once", "cancel while active",
          "destination dies while active", *STOPPED_PHASES)


class MigrationTest(LabTest):
    """Base of tests of migration; results are those of the life cycle."""

    shared_file = "lifecycle.json"

    def steps(self, name: str) -> dict[str, Row]:
        """A row that ended well; its events by name."""
        row = self.row(name)
        self.assertTrue(row["booted"], f"{name}: did not power off properly")
        steps = {step["event"]: step for step in row["events"]}
        self.log.info("%s: %s, %s", name, steps, row["query"] and row["query"].get("incoming"))
        return steps

    def check_last(self, name: str, events: tuple[str, ...]) -> Row:
        """No RAM fault in these events, and all is mapped at the end."""
        row, steps = self.row(name), self.steps(name)
        for event in events:
            samples = "\n".join(row.get("fault_samples", []))
            self.assertEqual(steps[event]["ram_faults"], 0, f"{name}: {event}: {steps}\n{samples}")
        self.check_ready(row["query"])
        return row

    def check_arrival(self, name: str) -> Row:
        """The guest's first instruction at the destination found all mapped, and before."""
        row = self.check_last(name, ("incoming, cont",))
        query = row["query"]
        arrival = query["incoming"]
        self.assertGreaterEqual(arrival["early-bytes"], query["total-bytes"] - LATE_BYTES_MAX)
        self.assertLessEqual(arrival["late-bytes"], LATE_BYTES_MAX)
        self.assertEqual(query["repopulations"]["incoming"], 0)
        self.assertEqual([line for line in row["message"].splitlines()
                          if "recommended cpus supported by KVM" not in line
                          and "kvm_prefault_arrival" not in line], [])
        return row

    def check_late(self, name: str) -> None:
        """As before, but what was mapped early has been lost and mapped again."""
        query = self.check_last(name, ("incoming, cont",))["query"]
        self.assertEqual(query["incoming"]["early-bytes"] + query["incoming"]["late-bytes"],
                         query["total-bytes"])

    def check_source(self, name: str, *phases: str) -> dict[str, Row]:
        """After each failure: no fault, and pages are mapped in the sizes of before."""
        row, steps = self.row(name), self.steps(name)
        before = row["query_before"]["mapped"]
        for phase in phases:
            self.assertEqual(steps[phase]["ram_faults"], 0, f"{name}: {phase}: {steps}")
            self.assertEqual(steps[phase]["mapped"], before, f"{name}: {phase}")
        self.check_ready(row["query"])
        return steps

    def check_postcopy(self, name: str, prop: str) -> None:
        """Refused at the destination, for this reason, however it is asked for."""
        row = self.row(name)
        self.assertEqual(row["exit_status"], 1, row["message"])
        for text in (row["refused"], row["message"]):
            self.assertIn(f"'{prop}' at the destination", text)
            self.assertIn("postcopy-ram off", text)
