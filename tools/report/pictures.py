# SPDX-License-Identifier: GPL-2.0-or-later
"""Sections that are charts first: faults over time, latency, copied pages, guest MTRRs."""

import math
from functools import partial
from typing import Any, Callable, Iterable

from framework import mtrr as lab_mtrr

from .gnuplot import Chart, Curve
from .load import Row
from .markup import Column, field, number, table
from .text import UNITS, count, fraction, nanoseconds, pages, plural

PHASES = {"firmware_end": "firmware ended", "linux_init": "Linux's init",
          "touched": "memory touched", "end": "power-off"}
PERCENTILES = {"p50_ns": "median", "p99_ns": "99 %", "p999_ns": "99.9 %", "max_ns": "worst"}
# More do not fit on an axis.
MOST_DECADES = 10

Part = str | Chart


def has(row: Row, *names: str) -> bool:
    return all(row.get(name) is not None for name in names)


def configs(rows: Iterable[Row]) -> list[str]:
    """In the order of the file."""
    return list(dict.fromkeys(row["config"] for row in rows if has(row, "config")))


def groups(rows: list[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by what they have in common; rows that lack it are in none."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted((row for row in rows if has(row, *names)),
                      key=lambda row: [row[name] for name in names]):
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def errors(rows: list[Row]) -> list[Column]:
    """A column for runs that have failed, if any has."""
    return [field("error", "error")] if any(has(row, "error") for row in rows) else []


def decades(values: Iterable[float], name: Callable[[float], str]) -> tuple[dict[float, str], str]:
    """Ticks at powers of ten around these values, and the range that they make."""
    positive = [value for value in values if value > 0]
    high = math.ceil(math.log10(max(positive)))
    low = max(math.floor(math.log10(min(positive))), high - MOST_DECADES)
    high = max(high, low + 1)
    ticks = {float(f"1e{power}"): name(float(f"1e{power}")) for power in range(low, high + 1)}
    # a little more, or rounding takes the outermost ticks away
    return ticks, f"{0.95 * 10.0 ** low:g}:{1.05 * 10.0 ** high:g}"


def _time(seconds: float) -> str:
    """1, 10 or 100 of a unit."""
    size, unit = next(((s, u) for s, u in UNITS if seconds * 1e9 >= s * 0.99), UNITS[-1])
    return f"{seconds * 1e9 / size:g} {unit}"


def _total(row: Row) -> float | None:
    """Faults of a run; what the curve ends with where the run does not say."""
    total: float | None = row.get("ram_faults")
    if total is None and row.get("faults"):
        total = row["faults"][-1][1]
    return total


def _fault_curve(row: Row, end: float) -> Curve:
    """A point where the count changes, so lines between them are right."""
    points = sorted((x, y) for x, y in row.get("faults") or [])
    if not points:
        points = [(0.0, 0.0), (end, _total(row) or 0.0)]
    return Curve(row["config"], points, "lines", f"{row['config']}: {count(_total(row))}")


def _end(rows: list[Row]) -> float:
    """When the last of these guests was switched off, as far as is known."""
    times: list[float] = [1.0, *(x for row in rows for x, _ in row.get("faults") or [])]
    times += [value for row in rows for value in (row.get("phases") or {}).values()]
    return max(times)


def fault_charts(rows: list[Row]) -> list[Chart]:
    """One per size of host pages, the smallest first."""
    charts = []
    for (kib,), mine in groups(rows, "host_page_kib").items():
        mine = [row for row in mine if has(row, "config") and _total(row) is not None]
        if not mine:
            continue
        most = max(1.0, *(_total(row) or 0.0 for row in mine))
        curves = [_fault_curve(row, _end(mine)) for row in mine]
        charts.append(Chart(
            f"ram-faults-{kib:g}", f"RAM faults over guest time, {pages(kib)} host pages",
            f"RAM faults over guest time with {pages(kib)} host pages. "
            + "; ".join(curve.title for curve in curves), curves,
            "seconds since the guest's first instruction", "RAM faults so far",
            "%.0s%c" if most > 10000 else "%.0f", yrange=f"{-0.03 * most:g}:{1.05 * most:g}"))
    return charts


def timeline(rows: list[Row]) -> list[Part]:
    """Curves, then when the phases ended."""
    rows = sorted(rows, key=lambda row: row.get("host_page_kib") or 0)
    phases = dict.fromkeys(name for row in rows for name in row.get("phases") or {})
    columns = [field("configuration", "config"),
               Column("host pages", lambda row: pages(row.get("host_page_kib")), True),
               Column("RAM faults", lambda row: count(_total(row)), True)]
    columns += [Column(f"{PHASES.get(name, name)}, s", partial(_seconds, name), True)
                for name in phases]
    return [*fault_charts(rows), table("Seconds from the guest's first instruction until",
                                       [*columns, *errors(rows)], rows)]


def _seconds(phase: str, row: Row) -> str:
    value = (row.get("phases") or {}).get(phase)
    return "-" if value is None else f"{value:.2f}"


def _kind(kib: float, access: str) -> str:
    return f"{access or 'access'}, {pages(kib)} host pages"


def _percentile_chart(kib: float, access: str, rows: list[Row]) -> Chart | None:
    curves = [Curve(row["config"], [(at, row[name] / 1e9) for at, name in enumerate(PERCENTILES)
                                    if row.get(name, 0)])
              for row in rows if has(row, "config") and any(row.get(n) for n in PERCENTILES)]
    if not curves:
        return None
    yticks, yrange = decades((y for curve in curves for _, y in curve.points), _time)
    values = "; ".join(f"{row.get('config')}: 99.9 % within {nanoseconds(row.get('p999_ns'))}"
                       for row in rows)
    return Chart(f"latency-{kib:g}-{_word(access)}", f"First {_kind(kib, access)}",
                 f"Latency of the first {_kind(kib, access)}, by percentile. {values}", curves,
                 "", "time of one access", log="y", yticks=yticks, yrange=yrange,
                 xticks=dict(enumerate(PERCENTILES.values())), xrange="-0.3:3.3")


def _word(text: str) -> str:
    """For an id."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)[:40]


def _slower(histogram: list[list[float]]) -> list[tuple[float, float]]:
    """Percent of the samples that took longer than the end of each class."""
    total, seen, points = sum(n for _, n in histogram), 0.0, []
    for upper, number_of in sorted(histogram):
        seen += number_of
        if upper > 0 and total > seen:
            points.append((upper / 1e9, 100 * (total - seen) / total))
    return points


def _distribution_chart(kib: float, access: str, rows: list[Row]) -> Chart | None:
    curves = [Curve(row["config"], points, "steps") for row in rows
              if has(row, "config", "histogram") and (points := _slower(row["histogram"]))]
    if not curves:
        return None
    xticks, xrange = decades((x for curve in curves for x, _ in curve.points), _time)
    yticks, yrange = decades([100, *(y for curve in curves for _, y in curve.points)],
                             lambda value: f"{value:g} %")
    return Chart(f"distribution-{kib:g}-{_word(access)}",
                 f"First {_kind(kib, access)}: how many took longer",
                 f"Share of the first accesses that took longer than a time: {_kind(kib, access)}",
                 curves, "time of one access", "accesses that took longer", log="xy",
                 xticks=xticks, xrange=xrange, yticks=yticks, yrange=yrange)


def latency(rows: list[Row]) -> list[Part]:
    """Percentiles as charts and table; the whole distribution where there is one."""
    rows = [{**row, "access": row.get("access") or "write"} for row in rows]
    panels = sorted(groups(rows, "host_page_kib", "access").items(),
                    key=lambda panel: (panel[0][1] != "write", panel[0][0]))
    charts = [chart for (kib, access), mine in panels
              for make in (_percentile_chart, _distribution_chart)
              if (chart := make(kib, access, mine))]
    columns = [field("configuration", "config"), field("access", "access"),
               Column("host pages", lambda row: pages(row.get("host_page_kib")), True),
               *(number(title, name, nanoseconds) for name, title in PERCENTILES.items()),
               number("RAM faults", "ram_faults", count), number("accesses", "samples", count)]
    return [*charts, table("Time of the first access to a page", columns, rows)]


def _cow_chart(kib: float, rows: list[Row], most: float) -> Chart:
    """A bar per configuration; "most" is the same for all sizes of pages."""
    curves = [Curve(row["config"], [(at, row["tdp_faults_per_page"])], "boxes")
              for at, row in enumerate(rows)]
    title = f"Faults per page that is read, then written, {pages(kib)} host pages"
    return Chart(f"cow-{kib:g}", title, f"{title}. " + "; ".join(
                     f"{row['config']}: {fraction(row['tdp_faults_per_page'])}" for row in rows),
                 curves, "", "faults per page", xticks={-1: ""},
                 labels=[(*curve.points[0], count(curve.points[0][1])) for curve in curves],
                 xrange=f"-0.7:{len(rows) - 0.3:g}", yrange=f"0:{1.15 * most:g}", bar_width=0.7)


def _cow_charts(rows: list[Row]) -> list[Chart]:
    """One per size of host pages."""
    rows = [row for row in rows if has(row, "config", "tdp_faults_per_page")]
    most = max([1, *(row["tdp_faults_per_page"] for row in rows)])
    return [_cow_chart(kib, mine, most) for (kib,), mine in groups(rows, "host_page_kib").items()]


def cow(rows: list[Row]) -> list[Part]:
    """Rows of pages, then those that only measured population."""
    columns = [field("run", "name"), field("configuration", "config"),
               *(number(title, name, fraction) for title, name in (
                   ("faults per page", "tdp_faults_per_page"),
                   ("reading", "tdp_read_faults_per_page"),
                   ("writing", "tdp_write_faults_per_page"),
                   ("host copies", "host_cow_per_page"))),
               number("populate, ms", "populate_ms", count),
               number("in two passes, ms", "two_pass_populate_ms", count), *errors(rows)]
    return [*_cow_charts(rows), table("Faults per page", columns, rows)]


def _step(config: str) -> str:
    return lab_mtrr.TITLES.get(config, config)


def _cycles(value: float) -> str:
    """A power of ten in words that are no prefixes: G is not what people call a billion."""
    size, unit = next(((s, u) for s, u in ((1e9, " billion"), (1e6, " million"))
                       if value >= s), (1, ""))
    return f"{value / size:,.0f}{unit}"


def _mtrr_chart(firmware: str, lab: str, cpus: int, rows: list[Row]) -> Chart | None:
    curves = []
    for config in configs(rows):
        points = sorted((row["smp"], row["zap_cycles"]) for row in rows
                        if row.get("config") == config and has(row, "smp")
                        and row.get("zap_cycles"))
        if points:
            curves.append(Curve(config, points, title=_step(config)))
    sizes = sorted({x for curve in curves for x, _ in curve.points})
    if len(sizes) < 2:
        return None
    yticks, yrange = decades((y for curve in curves for _, y in curve.points), _cycles)
    title = f"{firmware}, lab {lab}, {plural(cpus, 'emulated CPU')}"
    return Chart(f"mtrr-{_word(firmware)}-{_word(lab)}-{cpus:g}",
                 f"Cycles for guest MTRRs over vCPUs: {title}",
                 f"Cycles in MTRR writes and CD toggles over vCPUs, {title}. "
                 + "; ".join(f"{curve.title}: {count(curve.points[-1][1])} with "
                             f"{curve.points[-1][0]:g} vCPUs" for curve in curves),
                 curves, "vCPUs", "cycles", log="y", yticks=yticks, yrange=yrange,
                 xticks={x: f"{x:g}" for x in sizes},
                 xrange=f"{sizes[0] * 0.9:g}:{sizes[-1] * 1.04:g}")


def mtrr(rows: list[Row]) -> list[Part]:
    """A chart where there are guests of several sizes; all numbers."""
    shown = [{**row, "host_cpus": row.get("host_cpus") or 1} for row in rows]
    charts = [chart for (firmware, lab, cpus), mine
              in groups(shown, "firmware", "lab", "host_cpus").items()
              if (chart := _mtrr_chart(firmware, lab, cpus, mine))]
    columns = [Column("KVM", lambda row: _step(row.get("config") or "")),
               field("firmware", "firmware"), field("lab", "lab"), number("vCPUs", "smp", count),
               *(number(title, name, count) for title, name in (
                   ("cycles", "zap_cycles"), ("zaps", "zaps"), ("pages in range", "gfns"),
                   ("mappings dropped", "sptes_zapped"))), *errors(rows)]
    return [*charts, table("Zaps for guest MTRRs", columns, shown)]
