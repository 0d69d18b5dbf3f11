"""The files of a program: its own file, and the modules that it imports from its directory.

The imports are read from the source; nothing is loaded. So a file with an error has imports, too, as far
as it can be parsed. A module that is imported by a computed name is not found.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_MODULES: Final = 1000
"""Most modules of a program; a larger one is likely to be an installed package."""

INIT: Final = "__init__.py"


def files_of(program: Path) -> list[Path]:
    """Return a program's file, and the files of all modules that it imports from its directory.

    A program in a package may also import from the directory around the package, as when it is loaded.
    """
    program = program.absolute()
    around = program.parent
    while (around / INIT).is_file():
        around = around.parent
    places = list(dict.fromkeys((around, program.parent)))
    found = {program: None}
    waiting = [program]
    while waiting and len(found) < MAX_MODULES:
        for file in _imported(waiting.pop(), places):
            if file not in found:
                found[file] = None
                waiting.append(file)
    return list(found)


def _imported(file: Path, places: list[Path]) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield from _modules(each.name, places)
        elif isinstance(node, ast.ImportFrom):
            base = places
            if node.level:
                base = [file.parents[node.level - 1]] if node.level <= len(file.parents) else []
            module = node.module or ""
            yield from _modules(module, base)
            for each in node.names:  # each may be a module, too
                yield from _modules(f"{module}.{each.name}".strip("."), base)


def _modules(name: str, places: list[Path]) -> Iterator[Path]:
    """Yield the files of a module and of the packages around it, in the first place that has one."""
    parts = [each for each in name.split(".") if each]
    for place in places:
        found = False
        for count in range(len(parts) + 1):
            path = place.joinpath(*parts[:count])
            for file in (path / INIT, path.with_name(f"{path.name}.py")):
                if (count or file.name == INIT) and os.path.isfile(file):
                    found = found or count > 0
                    yield file
        if found:
            return
