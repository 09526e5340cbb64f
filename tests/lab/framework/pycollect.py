# SPDX-License-Identifier: GPL-2.0-or-later
"""List the files that the agent's Python needs; run by the Python to be copied.

Arguments: the directory with the package "agent", a directory for bytecode.
Prints JSON: {"files": {destination: source}, "binaries": [...]}.  Imports are
really done, so the list is exactly what the agent loads; bytecode is compiled
here because compiling on the emulated host costs seconds.
"""

import importlib
import importlib.util
import json
import pkgutil
import py_compile
import sys
from pathlib import Path

# Loaded on demand by what the agent imports, therefore not seen by importing.
LATE = ("encodings.ascii", "encodings.idna", "encodings.latin_1", "stringprep")


def load_all(package: str) -> None:
    module = importlib.import_module(package)
    for entry in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(entry.name)


def destination(source: Path, agent_root: Path) -> Path:
    if source.is_relative_to(agent_root):
        return Path("/lab") / source.relative_to(agent_root)
    return source


def compiled(source: Path, out: Path) -> Path:
    target = out / f"{len(list(out.iterdir()))}.pyc"
    py_compile.compile(str(source), cfile=str(target), doraise=True,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return target


def main() -> None:
    agent_root, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    sys.path.insert(0, str(agent_root))
    load_all("agent")
    for name in LATE:
        importlib.import_module(name)
    files: dict[str, str] = {}
    binaries = [str(Path(sys.executable).resolve())]
    for module in list(sys.modules.values()):
        source = Path(getattr(module, "__file__", None) or "/")
        if source.suffix == ".py" and source != Path(__file__).resolve():
            place = destination(source, agent_root)
            files[str(place)] = str(source)
            cache = importlib.util.cache_from_source(str(place))
            files[cache] = str(compiled(source, out))
        elif source.suffix == ".so":
            binaries.append(str(source))
    print(json.dumps({"files": files, "binaries": binaries}))


if __name__ == "__main__":
    main()
