# SPDX-License-Identifier: GPL-2.0-or-later
"""Base of the lab's tests: one emulated host per class, shared by its tests.

Avocado runs each test method in a process of its own.  The first one to come
runs the class's whole group of machines.json and leaves the outcome in the
avocado job's directory; the others wait for the lock and read it.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from avocado import Test

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

# pylint: disable=wrong-import-position
from framework import batch, config, host, modules, results  # noqa: E402

Row = dict[str, Any]
# QEMU itself has some 60 MiB; guests that are refused have 256 or more.
RESIDENT_MIB_MAX = 128
EMULATED_ONLY = ("host_append", "kernel", "kvm", "kvm_parameters")


class LabTest(Test):
    """Tests look at rows; they do not run anything themselves."""

    timeout = 1500
    group = ""
    shared_file = ""
    # Kernels whose patched KVM modules the group needs.
    patched: tuple[str, ...] = ()
    # The guests' QEMU is the unchanged one, the host's emulator the fork as ever.
    upstream_qemu = False

    def setUp(self) -> None:
        self.setup = config.configure(lab=os.environ.get("LAB") or host.best_lab(),
                                      verbose=False)
        if self.upstream_qemu:
            self.setup = self._with_upstream_qemu()
        self._check_modules()
        self.runs = config.select(config.load_matrix(), [self.group])
        self._rows = self._shared_rows()

    def _with_upstream_qemu(self) -> config.Config:
        stock = self.setup.qemu_upstream
        if not stock.exists():
            self.cancel("the unchanged QEMU has not been built: run 'make stock'")
        return config.configure(lab=self.setup.lab, verbose=False,
                                qemu=str(stock),
                                emulator=str(self.setup.qemu) if self.setup.lab == "npt" else None)

    def _check_modules(self) -> None:
        for kernel in self.patched:
            directory = modules.patched_directory(self.setup, kernel)
            if not directory.is_dir():
                self.cancel(f"no patched KVM modules in {directory.parent.name}/"
                            f"{directory.name} of the build directory: "
                            f"{modules.how_to_build(kernel)}")

    def row(self, name: str) -> Row:
        """A run's result; fails the test if the run ended with an error."""
        row = self.__row(name)
        if "error" in row:
            self.fail(self._explain(row))
        return row

    def __row(self, name: str) -> Row:
        run = next((run for run in self.runs if run["name"] == name), None)
        if run is None:
            self.fail(f"machines.json has no run '{name}' in group '{self.group}'")
        if self._skipped(run):
            self.cancel(f"'{name}' changes the host itself: it needs the emulated one")
        return self._rows[name]

    def check_boot(self, name: str) -> Row:
        """Booted, populated before the first instruction, not one RAM fault."""
        row = self.row(name)
        self.assertTrue(row["booted"], f"{name}: did not power off properly: {row}")
        self.check_ready(row["query"])
        self.check_zero(row)
        return row

    def check_ready(self, info: Row) -> None:
        self.assertEqual(info["state"], "ready", f"reasons: {info['reasons']}")
        self.assertEqual(info["populated-bytes"], info["total-bytes"])

    def check_zero(self, row: Row) -> None:
        if row["ram_faults"] is None:
            self.cancel("RAM faults cannot be counted: tracefs needs root")
        samples = "\n".join(row.get("fault_samples", []))
        self.assertEqual(row["ram_faults"], 0, f"{row['name']}: faults on RAM:\n{samples}")

    def check_events(self, name: str) -> Row:
        """Every step of a life cycle without a RAM fault."""
        row = self.row(name)
        self.assertTrue(row["booted"], f"{name}: did not power off properly")
        found = {step["event"]: step["ram_faults"] for step in row["events"]}
        self.log.info("%s: %s", name, found)
        self.check_zero(row)
        self.check_ready(row["query"])
        return row

    def check_repaired(self, row: Row) -> None:
        """Each time that mappings are dropped QEMU says so and maps them; touching is free then."""
        self.assertTrue(row["booted"])
        self.assertEqual(row["events"][0]["ram_faults"], 0)
        for dropped, touched in zip(row["events"][1::2], row["events"][2::2]):
            self.log.info("%s", dropped)
            told = [state["reason"] for state in dropped["states"] if state["state"] == "partial"]
            self.assertIn("mappings were lost", " ".join(told))
            self.assertEqual(dropped["states"][-1]["state"], "ready", dropped)
            self.assertEqual(touched["ram_faults"], 0, row.get("fault_samples"))
        self.check_ready(row["query"])
        self.assertEqual(row["query"]["faults-since-ready"], row["traced"],
                         "a pass in the background must not forget faults")

    def check_refused(self, name: str, *words: str) -> Row:
        """As check_refusal(), and before memory is touched."""
        row = self.check_refusal(name, *words)
        self.assertLess(row["resident_mib"], RESIDENT_MIB_MAX,
                        "MiB resident: memory was touched first")
        return row

    def check_refusal(self, name: str, *words: str) -> Row:
        """Ended by itself with status 1, naming all the words."""
        row = self.row(name)
        self.assertEqual(row["exit_status"], 1, row["message"])
        for word in words:
            self.assertIn(word, row["message"])
        return row

    def check_without_ioctl(self, name: str) -> None:
        """prefault=auto without KVM_PRE_FAULT_MEMORY starts, and the query says why."""
        row = self.row(name)
        self.assertEqual(row["exit_status"], 0, row["message"])
        self.assertIn("warning", row["message"])
        info = row["query"]
        self.assertEqual(info["state"], "failed")
        self.assertFalse(info["host"]["pre-fault-memory"])
        self.assertIn("KVM_PRE_FAULT_MEMORY", " ".join(info["reasons"]))

    def _explain(self, row: Row) -> str:
        lines = [f"{row['name']}: {row['error']}"]
        for guest in row.get("evidence", []):
            lines += [f"exit status {guest['exit_status']}", guest["stderr"],
                      *guest["console"][-20:], *guest["qmp_log"][-10:]]
        lines.append(f"logs: {row.get('artefacts')}")
        return "\n".join(lines)

    def _skipped(self, run: Row) -> bool:
        return run.get("lab", self.setup.lab) == "host" and (
            run["scenario"] in ("refused", "starved")
            or any(field in run for field in EMULATED_ONLY))

    def _shared_rows(self) -> dict[str, Row]:
        job = Path(self.logdir).parent
        shared = job / f"lab-{type(self).__name__}.json"
        with open(shared.with_suffix(".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not shared.exists():
                shared.write_text(json.dumps(self._run_all()), encoding="utf-8")
        return json.loads(shared.read_text(encoding="utf-8"))

    def _run_all(self) -> dict[str, Row]:
        start = time.monotonic()
        runs = [run for run in self.runs if not self._skipped(run)]
        outcomes = batch.run(self.setup, runs, self._log_message)
        self.log.info("group %s took %.0f s", self.group, time.monotonic() - start)
        rows: dict[str, Row] = {}
        for run in runs:
            # the outcome that has the run; if none has, one that failed says why
            outcome = next((o for o in outcomes
                            if any(row["name"] == run["name"] for row in o.rows)),
                           next((o for o in outcomes if o.failure), outcomes[-1]))
            rows[run["name"]] = {**outcome.row(run["name"]),
                                 "artefacts": str(outcome.artefacts)}
        self.keep_results(outcomes, rows)
        return rows

    def keep_results(self, outcomes: list[host.Outcome], rows: dict[str, Row]) -> None:
        """Life cycle classes add their rows to lifecycle.json."""
        if not self.shared_file or not outcomes:
            return
        found = [{"event": step["event"], "machine": row["machine"],
                  "ram_faults": step["ram_faults"], "held_ms": step.get("held_ms"),
                  "note": ": ".join(filter(None, (row["name"], row["config"],
                                                  step.get("note"))))}
                 for row in rows.values() for step in row.get("events", [])]
        results.merge(self.setup.results / self.shared_file, outcomes[0].host, found,
                      ("event", "machine", "note"))

    def _log_message(self, message: dict[str, Any]) -> None:
        self.log.debug("%s", {k: v for k, v in message.items() if k != "query"})
