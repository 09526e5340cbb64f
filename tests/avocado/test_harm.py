# SPDX-License-Identifier: GPL-2.0-or-later
"""Prefault must never harm its guest."""

from harmchecks import HarmTest


class Harm(HarmTest):
    """
    :avocado: enable
    """

    group = "harm"

    def test_cpus_toggled(self):
        """An INIT that arrives while a vCPU visits SMM is not lost."""
        self.check_toggled("harm-cpus-toggled-ioctl", 8)

    def test_dimm_near_the_end(self):
        """No vCPU maps a DIMM before its host pages are there: nothing is lost afterwards."""
        row = self.check_events("harm-dimm")
        self.assertEqual(row["query"]["repopulations"]["lost"], 0, row["events"])
        for step in self.steps(row).values():
            if "plugged_at" in step:
                self.assertEqual((step["state"], step["missing_kib"]), ("ready", 0), step)

    def test_obsolete_roots(self):
        """Of all vCPUs, one of which has never run."""
        self.check_obsolete("harm-obsolete-roots")

    def test_balloon_after_giving_up(self):
        """prefault=auto that is not possible leaves the balloon alone."""
        row = self.row("harm-gives-up-balloon")
        self.assertTrue(row["booted"])
        self.assertEqual(row["query"]["state"], "failed")
        self.assertIn("memory", " ".join(row["query"]["reasons"]))
        before, after = row["resident_mib"]
        self.assertEqual(row["balloon_mib"], row["mem_mib"] // 2)
        # most of what is in the balloon had been touched
        self.assertLess(after, before - row["balloon_mib"] // 2,
                        "the host did not get back what the balloon took")

    def test_pins_after_giving_up(self):
        """prefault=auto that is not possible stays failed when memory has been locked."""
        row = self.row("harm-gives-up-pinned")
        self.assertTrue(row["booted"])
        self.assertEqual(row["query"]["pinned-bytes"], row["mem_mib"] << 20)
        self.assertEqual(row["states"], ["failed"] * 3, row["query"]["reasons"])
        self.assertIn("KVM_PRE_FAULT_MEMORY", " ".join(row["query"]["reasons"]))

    def test_poisoned(self):
        """A page whose memory has failed, 4 KiB pages."""
        self.check_poisoned("harm-poisoned-4k")

    def test_held_for_dirty_log(self):
        """The pass after a cancelled migration."""
        self.check_held("harm-held-dirty-log", "dirty logging ends")

    def test_held_for_virtio_mem(self):
        """Memory that the guest plugs."""
        self.check_held("harm-held-virtio-mem", "virtio-mem plugs")
