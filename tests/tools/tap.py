# SPDX-License-Identifier: GPL-2.0-or-later
"""unittest that prints TAP: one line per test, the reason of a failure in comments."""

import sys
import unittest


class Tap(unittest.TestResult):
    """Prints each test when it has ended."""

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        bad = [text for case, text in [*self.failures, *self.errors]
               if test.id() in str(case.id())]
        skips = [f" # SKIP {reason}" for case, reason in self.skipped if case is test]
        name = test.id().removeprefix("__main__.")
        print(f"{'not ok' if bad else 'ok'} {self.testsRun} {name}{''.join(skips)}")
        for line in "\n".join(bad).splitlines():
            print(f"# {line}")


def main() -> int:
    """Run all tests of the calling program; returns its exit status."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    result = Tap()
    suite.run(result)
    print(f"1..{result.testsRun}")
    return 0 if result.wasSuccessful() and result.testsRun else 1
