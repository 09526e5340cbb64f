# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold when vCPUs touch memory (prefault-method=vcpu)."""

from labtest import LabTest, Row


class VcpuChecks(LabTest):
    """Checks for rows of groups vcpu and vcpu-full."""

    def check_method(self, name: str, kernel: str) -> Row:
        row = self.row(name)
        self.assertTrue(row["kernel"].startswith(f"{kernel}."), row["kernel"])
        self.assertEqual(row["query"]["method"], "vcpu")
        return row

    def check_os(self, name: str, kernel: str) -> Row:
        """No fault from the end of firmware on, where KVM forgets all at each slot change."""
        row = self.check_method(name, kernel)
        self.assertTrue(row["booted"])
        self.check_ready(row["query"])
        self.assertEqual(row["ram_faults_os"], 0, row.get("os_samples"))
        self.assertEqual(row["faults_since_ready"], 0)
        return row

    def check_state(self, name: str, kernel: str, vcpus: int) -> Row:
        """So many vCPUs were borrowed; nothing of them or of RAM was different after."""
        row = self.check_method(name, kernel)
        self.assertEqual(row["differences"], [])
        self.assertGreaterEqual(len(row["vcpus"]), vcpus)
        # at least once in each pass; one pass may be for several causes
        self.assertGreaterEqual(row["query"]["passes"], 2)
        self.assertGreaterEqual(row["ram_compared"], row["query"]["passes"])
        self.check_ready(row["query"])
        return row
