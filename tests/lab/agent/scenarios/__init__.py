# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios: functions that run guests and return facts, never verdicts.

A scenario takes a Context and returns a dict that goes into the run's result
row.  Whether the facts are right is for the caller (table, test) to say.
"""

import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ..ftrace import NoFaults, RamFaults
from ..guest import Guest
from ..spec import Paths, Spec


@dataclass
class Context:
    """What a scenario may use."""

    spec: Spec
    paths: Paths
    faults: RamFaults | NoFaults
    guests: list[Guest] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    # Long scenarios say where they are.
    progress: Callable[[str], None] = field(default=lambda text: None)

    def guest(self, name: str = "guest", extra: list[str] | None = None) -> Guest:
        """A guest that is remembered, so that a failure shows its logs."""
        return self.remember(Guest(self.spec, self.paths, name, extra))

    def preload(self, library: str, variable: str, **more: str) -> Path:
        """QEMU gets this library; it writes a report to the file that is returned."""
        report = Path(self.paths.work) / variable.lower().replace("_", "-")
        report.unlink(missing_ok=True)
        self.env = {"LD_PRELOAD": library, variable: str(report), **more}
        return report

    def remember(self, guest: Guest) -> Guest:
        guest.env = self.env
        self.guests.append(guest)
        return guest


Scenario = Callable[[Context], dict[str, Any]]
_scenarios: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Register a function under its own name."""
    _scenarios[function.__name__] = function
    return function


def find(name: str) -> Scenario:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    if name not in _scenarios:
        raise ValueError(f"no scenario '{name}'; there are {sorted(_scenarios)}")
    return _scenarios[name]


class Steps:
    """RAM faults per step, those of the system alone too: since the mark() before.

    And for how long the guest that is watched was held for a pass, if its QEMU tells.
    """

    def __init__(self, context: Context):
        self._faults = context.faults
        self._last = dict.fromkeys(("ram_faults", "ram_faults_os"), 0)
        self._guest: Guest | None = None
        self._pauses: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []

    def watch(self, guest: Guest) -> None:
        self._guest = guest

    def mark(self, event: str, **more: Any) -> None:
        now = self._faults.counts()
        delta = {name: None if now[name] is None else now[name] - last
                 for name, last in self._last.items()}
        self._last = {name: now[name] or 0 for name in delta}
        self.rows.append({"event": event, **delta, "held_ms": self._held_ms(), **more})

    def _held_ms(self) -> float | None:
        """The longest hold since the mark() before, at most.

        If an earlier step had a longer one only the sum is known, which none exceeds.
        """
        if self._guest is None or self._guest.process.poll() is not None:
            return None
        if not (info := self._guest.prefault()):
            return None
        before, self._pauses = self._pauses, info["pauses"]
        longest = info["pauses"]["max-us"]
        if longest == before.get("max-us", 0):
            longest = min(longest, info["pauses"]["total-us"] - before.get("total-us", 0))
        return longest / 1000


def populate_ms(info: dict[str, Any] | None) -> float | None:
    if not info or info["state"] == "off":
        return None
    return info["duration-us"] / 1000


def prefault_facts(info: dict[str, Any] | None) -> dict[str, Any]:
    return {"query": info, "populate_ms": populate_ms(info),
            "faults_since_ready": (info or {}).get("faults-since-ready")}
