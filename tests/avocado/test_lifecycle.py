# SPDX-License-Identifier: GPL-2.0-or-later
"""No RAM fault after anything that drops mappings in a guest's life."""

from labtest import LabTest
from migrationchecks import PHASES, STOPPED_PHASES, MigrationTest


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

    def check_suspend(self, name: str) -> None:
        """No fault; a wake-up is counted as one, and a reset of a sleeping guest as a reset."""
        row = self.check_events(name)
        awake, after, *more = (step["passes"] for step in row["events"] if "passes" in step)
        self.assertEqual((awake["wakeup"], awake["reset"]), (1, 0), row["events"])
        self.assertGreater(after["reset"], 0)
        self.assertEqual([(asleep["wakeup"], asleep["reset"]) for asleep in more],
                         [(1, after["reset"] + 1)] if row["machine"] == "pc" else [],
                         row["events"])

    def test_suspend_pc(self):
        """Suspend to RAM and wake-up: memory is intact and mapped."""
        self.check_suspend("suspend-pc")

    def test_suspend_q35(self):
        """Suspend to RAM and wake-up on q35."""
        self.check_suspend("suspend-q35")

    def test_smi(self):
        """System management interrupts at run time and after a reset."""
        self.check_events("smi-q35")

    def test_flat_view(self):
        """Slots of RAM above 1 MiB are made once, and nobody but KVM sees that."""
        row = self.row("flat-view")
        for machine, (stock, prefault) in [*row["stopped"].items(), *row["booted"].items()]:
            self.assertEqual(stock, prefault, machine)
            self.assertRegex("".join(stock), r"ram\): (pc\.ram|mem) .*KVM", machine)
        for machine, (stock, prefault) in row["slots"].items():
            stock, prefault = ([(slot["as_id"], slot["gpa"]) for slot in slots
                                if slot["gpa"] >= 1 << 20] for slots in (stock, prefault))
            self.assertGreater(len(stock), len(set(stock)), "firmware has changed nothing")
            self.assertEqual(len(prefault), len(set(prefault)), f"made anew: {prefault}")
            self.assertGreater(len(prefault), 2 * len(set(stock)), "RAM is not in units")

    def test_stock_faults_again(self):
        """Without prefault each reset costs hundreds of faults: the marks work."""
        row = self.row("reset-stock")
        steps = {step["event"]: step["ram_faults"] for step in row["events"]}
        self.assertGreater(steps["boot"], 100)
        self.assertGreater(steps["system_reset"], 100)


class Migration(MigrationTest):
    """
    :avocado: enable
    """

    group = "migration"

    def test_snapshot(self):
        """savevm and loadvm: memory is as it was and mapped again before the guest goes on."""
        row = self.check_last("snapshot-pc", ("boot", "savevm", "loadvm"))
        arrival = row["query"]["incoming"]
        self.assertEqual((arrival["early-bytes"], arrival["late-bytes"]),
                         (0, row["query"]["total-bytes"]))

    def test_incoming_pc(self):
        """Incoming migration, then cont."""
        self.check_last("migrate-pc", ("boot",))
        self.check_arrival("migrate-pc")

    def test_incoming_q35(self):
        """Incoming migration on q35, then cont."""
        self.check_last("migrate-q35", ("boot",))
        self.check_arrival("migrate-q35")

    def test_incoming_live(self):
        """Multifd through a socket into a guest that starts by itself, two vCPUs, 4 KiB pages."""
        self.check_arrival("live-multifd-smp")

    def test_cancelled(self):
        """A cancelled migration ends dirty logging; mappings are writable again."""
        self.check_last("dirty_log-pc", ("boot", "after a cancelled migration"))

    def test_source_fails(self):
        """In each phase: mappings and page sizes are as before."""
        steps = self.check_source("source-fails-pc", *PHASES)
        for phase in STOPPED_PHASES:
            self.assertIn(f"{phase}: before", steps, "the guest was not stopped in this phase")

    def test_postcopy_refused(self):
        """At the destination, by name and when the source asks for it."""
        self.check_postcopy("postcopy-refused", "prefault=on")

    def test_from_stock(self):
        """A stream of a guest without prefault comes in and is populated."""
        self.check_arrival("migrate-from-stock")

    def test_to_stock(self):
        """A stream of a prefault guest is accepted without it."""
        row = self.row("migrate-to-stock")
        self.assertTrue(row["booted"])
        self.assertEqual(row["query"]["state"], "off")
