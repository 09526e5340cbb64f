# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases that build on each other, as TAP: each takes what the ones before it have left."""
from __future__ import annotations

import time
from typing import Any, Callable


class Failure(Exception):
    """A case went wrong; the text says how."""


class Skip(Exception):
    """A case cannot be run here; the text says why."""


def expect(text: str, *wanted: str) -> None:
    """Each of the texts must be in the output."""
    missing = [word for word in wanted if word not in text]
    if missing:
        raise Failure(f"not in the output: {missing}; the output:\n{text}")


def same(got: Any, wanted: Any, what: str) -> None:
    if got != wanted:
        raise Failure(f"{what}: got {got!r}, expected {wanted!r}")


def cases_of(namespace: dict[str, Any]) -> list[Callable[[Any], None]]:
    """Functions case_* in the order of the file."""
    return [value for name, value in namespace.items() if name.startswith("case_")]


def skip_all(reason: str) -> int:
    print(f"1..0 # SKIP {reason}")
    return 0


def play(cases: list[Callable[[Any], None]], setup: Any, errors: tuple[type, ...]) -> int:
    """Run all; a case with the attribute "essential" ends the test when it fails."""
    print(f"1..{len(cases)}", flush=True)
    failed = 0
    for number, case in enumerate(cases, 1):
        name = case.__name__.removeprefix("case_").replace("_", " ")
        start = time.monotonic()
        try:
            case(setup)
            print(f"ok {number} {name}")
        except Skip as reason:
            print(f"ok {number} {name} # SKIP {reason}")
        except (Failure, *errors) as error:
            failed += 1
            print(f"not ok {number} {name}")
            print("\n".join(f"# {line}" for line in str(error).splitlines()), flush=True)
            if getattr(case, "essential", False):
                print(f"Bail out! nothing else makes sense without: {name}")
                return 1
        print(f"# {time.monotonic() - start:.0f} s", flush=True)
    return 1 if failed else 0


def essential(case: Callable[[Any], None]) -> Callable[[Any], None]:
    """Decorator: without this case the others make no sense."""
    setattr(case, "essential", True)
    return case
