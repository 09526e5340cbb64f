# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor while population runs, and what is refused at start-up."""

from labtest import LabTest, Row
from momentchecks import MomentChecks


# Of a page fault's error code.
FETCH = 1 << 4


class Control(MomentChecks):
    """
    :avocado: enable
    """

    group = "control"

    def test_progress(self):
        """QMP answers while the guest waits; progress rises; the guest is silent."""
        row = self.row("progress")
        samples = row["samples"]
        self.assertTrue(row["booted"])
        self.assertEqual(samples[-1]["state"], "ready", samples[-1])
        self.assertTrue(row["silent_until_ready"])
        self.assertLess(row["slowest_answer_ms"], 2000)
        waiting = [s["populated"] + s["host"] for s in samples
                   if s["state"] == "populating"]
        self.assertGreaterEqual(len(set(waiting)), 3, f"no progress seen: {samples}")
        self.assertEqual(waiting, sorted(waiting))
        self.check_zero(row)

    def test_events(self):
        """KVM_PREFAULT_STATUS ends with ready and everything populated."""
        last = self.row("progress")["status_events"][-1]
        self.assertEqual(last["state"], "ready")
        self.assertEqual(last["populated-bytes"], last["total-bytes"])

    def test_quit(self):
        """quit ends QEMU while the guest waits."""
        self.check_end("quit-early")

    def test_sigterm(self):
        """SIGTERM ends QEMU while the guest waits."""
        self.check_end("sigterm-early")

    def test_moments(self):
        """prefault-wait=off: SIGTERM, and a migration that is cancelled, half-way."""
        self.check_moments("moments")

    def check_end(self, name: str) -> None:
        row = self.row(name)
        self.assertEqual(row["state_before"], "populating",
                         "population was over too early for this test")
        self.assertEqual(row["exit_status"], 0)
        self.assertLess(row["end_seconds"], 20)

    def test_nowait(self):
        """prefault-wait=off reaches ready; no faults after that."""
        row = self.row("nowait")
        steps = {step["event"]: step["ram_faults"] for step in row["events"]}
        self.check_ready(row["ready"])
        self.assertFalse(row["ready"]["wait"])
        self.assertEqual(steps["after ready"], 0, row.get("fault_samples"))

    def test_auto(self):
        """prefault=auto does all of it where the host can."""
        row = self.check_boot("auto")
        self.assertEqual(row["query"]["mode"], "auto")
        self.assertEqual(row["query"]["mtrr-zap"], "none", "Linux 6.11 has no such zaps")
        self.assertEqual(row["query"]["host"]["mtrr-zap"], "obsolete")

    def test_monitor(self):
        """The command populates again with an event; HMP says the same."""
        row = self.check_boot("monitor")
        self.assertEqual(row["answer"], {"return": {}})
        self.assertEqual(row["query"]["repopulations"]["command"],
                         row["before"]["repopulations"]["command"] + 1)
        self.assertIn("ready", [event["state"] for event in row["status_events"]])
        self.assertIn("ready", row["hmp"])
        self.assertIn("256.00 MiB", row["hmp"])


class Refusals(LabTest):
    """
    :avocado: enable
    """

    group = "refusals"

    def test_memlock(self):
        """prefault=on with a small RLIMIT_MEMLOCK: needed, allowed, remedy."""
        row = self.check_refused("memlock-too-small", "'pin-ram", "67108864", "ulimit -l")
        self.assertRegex(row["message"], r"26\d{7}|27\d{7}")

    def test_pin_ram(self):
        """pin-ram=mlock alone with a small RLIMIT_MEMLOCK."""
        self.check_refused("pin-ram-too-small", "'pin-ram=mlock'", "67108864", "ulimit -l")

    def test_pin_longterm(self):
        """pin-ram=longterm: huge pages count against the limit as well."""
        self.check_refused("pin-longterm-too-small", "'pin-ram=longterm' needs 268435456",
                           "VmPin", "67108864", "ulimit -l 262144")

    def test_memory(self):
        """Less free host memory than the guest has."""
        self.check_refused("memory-too-small", "'prefault=on'", "512 MiB", "Free memory")

    def test_huge_pages(self):
        """Fewer free huge pages than the guest needs."""
        self.check_refused("huge-pages-too-few", "'prefault=on'", "2048 KiB", "128 MiB",
                           "nr_hugepages")

    def test_huge_pages_not_reserved(self):
        """With the backend's reserve=on, its own check comes first."""
        self.check_refused("huge-pages-not-reserved", "Cannot allocate memory")

    def test_auto_memlock(self):
        """prefault=auto: populated but not locked, and the query says why."""
        info = self.check_auto("auto-memlock", "67108864")["query"]
        self.assertEqual(info["pinned-bytes"], 0)
        self.assertEqual(info["pin-ram"], "off")

    def check_auto(self, name: str, word: str) -> Row:
        row = self.row(name)
        self.assertTrue(row["booted"])
        self.assertIn(word, " ".join(row["query"]["reasons"]))
        return row

    def test_threads(self):
        """More threads than vCPUs."""
        self.check_refused("threads-too-many", "'prefault-threads'", "3", "0", "2")


