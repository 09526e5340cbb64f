# SPDX-License-Identifier: GPL-2.0-or-later
"""prefault-method=vcpu: vCPUs touch memory, on KVMs without KVM_PRE_FAULT_MEMORY too."""

from vcpuchecks import VcpuChecks

RUNNABLE, UNINITIALIZED = 0, 1


class Vcpu(VcpuChecks):
    """
    :avocado: enable
    """

    group = "vcpu"

    def test_6_1(self):
        """Stock Linux 6.1, prefault-method=auto: no fault from the end of firmware on."""
        row = self.check_os("vcpu-6.1-prefault", "6.1")
        self.assertFalse(row["query"]["host"]["pre-fault-memory"])

    def test_6_1_firmware(self):
        """There firmware takes no more faults than without prefault."""
        stock, row = self.row("vcpu-6.1-stock"), self.row("vcpu-6.1-prefault")
        self.assertEqual((stock["lab"], stock["kvm_module"], stock["kvm"]),
                         ("npt", "kvm_amd", "stock"))
        self.assertTrue(stock["booted"])
        self.assertGreater(stock["ram_faults_os"], 50)
        self.assertEqual(stock["stub_touches"], 0)
        self.assertLessEqual(row["ram_faults"], stock["ram_faults"])
        self.assertGreater(row["stub_touches"], 0)

    def test_6_1_repopulations(self):
        """slot-zap=all is reported, and how often and how long the guest was held for it."""
        info = self.row("vcpu-6.1-prefault")["query"]
        self.assertEqual(info["slot-zap"], "all")
        causes, pauses = info["repopulations"], info["pauses"]
        self.assertGreater(causes["zap-all"], 0)
        self.assertLessEqual(causes["zap-all"], causes["slots"])
        self.assertGreaterEqual(pauses["count"], causes["zap-all"])
        self.assertGreaterEqual(pauses["total-us"], pauses["max-us"])

    def test_6_12(self):
        """Linux 6.12, asked for: not one fault from the first instruction on."""
        self.check_method("vcpu-6.12-q35-4k", "6.12")
        self.check_boot("vcpu-6.12-q35-4k")

    def test_486(self):
        """A CPU without PAE is refused."""
        self.check_refused("vcpu-486", "'prefault-method=vcpu'", "PAE", "486")

    def test_state(self):
        """One vCPU, 64 bits, Linux."""
        row = self.check_state("vcpu-state-1", "6.1", 1)
        self.assertTrue(row["booted"])
        self.assertEqual({r["as-id"] for r in row["query"]["ranges"]}, {0, 1})

    def test_state_32_bit(self):
        """Two vCPUs of a 32-bit model; one waits for its start-up IPI."""
        row = self.check_state("vcpu-state-2-qemu32", "6.1", 2)
        self.assertIn(UNINITIALIZED, row["mp_states"])

    def test_state_above_4g(self):
        """Four vCPUs at a time, none of them reset by KVM; half of the RAM above 4 GiB."""
        row = self.check_state("vcpu-state-4-above-4g", "6.1", 4)
        self.assertEqual(row["query"]["threads"], 4)
        above = [r for r in row["query"]["ranges"] if r["ram"] and r["gpa"] >= 1 << 32]
        spaces = {r["as-id"] for r in above}
        self.assertEqual([sum(r["populated"] for r in above if r["as-id"] == space)
                          for space in spaces], [32 << 20] * len(spaces))

    def test_state_is_compared(self):
        """A register and a byte that are changed on purpose are found."""
        found = " ".join(self.row("vcpu-state-spoiled")["differences"])
        self.assertIn("regs at byte", found)
        self.assertIn("difference ram", found)
