# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that is a hypervisor on an AMD host; test_ept.py has that on an Intel host."""

from nestedchecks import NestedChecks


class Nested(NestedChecks):
    """
    :avocado: enable
    """

    group = "nested"
    shared_file = "lifecycle.json"

    def test_svm_pc(self):
        """SVM stays enabled, whatever has memory mapped again; not one RAM fault."""
        self.check_hypervisor("nested-svm-pc", "SVM")

    def test_svm_q35(self):
        """SVM on q35, with a second vCPU that waits for its start."""
        row = self.check_hypervisor("nested-svm-q35", "SVM")
        self.assertEqual(row["smp"], 2)
