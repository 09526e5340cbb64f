# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured over a guest's memory and time is what it is said to be."""

from labtest import LabTest, Row

CONFIGS = ("stock", "prealloc", "prefault")
ACCESSES = ("write", "read")
ORDER = ("p50_ns", "p99_ns", "p999_ns", "max_ns")
PAGES_PER_MIB = 256


class Latency(LabTest):
    """
    :avocado: enable
    """

    group = "latency-quick"

    def measured(self, host_page_kib: int) -> dict[tuple[str, str], Row]:
        """By configuration and kind of access, all of them."""
        row = self.row(f"latency-quick-{host_page_kib}k")
        found = {(one["config"], one["access"]): one for one in row["latencies"]}
        self.assertEqual(set(found), {(c, a) for c in CONFIGS for a in ACCESSES})
        return found

    def pages(self) -> int:
        """How many pages of 4 KiB each guest accesses in each way."""
        return self.runs[0]["options"]["mib"] * PAGES_PER_MIB

    def check_samples(self, one: Row) -> None:
        """One sample per page and round, times that are in order, a whole histogram."""
        self.assertEqual(one["samples"], self.pages() * self.runs[0]["options"]["rounds"])
        for times in (one, one["again"], *one["rounds"]):
            values = [times[name] for name in ORDER]
            self.assertEqual(values, sorted(values), one["config"])
            self.assertGreater(values[0], 0)
        uppers = [upper for upper, _count in one["histogram"]]
        self.assertEqual(uppers, sorted(set(uppers)))
        self.assertEqual(sum(count for _upper, count in one["histogram"]), one["samples"])
        self.assertGreaterEqual(uppers[-1], one["max_ns"])

    def faults(self, host_page_kib: int, config: str, name: str = "page_faults") -> list[int]:
        """One number per kind of access."""
        found = self.measured(host_page_kib)
        counts = [found[config, access][name] for access in ACCESSES]
        if None in counts:
            self.cancel("RAM faults cannot be counted: tracefs needs root")
        return counts

    def test_samples(self):
        """Every page has been timed, and the percentiles fit together."""
        for host_page_kib in (4, 2048):
            for one in self.measured(host_page_kib).values():
                self.assertEqual(one["host_page_kib"], host_page_kib)
                self.check_samples(one)

    def test_stock_4k(self):
        """Each page faults at its first access: that is what the times are of."""
        for count in self.faults(4, "stock"):
            self.assertGreaterEqual(count, self.pages())

    def test_prealloc_4k(self):
        """Preallocated pages fault as well; they are only not zeroed then."""
        for count in self.faults(4, "prealloc"):
            self.assertGreaterEqual(count, self.pages())

    def test_stock_2m(self):
        """One fault per 2 MiB, and few more."""
        huge = self.runs[0]["options"]["mib"] // 2
        for count in self.faults(2048, "stock"):
            self.assertGreaterEqual(count, huge)
            self.assertLess(count, self.pages() // 4)

    def test_prefault(self):
        """Not one fault on any RAM of the guest while it is measured."""
        for host_page_kib in (4, 2048):
            for name in ("page_faults", "ram_faults"):
                self.assertEqual(self.faults(host_page_kib, "prefault", name), [0, 0])


class Timeline(LabTest):
    """
    :avocado: enable
    """

    group = "timeline-quick"

    def curve(self, name: str) -> Row:
        """A run whose curve begins at nothing, never falls, and ends at all faults."""
        row = self.row(f"timeline-quick-{name}")
        self.assertTrue(row["booted"], f"{name}: did not power off properly")
        points = row["faults"]
        self.assertEqual(points[0], [0, 0])
        self.assertEqual(points, sorted(points))
        counts = [count for _seconds, count in points]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], row["ram_faults"])
        return row

    def test_phases(self):
        """Firmware, Linux's start, the touch of memory and the end follow each other."""
        for name in ("stock", "prefault", "naive"):
            phases = self.curve(name)["phases"]
            self.assertEqual(list(phases), ["firmware_end", "linux_init", "touched", "end"])
            values = list(phases.values())
            self.assertEqual(values, sorted(values), name)
            self.assertGreater(values[0], 0, name)

    def test_prefault(self):
        """Its curve stays at nothing."""
        self.assertEqual(self.curve("prefault")["ram_faults"], 0)

    def test_naive(self):
        """The ioctl alone, once, populates all slots and makes it much worse."""
        stock, naive = self.curve("stock"), self.curve("naive")
        self.assertGreaterEqual(naive["naive_bytes"], naive["mem_mib"] << 20)
        self.assertGreater(stock["ram_faults"], 100)
        self.assertGreater(naive["ram_faults"], 5 * stock["ram_faults"])
