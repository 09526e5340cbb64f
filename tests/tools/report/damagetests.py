# SPDX-License-Identifier: GPL-2.0-or-later
"""Result files that cannot be shown."""

from pathlib import Path
from typing import Any
from unittest import mock

import fixtures
from pageparser import Page
from report import gnuplot, main as report_main
from reporttest import ReportTest

# Content of a file, and words of the reason.
DAMAGES: dict[str, tuple[Any, str]] = {
    "half": ('{"host": {}, "runs": [', "is not JSON"),
    "list": ([1, 2], "must be an object with 'host' and 'runs'"),
    "no runs": ({"host": {}}, "has no list 'runs'"),
    "runs": ({"host": {}, "runs": 5}, "'runs' is 5, must be a list"),
    "host": ({"host": "npt", "runs": []}, "'host' is 'npt', must be an object"),
    "run": ({"runs": [{}, "x"]}, "run 2 is 'x', must be an object"),
    "text": ({"runs": [{"config": "stock", "ram_faults": "many"}]},
             "run 1: 'ram_faults' is 'many', must be a number"),
    "negative": ({"runs": [{"ram_faults": -1}]}, "'ram_faults' is -1, must be a number"),
    "boolean": ({"runs": [{"ram_faults": True}]}, "'ram_faults' is True, must be a number"),
    "NaN": ('{"runs": [{"ram_faults": NaN}]}', "has NaN"),
    "large": ('{"runs": [{"ram_faults": 1e999}]}', "'ram_faults' is inf, must be a number"),
    "digits": ('{"runs": [{"ram_faults": ' + "9" * 5000 + "}]}", "is not JSON that Python reads"),
    "deep": ("[" * 100000, "is not JSON"),
    "points": ({"runs": [{"faults": [[1, 2], [3]]}]}, "'faults' is [[1, 2], [3]], must be"),
    "phases": ({"runs": [{"phases": {"end": "late"}}]}, "must be an object of numbers"),
    "config": ({"runs": [{"config": ["stock"]}]}, "'config' is ['stock'], must be a text"),
}


class Damaged(ReportTest):
    """A file is named with the reason, and the rest is made."""

    def check(self, words: str) -> None:
        page = Page(self.output.read_text(encoding="utf-8"))
        self.assertIn("damage", page.sections["timeline"].classes)
        self.assertIn(words, page.sections["timeline"].text)
        self.assertEqual(len(page.rows("boot")), 3)

    def test_content(self) -> None:
        for name, (content, words) in DAMAGES.items():
            with self.subTest(damage=name):
                self.page({"timeline.json": content, "boot.json": fixtures.complete()["boot.json"]},
                          status=1)
                self.assertEqual(self.errors.count("report: error:"), 1, self.errors)
                self.assertIn("timeline.json", self.errors)
                self.assertIn(words, self.errors)
                self.check(words)

    def test_bytes(self) -> None:
        fixtures.write(self.results, {"boot.json": fixtures.complete()["boot.json"]})
        (self.results / "timeline.json").write_bytes(b'{"runs": "\xff"}')
        self.assertEqual(self.run_report().returncode, 1)
        self.check("is not UTF-8: byte 10 is 0xff")

    def test_no_file(self) -> None:
        """A directory has its name."""
        fixtures.write(self.results, {"boot.json": fixtures.complete()["boot.json"]})
        (self.results / "timeline.json").mkdir()
        self.assertEqual(self.run_report().returncode, 1)
        self.check("cannot be read: Is a directory")

    def test_inside(self) -> None:
        """What no list of fields can tell."""
        support = [{**row, "accel": {"prefault-method": method}}
                   for row, method in zip(fixtures.support()[:2], ("ioctl", 5))]
        self.page({"support.json": {"host": {}, "runs": support}}, status=1)
        self.assertIn("support.json cannot be shown: TypeError", self.errors)

    def test_no_gnuplot(self) -> None:
        """Tables are made, charts are said to be missing."""
        fixtures.write(self.results, fixtures.complete())
        with mock.patch.object(gnuplot, "GNUPLOT", Path("/nonexistent/gnuplot")):
            page, damages = report_main.make_page(self.results, None)
        self.assertEqual(len(damages), 4)
        self.assertIn("the charts need package gnuplot-nox", damages[0])
        self.assertEqual(len(Page(page).rows("latency")), len(fixtures.latency()))
