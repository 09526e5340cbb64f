# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that are stopped during a pass, or have run before their first one ended."""

from labtest import LabTest, Row


class Stopping(LabTest):
    """
    :avocado: enable
    """

    group = "stopping"

    def test_stop_loop(self):
        """Method vcpu, prefault-wait=off: "stop" at 200 random moments."""
        self.check_loop("stop-loop", 200)

    def test_stop_loop_late(self):
        """The same when a vCPU has been borrowed for too long already."""
        row = self.check_loop("stop-loop-late", 60)
        self.assertGreaterEqual(row["late_runs"], 60, "no vCPU was borrowed")

    def check_loop(self, name: str, rounds: int) -> Row:
        row = self.row(name)
        self.log.info("%s: %d rounds, slowest %s ms", name, row["rounds"], row["slowest_ms"])
        self.assertFalse(row["hung"], f"no answer to 'stop' in round {row['rounds'] + 1}")
        self.assertEqual(row["rounds"], rounds)
        return row

    def test_postponed_pass_fails(self):
        """prefault=on: QEMU does not end a guest that has run."""
        row = self.row("postponed-pass-fails")
        self.assertEqual(row["state_before"], "populating", "the first pass was over too early")
        self.assertGreater(row["failed_calls"], 0, "the pass did not fail")
        self.assertNotIn("gone", row, f"exit status {row['status']}: {row['message']}")
        self.assertEqual(row["query"]["state"], "partial", row["query"])
        self.assertIn("Input/output error", " ".join(row["query"]["reasons"]))
        self.assertEqual(row["healed"], "ready")
        self.assertEqual(row["status"], 0)

    def test_lost_before_arrival(self):
        """A guest that is to be reset does not run when it arrives."""
        row = self.row("lost-before-arrival")
        self.assertGreater(row["refused_calls"], 0)
        self.assertIn("the guest is stopped and has to be reset", row["message"])
        self.assertEqual(row["query"]["state"], "partial", row["query"])
        self.assertEqual(row["arrived"], "internal-error")
        self.assertIn("error", row["cont"], "the guest could be continued without a reset")
        self.assertEqual(row["healed"], "ready")

    def test_discard_fails(self):
        """virtio-mem memory that the host does not take back stays populated and locked."""
        row = self.check_events("discard-fails")
        spaces = row["query"]["host"]["address-spaces"]
        plugged = {"virtio-mem: 128 MiB plugged": 128, "virtio-mem: discard failed": 128,
                   "virtio-mem: unplugged": 0}
        for step in row["events"]:
            if (more := plugged.get(step["event"])) is None:
                continue
            size = row["mem_mib"] + more
            self.assertEqual((step["state"], step["total_mib"], step["populated_mib"],
                              step["pinned_mib"], step["locked_mib"]),
                             ("ready", size * spaces, size * spaces, size, size), step)
