# SPDX-License-Identifier: GPL-2.0-or-later
""" "make bench-mtrr": what guest MTRRs cost, as result rows, as a table and as a chart."""

import subprocess
from pathlib import Path
from typing import Any

from agent.mtrrlab import ZAPS

from . import results
from .config import LabError

GROUPS = ("mtrr", "mtrr-ept")
# Guests with OVMF and SeaBIOS of other sizes, a minute or two each.
ALL_GROUPS = (*GROUPS, "mtrr-full")
GNUPLOT = Path("/usr/bin/gnuplot")
FIELDS = ("name", "config", "firmware", "smp", "host_cpus", "lab", "zap_cycles", "zaps", "gfns",
          "sptes_zapped", "calls", "mem_mib", "host_page_kib", "kernel", "kvm", "burst_ms",
          "boot_ms", "check", "counts", "error")
FIRMWARE = ("burst", "ovmf", "seabios")
# What each row of the table adds to KVM; "batch" and so on are parts of "range".
TITLES = {"stock": "stock modules", "full": "ours, mode full", "toggle": "zaps at CD toggles",
          "batch": "+ serialized", "ranges": "+ fine-grained", "shared": "+ shared lock",
          "batch-ranges": "+ serialized, fine-grained", "range": "all of it (range)",
          "none": "none"}

# One emulated CPU has no contention, so less is gained there.
CYCLES_SHARE, CYCLES_SHARE_ONE_CPU = 30, 10

Row = dict[str, Any]
# Firmware, lab, emulated CPUs.
Place = tuple[str, str, int]


def result_rows(runs: list[Row], rows: list[Row]) -> list[Row]:
    """Rows of mtrr.json; a run that failed has an "error" and no numbers."""
    found = []
    for run, row in zip(runs, rows):
        whole = {**row, "config": run["zap"], "host_cpus": run.get("host_cpus", 1),
                 "firmware": "burst" if run["scenario"] == "mtrr_burst" else run["firmware"],
                 "lab": row.get("lab", run["lab"])}
        found.append({key: whole[key] for key in FIELDS if key in whole})
    return found


def _place(row: Row) -> Place:
    """Rows that may be compared have this in common."""
    return row["firmware"], row["lab"], row["host_cpus"]


def _groups(rows: list[Row]) -> list[Place]:
    """Tables: where there is contention first."""
    seen = dict.fromkeys(_place(row) for row in rows)
    return sorted(seen, key=lambda key: (key[1] != "npt", -key[2], FIRMWARE.index(key[0])))


def _of(rows: list[Row], group: Place) -> list[Row]:
    return [row for row in rows if _place(row) == group]


def _cells(row: Row | None) -> list[str]:
    if row is None:
        return ["-"] * 3
    if "zap_cycles" not in row:
        return ["failed"] * 3
    return [f"{row['zap_cycles'] / 1e6:,.2f}M", f"{row['zaps']:,}", f"{row['sptes_zapped']:,}"]


def _one_table(rows: list[Row], group: Place) -> str:
    mine = _of(rows, group)
    sizes = sorted({row["smp"] for row in mine})
    by = {(row["config"], row["smp"]): row for row in mine}
    head = [f"{size} vCPUs: {name}" if name == "cycles" else name
            for size in sizes for name in ("cycles", "zaps", "SPTEs")]
    lines = [["", *head]]
    for config in ZAPS:
        if any((config, size) in by for size in sizes):
            lines.append([TITLES[config], *(cell for size in sizes
                                            for cell in _cells(by.get((config, size))))])
    memory = sorted({row["mem_mib"] for row in mine})
    return (f"{group[0]}, {'/'.join(map(str, memory))} MiB, lab {group[1]}, "
            f"{group[2]} emulated CPU(s)\n{results.align(lines)}")


def table(rows: list[Row]) -> str:
    """One table per firmware and lab, as the patches that were not merged had them."""
    return "\n\n".join(_one_table(rows, group) for group in _groups(rows))


def _share(small: Row, large: Row, field: str) -> str:
    if not small[field]:
        return f"0 of {large[field]:,}"
    return f"1/{large[field] / small[field]:,.0f}"


def comparison(rows: list[Row]) -> str:
    """What is left with "range" and "none" of what stock modules cost."""
    lines = []
    good = [row for row in rows if "zap_cycles" in row]
    by = {(_place(row), row["smp"], row["config"]): row for row in good}
    for row in good:
        stock = by.get((_place(row), row["smp"], "stock"))
        if row["config"] in ("range", "none") and stock:
            lines.append(f"{row['firmware']}, {row['smp']} vCPUs, {row['lab']} with "
                         f"{row['host_cpus']} CPU(s): "
                         f"{row['config']} has {_share(row, stock, 'zap_cycles')} of the cycles "
                         f"of stock, {_share(row, stock, 'sptes_zapped')} of its SPTEs, "
                         f"{row['zaps']:,} zaps")
    return "\n".join(lines)


