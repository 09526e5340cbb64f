# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory and CPUs that come and go: no RAM fault, and nothing stays behind."""

from hotplugchecks import SIZES, HotplugTest


class Hotplug(HotplugTest):
    """
    :avocado: enable
    """

    group = "hotplug"

    def test_dimm(self):
        """A DIMM is populated before the guest hears of it; locks go with it."""
        row = self.check_sizes("dimm-pc", {"DIMM plugged under load": 128,
                                           "DIMM unplugged under load": 0})
        self.assertEqual(row["query"]["pauses"]["count"], 0, "the guest must not be held")

    def test_virtio_mem(self):
        """What is plugged is mapped and locked, what is unplugged is neither, nor allocated."""
        row = self.check_sizes("virtio-mem-q35", SIZES)
        resident = {step["event"]: step["resident_mib"] for step in row["events"]
                    if "resident_mib" in step}
        self.assertLess(resident["virtio-mem: unplugged to 64 MiB"],
                        resident["virtio-mem: 256 MiB plugged"] - 180, resident)
        self.assertLess(resident["virtio-mem: all unplugged"],
                        resident["virtio-mem: system_reset"] - 60, resident)

    def test_balloon(self):
        """A balloon gives nothing back, the query says so, and no mapping is lost."""
        row = self.check_sizes("balloon", {"balloon inflated": 0, "balloon deflated": 0})
        self.assertIn("virtio-balloon gives no memory back", " ".join(row["query"]["reasons"]))
        self.assertIn("virtio-balloon gives no memory back", row["message"])

    def test_cpu(self):
        """A vCPU that comes later finds everything mapped, in both address spaces."""
        row = self.check_events("cpu-plug-ioctl")
        self.assertEqual(row["cpus"], 2)
