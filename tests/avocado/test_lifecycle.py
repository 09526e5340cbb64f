# SPDX-License-Identifier: GPL-2.0-or-later
"""No RAM fault after anything that drops mappings in a guest's life."""

from labtest import LabTest


class Lifecycle(LabTest):
    """
    :avocado: enable
    """

    group = "lifecycle"
    shared_file = "lifecycle.json"

    def test_reset_pc(self):
        """system_reset, also twice in a row."""
        self.check_events("reset-pc")

    def test_reset_q35(self):
        """system_reset on q35, also twice in a row."""
        self.check_events("reset-q35")

    def test_reboot(self):
        """The guest's own reboot."""
        self.check_events("reboot-pc")

    def test_stop_cont(self):
        """stop and cont; kvm-prefault while stopped is accepted."""
        row = self.check_events("stop_cont-pc")
        self.assertFalse(row["events"][2]["refused"])

    def test_suspend_pc(self):
        """Suspend to RAM and wake-up: memory is intact and mapped."""
        self.check_events("suspend-pc")

    def test_suspend_q35(self):
        """Suspend to RAM and wake-up on q35."""
        self.check_events("suspend-q35")

    def test_smi(self):
        """System management interrupts at run time and after a reset."""
        self.check_events("smi-q35")

    def test_stock_faults_again(self):
        """Without prefault each reset costs hundreds of faults: the marks work."""
        row = self.row("reset-stock")
        steps = {step["event"]: step["ram_faults"] for step in row["events"]}
        self.assertGreater(steps["boot"], 100)
        self.assertGreater(steps["system_reset"], 100)


class Migration(LabTest):
    """
    :avocado: enable
    """

    group = "migration"
    shared_file = "lifecycle.json"

    def check_last(self, name: str, events: tuple[str, ...]) -> None:
        """Dirty logging faults by design; what follows it must not."""
        row = self.row(name)
        self.assertTrue(row["booted"], f"{name}: did not power off properly")
        steps = {step["event"]: step["ram_faults"] for step in row["events"]}
        for event in events:
            samples = "\n".join(row.get("fault_samples", []))
            self.assertEqual(steps[event], 0, f"{name}: {event}: {steps}\n{samples}")
        self.check_ready(row["query"])

    def test_snapshot(self):
        """loadvm: memory is as it was and mapped again before the guest goes on."""
        self.check_last("snapshot-pc", ("boot", "loadvm"))

    def test_incoming_pc(self):
        """Incoming migration, then cont."""
        self.check_last("migrate-pc", ("boot", "incoming, cont"))

    def test_incoming_q35(self):
        """Incoming migration on q35, then cont."""
        self.check_last("migrate-q35", ("boot", "incoming, cont"))

    def test_cancelled(self):
        """A cancelled migration ends dirty logging; mappings are writable again."""
        self.check_last("dirty_log-pc", ("boot", "after a cancelled migration"))

    def test_from_stock(self):
        """A stream of a guest without prefault comes in and is populated."""
        self.check_last("migrate-from-stock", ("incoming, cont",))

    def test_to_stock(self):
        """A stream of a prefault guest is accepted without it."""
        row = self.row("migrate-to-stock")
        self.assertTrue(row["booted"])
        self.assertEqual(row["query"]["state"], "off")
