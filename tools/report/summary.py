# SPDX-License-Identifier: GPL-2.0-or-later
"""The few numbers at the top of the page."""

from typing import Any

from .load import Result, Row
from .text import count, fraction, nanoseconds

Tile = tuple[str, str, str]


def _find(result: Result, name: str, **wanted: Any) -> Any:
    """A field of the first run that is like this."""
    for row in result.runs:
        if all(row.get(key) == value for key, value in wanted.items()):
            if row.get(name) is not None:
                return row[name]
    return None


def _pair(what: str, ours: Any, stock: Any, form: Any) -> list[Tile]:
    """Only where both have been measured."""
    if ours is None or stock is None:
        return []
    return [(what, form(ours), f"instead of {form(stock)} with stock")]


def _boot(result: Result) -> list[Tile]:
    return _pair("RAM faults in one boot with prefault", _find(result, "ram_faults",
                                                               config="prefault"),
                 _find(result, "ram_faults", config="stock"), count)


def _latency(result: Result) -> list[Tile]:
    """Rows without an access are of writes."""
    rows = Result(result.name, runs=[{**row, "access": row.get("access") or "write"}
                                     for row in result.runs])
    wanted: Row = {"access": "write", "host_page_kib": 4}
    return _pair("99.9 % of first writes within, 4 KiB pages",
                 _find(rows, "p999_ns", config="prefault", **wanted),
                 _find(rows, "p999_ns", config="stock", **wanted), nanoseconds)


def _cow(result: Result) -> list[Tile]:
    ours, stock = (_find(result, "tdp_faults_per_page", config=config, host_page_kib=4)
                   for config in ("always-writable", "stock"))
    return _pair("Faults per page read, then written, 4 KiB, always-writable", ours, stock,
                 fraction)


def _mtrr(result: Result) -> list[Tile]:
    """The burst with most vCPUs."""
    sizes = [row["smp"] for row in result.runs if row.get("smp") and row.get("zap_cycles")
             and row.get("firmware") == "burst" and row.get("config") == "range"]
    if not sizes:
        return []
    wanted: Row = {"firmware": "burst", "smp": max(sizes)}
    return _pair(f"Cycles for MTRRs, {max(sizes):g} vCPUs at once, mtrr-zap=range",
                 _find(result, "zap_cycles", config="range", **wanted),
                 _find(result, "zap_cycles", config="stock", **wanted),
                 lambda value: f"{value / 1e6:,.0f} million")


def tiles(results: dict[str, Result]) -> list[Tile]:
    makers = {"boot.json": _boot, "latency.json": _latency, "cow.json": _cow,
              "mtrr.json": _mtrr}
    return [tile for name, make in makers.items() for tile in make(results[name])]
