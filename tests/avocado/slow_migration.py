# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way in and out of a QEMU, and failures on the way; ten seconds are watched."""

from labtest import Row
from migrationchecks import PHASES, MigrationTest


class Ways(MigrationTest):
    """
    :avocado: enable
    """

    group = "migration-full"
    patched = ("6.1", "6.12")

    def test_source_fails_pc(self):
        """Stock KVM: mapped again by a pass."""
        self.check_source("source-fails-stock-pc-0", *PHASES)

    def test_source_fails_q35(self):
        """The same on q35."""
        self.check_source("source-fails-stock-q35-0", *PHASES)

    def test_source_fails_patched_pc(self):
        """Patched KVM: recovered in place."""
        self.check_source("source-fails-patched-pc-0", *PHASES)

    def test_source_fails_patched_q35(self):
        """The same on q35."""
        self.check_source("source-fails-patched-q35-0", *PHASES)

    def test_source_fails_dirty_ring(self):
        """With dirty rings instead of bitmaps, stock and patched KVM."""
        for kvm in ("stock", "patched"):
            self.check_source(f"source-fails-{kvm}-pc-4096", *PHASES)

    def check_ends(self, name: str) -> None:
        """Each bad stream ends the destination with a message; a good one is taken then."""
        row = self.check_last(name, ("incoming, second try",))
        for what, end in row["ends"].items():
            self.assertEqual(end["exit_status"], 1, f"{what}: {end}")
            self.assertIn("migration", end["message"], what)

    def test_destination_fails_pc(self):
        """No stream, streams that end too early, a damaged one."""
        self.check_ends("destination-fails-pc")

    def test_destination_fails_q35(self):
        """The same on q35."""
        self.check_ends("destination-fails-q35")

    def test_live(self):
        """Compressed, and through several sockets."""
        for kind in ("xbzrle", "multifd"):
            self.check_arrival(f"live-{kind}")

    def test_live_traced(self):
        """Precopy; the trace event says what the query says."""
        row = self.check_arrival("live-precopy")
        arrival = row["query"]["incoming"]
        for text in (f"{arrival['early-bytes']:#x} bytes mapped before",
                     f"{arrival['late-bytes']:#x} after",
                     f"waited for {arrival['downtime-us']} us"):
            self.assertIn(text, row["message"])

    def test_dirty_ring(self):
        """A destination with dirty rings."""
        self.check_arrival("live-dirty-ring")

    def test_wait_off(self):
        """The guest does not wait, and need not."""
        self.check_arrival("live-wait-off")

    def test_slot_zap_all(self):
        """Slots that change while the state is loaded unmap everything: mapped again."""
        self.check_late("live-slot-zap-all")

    def test_method_vcpu(self):
        """vCPUs are borrowed before their state has arrived."""
        self.check_arrival("live-method-vcpu-6.12")
        self.check_late("live-method-vcpu-6.1")

    def test_patched(self):
        """Patched KVM."""
        self.check_arrival("live-6.12-patched")
        self.check_late("live-6.1-patched")

    def test_longterm(self):
        """Pinned at the destination before the guest arrives."""
        self.check_arrival("live-longterm")

    def test_cpr_transfer(self):
        """Memory is handed over at once: nothing can be mapped before."""
        self.check_late("cpr-transfer")

    def test_file(self):
        """mapped-ram, read by one thread or several; cpr-reboot."""
        for kind in ("mapped-ram", "mapped-ram-multifd", "cpr-reboot"):
            self.check_arrival(f"file-{kind}")

    def test_background_snapshot(self):
        """Unmaps what it protects; mapped again when it has ended."""
        row = self.check_last("background-snapshot", ("boot", "background snapshot"))
        self.assertEqual(row["query"]["mapped"], row["query_before"]["mapped"])
        self.assertIn("background snapshot", row["refused"])
        self.assertEqual(row["query_during"]["state"], "partial")
        self.assertIn("background snapshot", " ".join(row["query_during"]["reasons"]))

    def test_postcopy_refused(self):
        """Also for RAM that is only locked or pinned."""
        for pin in ("mlock", "longterm"):
            self.check_postcopy(f"postcopy-refused-{pin}", f"pin-ram={pin}")

    def test_postcopy_announced(self):
        """The source's wish ends the destination before RAM is sent; the guest lives."""
        row = self.check_last("postcopy-announced", ())
        self.assertEqual(row["exit_status"], 1)
        self.assertIn("postcopy is disabled", row["message"])

    def test_postcopy_out(self):
        """Nothing speaks against it at the source."""
        row = self.row("postcopy-out")
        self.assertTrue(row["booted"])
        self.assertEqual(row["message"], "")


class Upstream(MigrationTest):
    """
    :avocado: enable
    """

    group = "migration-upstream"

    def check_same(self, name: str) -> Row:
        row = self.row(name)
        self.assertTrue(row["booted"], f"{name}: did not power off properly")
        return row

    def test_from_upstream(self):
        """From the unchanged QEMU to the fork, prefault off and on."""
        for machine in ("pc", "q35"):
            self.assertEqual(self.check_same(f"upstream-to-stock-{machine}")["query"]["state"],
                             "off")
            self.check_arrival(f"upstream-to-prefault-{machine}")

    def test_to_upstream(self):
        """And back."""
        for machine in ("pc", "q35"):
            for config in ("stock", "prefault"):
                self.assertIsNone(self.check_same(f"{config}-to-upstream-{machine}")["query"])
