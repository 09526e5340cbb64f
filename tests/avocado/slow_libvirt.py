# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt of Debian 12 and 13, with UEFI, a hard limit, and huge pages."""

from test_libvirt import LibvirtTest

SUITES = ("own", "trixie")


class AllLibvirts(LibvirtTest):
    """
    :avocado: enable
    """

    group = "libvirt-full"
    timeout = 3600

    def test_13(self):
        """libvirt 11.3: the same as 9.0."""
        self.check_life("libvirt-trixie-pc-seabios")
        self.check_confined("libvirt-trixie-pc-seabios", "unlimited")
        self.check_unknown("libvirt-trixie-pc-seabios")
        self.assertEqual(self.row("libvirt-trixie-pc-seabios")["release"], "debian-13")

    def test_hard_limit(self):
        """q35 with OVMF; 2 GiB more than RAM, as in the example."""
        for suite in SUITES:
            self.check_life(f"libvirt-{suite}-q35-ovmf")
            self.check_confined(f"libvirt-{suite}-q35-ovmf", str((2048 + 256) << 20))

    def test_huge_pages(self):
        """Nothing is locked, so the memlock limit stays as it was."""
        for suite in SUITES:
            self.check_life(f"libvirt-{suite}-hugepages-2m")
            self.assertEqual(self.row(f"libvirt-{suite}-hugepages-2m")["process"]["locked"], "0 kB")

    def test_pinned(self):
        """Two nodes, 4 KiB pages, pinned through io_uring inside libvirt's sandbox."""
        for suite in SUITES:
            self.check_life(f"libvirt-{suite}-numa")
            self.check_confined(f"libvirt-{suite}-numa", "unlimited")
            query = self.row(f"libvirt-{suite}-numa")["first_query"]
            self.assertEqual(query["pinned-bytes"], 256 << 20)
