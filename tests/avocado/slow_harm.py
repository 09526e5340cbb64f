# SPDX-License-Identifier: GPL-2.0-or-later
"""More that must not harm a guest."""

from harmchecks import HarmTest


class HarmFull(HarmTest):
    """
    :avocado: enable
    """

    group = "harm-full"

    def test_cpus_toggled_by_vcpu(self):
        """Method vcpu borrows vCPUs that go off- and online."""
        self.check_toggled("harm-cpus-toggled-vcpu", 8)

    def test_obsolete_roots_without_smm(self):
        """There is only one address space to get a new root by."""
        self.check_obsolete("harm-obsolete-roots-smm-off")

    def test_poisoned_huge(self):
        """A page whose memory has failed, in a huge page of 2 MiB."""
        self.check_poisoned("harm-poisoned-2048k")

    def test_held_for_zap_all(self):
        """KVM has dropped everything with a slot."""
        self.check_held("harm-held-zap-all", "KVM drops everything")

    def test_held_for_snapshot(self):
        """A snapshot that is loaded into a running QEMU."""
        self.check_held("harm-held-snapshot", "a snapshot is loaded")
