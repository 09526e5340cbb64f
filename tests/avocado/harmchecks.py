# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold when a pass could do its guest harm."""

from labtest import LabTest, Row

MIB = 1024
# More than the bound that is stated, 100 ms: the last of the calls that had begun, and a host
# that is emulated beside others.
HELD_MS_MAX = 1000
# What a pass takes here at least; without a bound the guest was held for all of it.
PASS_MS_MIN = 2000
# How long the guest is in its CPUs before such a pass is over; it gets some 10 ms between two
# turns, and has something to do.
RAN_MS_MIN = 50


class HarmTest(LabTest):
    """Checks on the scenarios of harm.py, poison.py and holds.py in agent/scenarios."""

    shared_file = "lifecycle.json"

    def steps(self, row: Row) -> dict[str, Row]:
        self.assertTrue(row["booted"], f"{row['name']}: did not power off properly")
        found = {step["event"]: step for step in row["events"]}
        self.log.info("%s: %s", row["name"], found)
        return found

    def check_touched(self, row: Row) -> dict[str, Row]:
        """Whatever happened: no fault by touching memory afterwards."""
        steps = self.steps(row)
        touched = [step for event, step in steps.items() if event.endswith("then touched")]
        self.assertTrue(touched)
        for step in touched:
            self.assertEqual(step["ram_faults"], 0, step)
        return steps

    def check_toggled(self, name: str, rounds: int) -> None:
        """All of the guest's CPUs come up, each time, while passes borrow them."""
        row = self.row(name)
        steps = self.check_touched(row)
        self.assertEqual(row["toggled"], {"done": rounds * (row["smp"] - 1), "failed_cpu": 0,
                                          "errno": 0, "cpus": row["smp"], "incomplete": []})
        self.assertGreaterEqual(row["passes"], 3, "hardly a pass ran meanwhile")
        self.assertEqual(steps["CPUs toggled during passes"]["ram_faults"], 0)
        self.check_ready(row["query"])

    def check_obsolete(self, name: str) -> None:
        """Everything is mapped again soon, and nobody waited in vain for a vCPU."""
        row = self.row(name)
        steps = self.check_touched(row)
        for event in ("kvm-prefault", "noticed", "noticed, kvm-prefault"):
            step = steps[f"roots obsolete, {event}"]
            self.assertEqual((step["state"], step["reasons"]), ("ready", []), step)
        self.check_ready(row["query"])

    def check_poisoned(self, name: str) -> None:
        """One page is missing and named; the others come back; a reset mends all."""
        row = self.row(name)
        steps = self.check_touched(row)
        spaces = row["query"]["host"]["address-spaces"]
        for event in ("page poisoned", "page poisoned, others moved"):
            step = steps[event]
            self.assertEqual(step["state"], "partial", step)
            self.assertIn("poison", " ".join(step["reasons"]), step)
            self.assertGreater(step["missing_kib"], 0, step)
            self.assertLessEqual(step["missing_kib"], 2 * MIB * spaces, step)
        moved = steps["page poisoned, others moved"]
        self.assertGreater(moved["moved"], 0, "the host has not moved a page")
        self.assertGreaterEqual(moved["mapped"], steps["page poisoned"]["mapped"])
        self.assertIn("BUS_MCEERR_AO", row["message"], "the guest was not told of the page")
        self.assertNotIn("BUS_MCEERR_AR", row["message"], "a pass touched the page")
        self.check_ready(row["query"])

    def check_held(self, name: str, event: str) -> None:
        """A pass of seconds, in which the guest runs."""
        row = self.row(name)
        steps = self.check_touched(row)
        step = steps[f"long pass: {event}"]
        self.assertGreater(step["pass_ms"], PASS_MS_MIN, "too short to tell")
        self.assertLess(step["held_ms"], HELD_MS_MAX, step)
        self.assertGreater(step["ran_ms"], RAN_MS_MIN, "the guest did not run during the pass")
        self.assertEqual(row["complaints"], [])
        self.check_ready(row["query"])
