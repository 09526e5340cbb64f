# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor while gigabytes are populated, and many moments to disturb that."""

from framework import host, results
from labtest import Row
from momentchecks import MomentChecks


class LargeControl(MomentChecks):
    """
    :avocado: enable
    """

    group = "control-full"

    def test_wait_on(self):
        """8 GiB, and the guest waits."""
        self.check_responsive("responsive-on", wait=True)

    def test_wait_off(self):
        """8 GiB beside a guest that runs at once."""
        self.check_responsive("responsive-off", wait=False)

    def test_moments(self):
        """Each way at each moment, of a population that the guest waits for or not."""
        for wait in ("on", "off"):
            self.check_moments(f"moments-full-{wait}")

    def keep_results(self, outcomes: list[host.Outcome], rows: dict[str, Row]) -> None:
        """How long answers took, for who wants to compare: no test asserts a time."""
        found = [{"name": name, "config": "prefault", "mem_mib": row["mem_mib"],
                  "polls": row["polls"], "answer_ms": row["answer_ms"],
                  "populate_ms": row["query"]["duration-us"] / 1000}
                 for name, row in rows.items() if "answer_ms" in row]
        if outcomes:
            results.merge(self.setup.results / "responsive.json", outcomes[0].host, found,
                          ("name",))
