# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of scripts/report have in common."""

import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

import fixtures
from pageparser import Page
from report import gnuplot

ROOT = Path(__file__).resolve().parent.parent.parent.parent
REPORT = ROOT / "scripts" / "report"
TIMEOUT = 120

# What must not get out of its place, in HTML, in gnuplot's commands and in SVG.
EVIL = ("<script>alert(1)</script></svg></style>\"'&amp;]]>-->'; system 'touch {0}'; set label '"
        "\n`touch {0}` %s%n @{{/Symbol a}}\x00\x1b[31m\u202e\ud800")


def spoiled(target: Path) -> dict[str, Any]:
    """The complete set, and in each text of it something evil that would make this file."""
    evil = EVIL.format(target)

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoil(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return f"{value}{evil}" if isinstance(value, str) else value
    whole: dict[str, Any] = spoil(fixtures.complete())
    return whole


class ReportTest(unittest.TestCase):
    """Each test has a directory of result files."""

    def setUp(self) -> None:
        # pylint: disable=consider-using-with
        if not gnuplot.GNUPLOT.exists():
            self.skipTest("gnuplot is not installed: run 'scripts/deps install'")
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        self.results = self.scratch / "results"
        self.output = self.scratch / "made" / "index.html"

    def run_report(self, *args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([str(REPORT), "--results", str(self.results), "--output",
                               str(self.output), *args], capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)

    def page(self, files: dict[str, Any], status: int = 0) -> Page:
        """The page of these files; its markup is checked."""
        fixtures.write(self.results, files)
        result = self.run_report()
        self.assertEqual(result.returncode, status, result.stderr)
        self.errors = result.stderr
        page = Page(self.output.read_text(encoding="utf-8"))
        self.assertEqual(page.mistakes, [])
        return page
