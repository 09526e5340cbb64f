# SPDX-License-Identifier: GPL-2.0-or-later
"""More of what comes and goes, and the same without prefault."""

from hotplugchecks import SIZES, HotplugTest


class HotplugFull(HotplugTest):
    """
    :avocado: enable
    """

    group = "hotplug-full"

    def test_dimm_q35(self):
        """A DIMM on q35."""
        self.check_sizes("dimm-q35", {"DIMM plugged under load": 128,
                                      "DIMM unplugged under load": 0})

    def test_virtio_mem_pc(self):
        """virtio-mem with dynamic slots, a memfd of 4 KiB pages: neighbours stay mapped."""
        self.check_sizes("virtio-mem-slots", SIZES)

    def test_virtio_mem_longterm(self):
        """Blocks are pinned while they are plugged."""
        row = self.check_sizes("virtio-mem-longterm", SIZES)
        pinned = {step["event"]: step["vm_pin_mib"] for step in row["events"]
                  if "vm_pin_mib" in step}
        self.assertEqual(pinned, {event: row["mem_mib"] + mib for event, mib in SIZES.items()})

    def test_virtio_mem_refused(self):
        """More than may be locked is not plugged, and QEMU says why."""
        row = self.check_sizes("virtio-mem-refused", {"virtio-mem: plug refused": 0})
        step = next(s for s in row["events"] if s["event"] == "virtio-mem: plug refused")
        self.assertEqual(step["plugged_mib"], 0)
        self.assertIn("is not plugged", " ".join(row["query"]["reasons"]))
        for word in ("memory of 'vmem' is not plugged", "268435456", "201326592", "VmLck"):
            self.assertIn(word, row["message"])

    def test_migration(self):
        """virtio-mem's blocks arrive plugged, populated and locked, before the guest runs."""
        row = self.row("migrate-virtio-mem")
        self.assertTrue(row["booted"])
        steps = {step["event"]: step["ram_faults"] for step in row["events"]}
        self.assertEqual((steps["boot"], steps["incoming, cont"]), (0, 0), row.get("fault_samples"))
        self.check_ready(row["query"])
        self.assertEqual(row["query"]["pinned-bytes"], row["mem_mib"] + 128 << 20)

    def test_efi_variables(self):
        """Firmware writes to flash at run time."""
        self.check_events("efi-variables-pc-ovmf")

    def test_efi_variables_in_smm(self):
        """Firmware writes to flash in SMM, where nobody else can."""
        self.check_events("efi-variables-q35-ovmf-smm")

    def test_cpu_by_vcpu(self):
        """Method vcpu: a vCPU that comes later takes its part."""
        row = self.check_events("cpu-plug-vcpu")
        self.assertEqual(row["cpus"], 2)

    def test_bar(self):
        """RAM behind a PCI BAR that the guest switches off and on, as with VFIO."""
        row = self.check_events("bar-flip")
        self.assertEqual(row["events"][2]["all_faults"], 0, "RAM of the device included")

    def test_stock_dimm(self):
        """Without prefault a DIMM that is used faults: the steps count there as well."""
        self.check_faults("dimm-stock", "DIMM plugged under load", 20)

    def test_stock_virtio_mem(self):
        """Without prefault virtio-mem faults when it is used."""
        self.check_faults("virtio-mem-stock", "virtio-mem: 256 MiB plugged", 20)
