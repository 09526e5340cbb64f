# SPDX-License-Identifier: GPL-2.0-or-later
"""Read result files; what is wrong with one is said in a text, not raised."""

import datetime
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

Row = dict[str, Any]

# Larger numbers are no measurement, and gnuplot counts in floating point.
LARGEST = 10 ** 18
LARGEST_FILE_MIB = 64


class Damaged(Exception):
    """A result file that cannot be shown; the message says why."""


@dataclass
class Result:
    """One result file. Without runs, "damage" says why, or the file has yet to be made."""

    name: str
    host: Row = field(default_factory=dict)
    runs: list[Row] = field(default_factory=list)
    when: str = ""
    damage: str = ""


def is_number(value: Any) -> bool:
    """All that is measured is a count or a time; a boolean is neither."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) \
        and 0 <= value < LARGEST


def _are_points(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(is_number, point))
        for point in value)


def _are(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# What a field of a run may hold, and how that is called in a message.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "number": (is_number, f"a number from 0 to {LARGEST:.0e}"),
    "text": (_is_text, "a text"),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "points": (_are_points, f"a list of pairs of numbers from 0 to {LARGEST:.0e}"),
    "numbers": (_are(is_number), f"an object of numbers from 0 to {LARGEST:.0e}"),
    "texts": (_are(_is_text), "an object of texts"),
    "object": (lambda value: isinstance(value, dict), "an object"),
}


def fields(**kinds: str) -> dict[str, str]:
    """fields(number="a b", text="c") is {"a": "number", "b": "number", "c": "text"}."""
    return {name: kind for kind, names in kinds.items() for name in names.split()}


def _check_run(number: int, run: Any, wanted: dict[str, str]) -> None:
    """Fields may be missing or null, older files lack some; what is there must be right."""
    if not isinstance(run, dict):
        raise Damaged(f"run {number} is {_short(run)}, must be an object")
    for name, kind in wanted.items():
        value = run.get(name)
        right, text = KINDS[kind]
        if value is not None and not right(value):
            raise Damaged(f"run {number}: '{name}' is {_short(value)}, must be {text}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _no_constant(word: str) -> None:
    raise Damaged(f"has {word}, which is no JSON number")


def _parse(text: str, wanted: dict[str, str]) -> tuple[Row, list[Row]]:
    data = json.loads(text, parse_constant=_no_constant)
    if not isinstance(data, dict):
        raise Damaged(f"holds {_short(data)}, must be an object with 'host' and 'runs'")
    host, runs = data.get("host", {}), data.get("runs")
    if not isinstance(host, dict):
        raise Damaged(f"'host' is {_short(host)}, must be an object")
    if not isinstance(runs, list):
        raise Damaged("has no list 'runs'" if runs is None
                      else f"'runs' is {_short(runs)}, must be a list")
    for number, run in enumerate(runs, 1):
        _check_run(number, run, wanted)
    return host, runs


def _read(path: Path) -> str:
    """The limit keeps a wrong file, a device for example, from filling the memory."""
    with open(path, "rb") as file:
        data = file.read((LARGEST_FILE_MIB << 20) + 1)
    if len(data) > LARGEST_FILE_MIB << 20:
        raise Damaged(f"is larger than {LARGEST_FILE_MIB} MiB")
    return data.decode("utf-8")


def load(directory: Path, name: str, wanted: dict[str, str]) -> Result:
    """A file that is missing or empty gives no runs, and that is no damage."""
    path, result = directory / name, Result(name)
    try:
        text = _read(path)
        modified = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.timezone.utc)
        result.when = modified.strftime("%Y-%m-%d %H:%M UTC")
        if text.strip():
            result.host, result.runs = _parse(text, wanted)
    except FileNotFoundError:
        pass
    except Damaged as damage:
        result.damage = str(damage)
    except OSError as error:
        result.damage = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        result.damage = f"is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
    except json.JSONDecodeError as error:
        result.damage = f"is not JSON: {error}"
    except (ValueError, RecursionError) as error:
        result.damage = f"is not JSON that Python reads: {error}"
    return result