def _at_most(small: Row, large: Row, field: str, share: int) -> list[str]:
    if small[field] * share <= large[field]:
        return []
    return [f"{small['name']}: '{field}' is {small[field]:,}, must be at most 1/{share} of the "
            f"{large[field]:,} of {large['name']}"]


def _bursts(rows: list[Row]) -> dict[Place, dict[tuple[str, int], Row]]:
    """The burst is the same each time, so its numbers can be judged."""
    found: dict[Place, dict[tuple[str, int], Row]] = {}
    for row in rows:
        if row["firmware"] == "burst" and "zap_cycles" in row:
            found.setdefault(_place(row), {})[row["config"], row["smp"]] = row
    return found


def differences(rows: list[Row]) -> list[str]:
    """Mode full must zap what stock modules zap."""
    bad = []
    for by in _bursts(rows).values():
        for (config, smp), row in by.items():
            stock = by.get(("stock", smp))
            if config == "full" and stock:
                bad += [f"{row['name']}: '{field}' is {row[field]:,}, with stock modules it is "
                        f"{stock[field]:,}" for field in ("zaps", "gfns")
                        if row[field] != stock[field]]
    return bad


def misses(rows: list[Row]) -> list[str]:
    """The burst on 8 vCPUs: what "range" may cost at most, in parts of what stock costs."""
    bad = []
    for (_, _, cpus), by in _bursts(rows).items():
        row, stock = by.get(("range", 8)), by.get(("stock", 8))
        if row and stock:
            bad += _at_most(row, stock, "sptes_zapped", 100)
            bad += _at_most(row, stock, "zap_cycles",
                            CYCLES_SHARE if cpus > 1 else CYCLES_SHARE_ONE_CPU)
    return bad


def growth(rows: list[Row]) -> list[str]:
    """Cycles of "range" must not grow faster than vCPUs, from the fewest to the most."""
    bad = []
    for by in _bursts(rows).values():
        sizes = sorted(smp for config, smp in by if config == "range")
        if len(sizes) > 1:
            few, many = by["range", sizes[0]], by["range", sizes[-1]]
            limit = few["zap_cycles"] * many["smp"] // few["smp"]
            if many["zap_cycles"] > limit:
                bad.append(f"{many['name']}: 'zap_cycles' is {many['zap_cycles']:,}, must be at "
                           f"most {limit:,}, {many['smp']}/{few['smp']} of {few['name']}")
    return bad


def failures(rows: list[Row]) -> list[str]:
    """Runs without a result, and what contradicts the meaning of a mode."""
    bad = [f"{row['name']}: {row['error']}" for row in rows if "error" in row]
    bad += [f"{row['name']}: {row['zaps']} zaps in mode none" for row in rows
            if row["config"] == "none" and row.get("zaps")]
    bad += [f"{row['name']}: {wrong}, {row['check']['sample']}" for row in rows
            if (wrong := results.memory_types({**row, "zap": row["config"]}))]
    return bad + differences(rows) + misses(rows) + growth(rows)


def _plot(rows: list[Row], group: Place) -> list[str]:
    """gnuplot commands for one diagram: a line per configuration."""
    lines, curves = [], []
    for number, config in enumerate(ZAPS):
        points = sorted((row["smp"], row["zap_cycles"]) for row in _of(rows, group)
                        if row["config"] == config and row.get("zap_cycles"))
        if points:
            lines += [f"$d{number} << EOD", *(f"{x} {y}" for x, y in points), "EOD"]
            curves.append(f"$d{number} with linespoints linewidth 2 title '{TITLES[config]}'")
    title = f"{group[0]}, lab {group[1]}, {group[2]} emulated CPU(s)"
    return [*lines, f"set title '{title}'", "plot " + ", ".join(curves)] if curves else []


def chart(rows: list[Row], path: Path) -> None:
    """Cycles over vCPUs as SVG, one diagram per table that has several sizes of guests."""
    if not GNUPLOT.exists():
        raise LabError(f"{GNUPLOT} does not exist, the chart needs package gnuplot-nox: run "
                       "'scripts/deps install'")
    plots = [plot for group in _groups(rows)
             if len({row["smp"] for row in _of(rows, group)}) > 1
             and (plot := _plot(rows, group))]
    if not plots:
        return
    script = [f"set terminal svg size 900,{420 * len(plots)} background '#ffffff'",
              f"set output '{path}'", f"set multiplot layout {len(plots)},1",
              "set logscale y", "set format y '10^{%L}'", "set xlabel 'vCPUs'",
              "set ylabel 'cycles in MTRR writes and CD toggles'", "set xtics (4, 8, 16)",
              "set key outside right", "set grid"]
    script += [line for plot in plots for line in plot]
    done = subprocess.run([str(GNUPLOT)], input="\n".join([*script, "unset multiplot", ""]),
                          capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise LabError(f"gnuplot cannot draw {path}:\n{done.stderr[-2000:]}")