class Failures(LabTest):
    """
    :avocado: enable
    """

    group = "failures"
    where = "KVM_PRE_FAULT_MEMORY at 0x8000000"
    refusal = ("'prefault=on'", where, "Input/output error", "prefault=auto")

    def check_partial(self, row: Row) -> None:
        """Half of the RAM is populated, the query says why, the guest lives."""
        info = row["query"]
        self.assertTrue(row["booted"])
        self.assertEqual(info["state"], "partial", info)
        self.assertIn(self.where, " ".join(info["reasons"]))
        self.assertLessEqual(len(info["reasons"]), 2, "one per address space")
        self.assertLess(info["populated-bytes"], info["total-bytes"])

    def test_at_start(self):
        """prefault=on: an ioctl that fails in the middle of the first pass."""
        self.check_refusal("fails-at-start", *self.refusal)

    def test_at_destination(self):
        """The same before the guest has arrived: its source still has it."""
        self.check_refusal("fails-incoming", *self.refusal)

    def test_auto(self):
        """prefault=auto: one warning, the guest runs, the query says why."""
        row = self.row("fails-in-auto")
        self.check_partial(row)
        self.assertEqual(row["message"].count("not completely populated"), 1)

    def test_later(self):
        """prefault=on, guest running: partial and an event; the next pass heals it."""
        row = self.row("fails-later")
        self.check_partial(row)
        self.assertEqual(row["event"]["state"], "partial")
        self.assertEqual(row["healed"]["state"], "ready")
        self.assertEqual([step["ram_faults"] for step in row["events"]], [0, 0])

    def test_after_migration(self):
        """The guest has arrived and lives on: its source is gone."""
        self.check_partial(self.row("fails-after-migration"))


class NxHugePages(LabTest):
    """
    :avocado: enable
    """

    group = "nx-huge-pages"

    def test_reported(self):
        """What is left to fault is said beforehand, and counted like everything else."""
        row = self.row("nx-huge-pages")
        self.assertTrue(row["booted"])
        self.assertTrue(row["query"]["host"]["nx-huge-pages"])
        self.assertIn("nx_huge_pages", " ".join(row["query"]["reasons"]))
        if row["ram_faults_at_query"] is None:
            self.cancel("RAM faults cannot be counted: tracefs needs root")
        self.assertGreater(row["ram_faults_at_query"], 0, "nx_huge_pages had no effect")
        self.assertEqual(row["faults_since_ready"], row["ram_faults_at_query"])
        for sample in row["fault_samples"]:
            code = int(sample.split("error ")[1].split()[0], 16)
            self.assertTrue(code & FETCH, f"not an instruction fetch: {sample}")


class NoTdp(LabTest):
    """
    :avocado: enable
    """

    group = "no-tdp"

    def test_on(self):
        """prefault=on without second-level tables names what is missing."""
        self.check_refused("no-tdp-on", "'prefault=on'", "KVM_PRE_FAULT_MEMORY", "npt=1")

    def test_auto(self):
        """prefault=auto starts there; the query says why nothing is populated."""
        self.check_without_ioctl("no-tdp-auto")
