# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold when memory comes and goes."""

from labtest import LabTest, Row

# What the scenario virtio_mem has plugged, MiB.
SIZES = {"virtio-mem: 128 MiB plugged under load": 128, "virtio-mem: 256 MiB plugged": 256,
         "virtio-mem: unplugged to 64 MiB": 64, "virtio-mem: system_reset": 64,
         "virtio-mem: all unplugged": 0}


class HotplugTest(LabTest):
    """Checks on the steps of the scenarios in agent/scenarios/hotplug.py."""

    shared_file = "lifecycle.json"

    def check_sizes(self, name: str, plugged: dict[str, int]) -> Row:
        """No fault; at each event that much more than at boot is there, mapped, locked."""
        row = self.check_events(name)
        base = row["mem_mib"]
        spaces = row["query"]["host"]["address-spaces"]
        for step in row["events"]:
            if (more := plugged.get(step["event"])) is None:
                continue
            where = f"{name}: {step}"
            self.assertEqual(step["total_mib"], (base + more) * spaces, where)
            self.assertEqual(step["populated_mib"], step["total_mib"], where)
            self.assertEqual(step["pinned_mib"], base + more, where)
            self.assertEqual(step["locked_mib"], base + more, where)
        self.assertLessEqual(set(plugged), {step["event"] for step in row["events"]})
        return row

    def check_faults(self, name: str, event: str, at_least: int) -> None:
        """Without prefault the same event faults, where we say that it does not."""
        row = self.row(name)
        found = {step["event"]: step["ram_faults"] for step in row["events"]}
        self.assertGreater(found[event], at_least, found)
