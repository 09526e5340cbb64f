# SPDX-License-Identifier: GPL-2.0-or-later
"""A host as prefault-host-validate --record leaves it, as one JSON object and back.

Keys are paths below the directory; a directory without anything in it ends with "/".
"""

from pathlib import Path


def pack(directory: Path) -> dict[str, str]:
    """All files, and the directories that are empty."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file():
            found[name] = path.read_text(encoding="utf-8", errors="replace")
        elif not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found


def unpack(files: dict[str, str], directory: Path) -> None:
    """The opposite; parents are made as needed."""
    for name, text in files.items():
        path = directory / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
