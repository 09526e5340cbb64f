# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's libvirtd starts a domain of docs/examples/libvirt on the emulated host."""

from framework import rootfs
from labtest import LabTest


class LibvirtTest(LabTest):
    """Looks at rows of scenario libvirt."""

    def setUp(self) -> None:
        if missing := rootfs.missing_tools():
            self.cancel(f"the Debian userland needs package(s) {', '.join(missing)}")
        super().setUp()

    def check_life(self, name: str) -> None:
        """Ready, and no fault from the first instruction to the end, through all of it."""
        row = self.check_events(name)
        self.assertEqual([step["event"] for step in row["events"]], ["boot", "reset", "restore"])
        self.check_ready(row["first_query"])
        self.assertEqual(row["domstats"]["state.state"], "1")
        self.assertTrue([key for key in row["domstats"] if "pf_fixed" in key])

    def check_confined(self, name: str, memlock: str) -> None:
        """As an ordinary user, under a profile of its own that denies nothing it asks for."""
        row = self.row(name)
        process = row["process"]
        self.assertNotEqual(process["uid"], 0)
        self.assertRegex(process["profile"], r"^libvirt-[0-9a-f-]{36} \(enforce\)$")
        self.assertEqual(process["memlock"], memlock)
        denied = [line for line in row["denied"] if 'profile="libvirt-' in line]
        self.assertEqual(denied, [])

    def check_unknown(self, name: str) -> None:
        """AppArmor is at work, and says so."""
        row = self.row(name)
        self.assertIn("ermission denied", row["refused"])
        self.assertIn("qemu-system-x86_64-prefault", "\n".join(row["denied_before"]))


class Libvirt(LibvirtTest):
    """
    :avocado: enable
    """

    group = "libvirt"

    def test_no_faults(self):
        """Start, reset, save and restore: 0 RAM faults."""
        self.check_life("libvirt-pc")

    def test_confined(self):
        """<locked/> lifts the memlock limit of a user who has no capability."""
        self.check_confined("libvirt-pc", "unlimited")

    def test_unknown_binary(self):
        """Without the AppArmor snippet the domain does not start."""
        self.check_unknown("libvirt-pc")
