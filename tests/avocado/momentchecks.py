# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold when a population is ended or disturbed half-way."""

from typing import Any

from labtest import LabTest, Row

# What is left to be checked where the guest lives on.
LIVES = ("system_powerdown", "stop", "migrate_cancel")


class MomentChecks(LabTest):
    """Rows of the scenarios "moments" and "responsive"."""

    def check_moments(self, name: str) -> None:
        """All moments were in time, and every guest ended or got its memory."""
        row = self.row(name)
        in_time = 0
        for moment in row["moments"]:
            self.log.info("%s", moment)
            in_time += moment["state_before"] == "populating"
            self.check_moment(moment)
        self.assertEqual(in_time, len(row["moments"]),
                         f"population was over too early for this test: {row['moments']}")

    def check_moment(self, moment: dict[str, Any]) -> None:
        what = f"{moment['way']} at {moment['at']}: {moment}"
        self.assertEqual(moment["exit_status"], 0, what)
        if moment["way"] in LIVES:
            self.assertEqual(moment["state_after"], "ready", what)
            self.assertTrue(moment["intact"], what)
        if moment["way"] == "migrate_cancel":
            self.assertEqual(moment["migration"], "cancelled", what)
        if moment["way"] == "stop":
            self.assertEqual(moment["stopped"], "paused", what)

    def check_responsive(self, name: str, wait: bool) -> Row:
        """Answers all the time, and what they say about progress never goes back."""
        row = self.row(name)
        self.assertTrue(row["booted"])
        self.check_ready(row["query"])
        done = [s["populated"] + s["host"] for s in row["samples"] if s["state"] == "populating"]
        self.assertGreaterEqual(len(set(done)), 10, f"no progress seen: {row['samples']}")
        self.assertEqual(done, sorted(done))
        self.assertEqual(row["silent_until_ready"], wait)
        self.log.info("%s: %d answers, %s", name, row["polls"], row["answer_ms"])
        return row
