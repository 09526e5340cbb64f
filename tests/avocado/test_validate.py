# SPDX-License-Identifier: GPL-2.0-or-later
"""prefault-host-validate on a host whose settings are all wrong, and its remedies."""

from validatechecks import ValidateTest

# What the row's "before" has spoilt.
SPOILT = {"kvm.nx_huge_pages", "kvm.eager_page_split", "thp.defrag",
          "vm.compact_unevictable_allowed", "vm.compaction_proactiveness",
          "kernel.numa_balancing", "io_uring"}


class Validate(ValidateTest):
    """
    :avocado: enable
    """

    group = "validate"

    def test_same_as_the_fork(self):
        """Every capability is what query-kvm-prefault says of the same host."""
        self.check_agrees("validate")

    def test_finds(self):
        """Whatever has been spoilt gets a warning with a command; nothing fails."""
        report = self.row("validate")["report"]
        warned = {check["name"] for check in report["checks"] if check["status"] == "warn"}
        self.assertLessEqual(SPOILT, warned)
        for name in SPOILT:
            self.assertTrue(self.by_name(report)[name]["command"], name)
        self.assertEqual((report["summary"]["fail"], report["exit_status"]), (0, 0))

    def test_remedies(self):
        """The commands of the report, run as they are: nothing spoilt is left."""
        checks = self.by_name(self.row("validate")["after"])
        self.assertEqual({name: checks[name]["status"] for name in SPOILT},
                         {name: "pass" for name in SPOILT})
        self.assertEqual([check["name"] for check in checks.values()
                          if check["command"]], [], "a command did not help")
