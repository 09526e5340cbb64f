# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold for prefault-host-validate on any emulated host."""

from labtest import LabTest, Row


class ValidateTest(LabTest):
    """Looks at rows of scenario host_validate."""

    def setUp(self) -> None:
        super().setUp()
        if not self.setup.host_validate.exists():
            self.cancel("prefault-host-validate is not built: run 'make host-validate'")

    @staticmethod
    def by_name(report: Row) -> dict[str, Row]:
        return {check["name"]: check for check in report["checks"]}

    def check_agrees(self, name: str) -> dict[str, Row]:
        """The fork, asked twice, finds the same host; the record tells the same again."""
        row = self.row(name)
        report = row["report"]
        checks = self.by_name(report)
        self.assertEqual(report["host"], row["query"]["host"])
        self.assertEqual(checks["qemu"]["status"], "pass", checks["qemu"])
        self.check_record(row)
        return checks

    def check_record(self, row: Row) -> None:
        """Looked at later, the recorded host is the same one."""
        here = [check for check in row["report"]["checks"] if check["name"] != "qemu"]
        self.assertEqual(row["replayed"]["checks"], here)
        self.assertEqual(row["replayed"]["host"], row["report"]["host"])
