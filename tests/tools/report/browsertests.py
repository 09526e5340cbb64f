# SPDX-License-Identifier: GPL-2.0-or-later
"""The page in a real browser."""

import sys
from pathlib import Path

import browser
import fixtures
from reporttest import ReportTest, spoiled

SCREENSHOTS = Path(sys.argv[1]) if len(sys.argv) > 1 else None

# Texts of a chart that lie on each other or outside of it, and what cannot be read.
CHECK_CHARTS = """(() => {
    const bad = [], shown = [...document.querySelectorAll("figure svg")].filter(
        svg => svg.getBoundingClientRect().width);
    for (const svg of shown) {
        const name = svg.querySelector("title").id, outer = svg.getBoundingClientRect();
        const boxes = [...svg.querySelectorAll("text")].map(
            text => [text.textContent.trim(), text.getBoundingClientRect()]).filter(b => b[0]);
        const scale = outer.width / svg.viewBox.baseVal.width;
        for (const group of svg.querySelectorAll("[font-size]"))
            if (group.getAttribute("font-size") * scale < 11)
                bad.push(`${name}: letters of ${group.getAttribute("font-size") * scale} px`);
        boxes.forEach(([text, a], at) => {
            if (a.left < outer.left - 1 || a.right > outer.right + 1 || a.top < outer.top - 1
                || a.bottom > outer.bottom + 1) bad.push(`${name}: '${text}' is cut off`);
            for (const [other, b] of boxes.slice(at + 1))
                if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4
                    && b.top < a.bottom - 4) bad.push(`${name}: '${text}' is on '${other}'`);
        });
    }
    return [shown.length, bad];
})()"""

# The page must not scroll sideways, its tables may.
CHECK_WIDTH = """(() => {
    const page = document.documentElement, wide = [];
    for (const element of document.querySelectorAll("body *"))
        if (!element.closest(".scroll *, svg *")
            && element.getBoundingClientRect().right > innerWidth + 1)
            wide.push(element.tagName + " " + element.textContent.slice(0, 40));
    return [page.scrollWidth, innerWidth, wide];
})()"""


class InBrowser(ReportTest):
    """In a real one, as wide as a desk's screen and as narrow as a phone's."""

    def setUp(self) -> None:
        super().setUp()
        if not browser.program():
            self.skipTest("chromium is not installed: run 'scripts/deps install'")

    def look(self, chromium: browser.Browser, name: str, width: int, scheme: str) -> None:
        """Opens the page, asks it for what is wrong, and takes a picture."""
        chromium.open(self.output, width, 900, scheme)
        self.assertEqual(chromium.complaints(), [])
        fetched = [url for url in chromium.requests() if not url.startswith("data:")]
        self.assertEqual(fetched, [self.output.resolve().as_uri()])
        found, inner, wide = chromium.evaluate(CHECK_WIDTH)
        self.assertEqual((found, inner, wide), (width, width, []))
        png = chromium.screenshot()
        if SCREENSHOTS:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            (SCREENSHOTS / f"{name}-{width}-{scheme}.png").write_bytes(chromium.screenshot(True))
        self.assertGreater(chromium.colours(png), 20, "the page looks blank")

    def each(self, name: str, status: int, charts: int) -> None:
        result = self.run_report()
        self.assertEqual(result.returncode, status, result.stderr)
        papers = set()
        with browser.Browser() as chromium:
            for width in (1280, 375):
                for scheme in ("light", "dark"):
                    with self.subTest(width=width, scheme=scheme):
                        self.look(chromium, name, width, scheme)
                        self.assertEqual(chromium.evaluate(CHECK_CHARTS), [charts, []])
                        papers.add(chromium.evaluate(
                            "getComputedStyle(document.body).backgroundColor"))
        self.assertEqual(len(papers), 2, f"light and dark are not two: {papers}")

    def test_complete(self) -> None:
        fixtures.write(self.results, fixtures.complete())
        self.each("complete", 0, 11)

    def test_nothing(self) -> None:
        self.each("nothing", 0, 0)

    def test_hostile(self) -> None:
        """No text becomes a script; charts of such names need not be beautiful."""
        fixtures.write(self.results, spoiled(self.scratch / "touched"))
        self.assertEqual(self.run_report().returncode, 0)
        with browser.Browser() as chromium:
            for width in (1280, 375):
                self.look(chromium, "hostile", width, "light")

    def test_picture_of_readme(self) -> None:
        """Not blank, and its own paper is under it whatever page it is on."""
        fixtures.write(self.results, fixtures.complete())
        self.output = self.scratch / "picture.svg"
        self.assertEqual(self.run_report("--readme-chart", str(self.output)).returncode, 0)
        with browser.Browser() as chromium:
            for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")):
                chromium.open(self.output, 1280, 900, scheme)
                self.assertEqual(chromium.complaints(), [])
                self.assertEqual(chromium.evaluate(
                    "getComputedStyle(document.querySelector('.paper')).fill"), paper)
                self.assertGreater(chromium.colours(chromium.screenshot()), 20)

    def test_complains(self) -> None:
        """The checks themselves see a script error, a wide page and a fetch."""
        self.output.parent.mkdir(parents=True)
        self.output.write_text("<!DOCTYPE html><body><div style='width: 2000px'>x</div>"
                               "<script>missing()</script><img src='gone.png'>")
        with browser.Browser() as chromium:
            chromium.open(self.output, 1280, 900)
            self.assertIn("missing is not defined", " ".join(chromium.complaints()))
            self.assertEqual(len(chromium.requests()), 2)
            self.assertGreater(chromium.evaluate(CHECK_WIDTH)[0], 1280)
