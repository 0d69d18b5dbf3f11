"""Names of programs: ``shop.py``, ``./shop/``, ``company.shop``, ``shop.py:app``. A leaf module.

All parts of Spear split such names here, so a name means the same everywhere. No program is loaded here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

GUARD: Final = 'put the code that starts the program under `if __name__ == "__main__":`'
"""Advice about a file that does more than define its functions when it is loaded."""

NEEDS_GUARD: Final = "needs_guard"
"""The code of a ConfigurationError that gives this advice."""

ARTIFACT_FILE: Final = "main.py"
"""The file with the functions of a program that is a directory, which also has their modules and data."""

_loading: list[str] = []  # programs that this process is loading; see loading()


def split_target(target: str) -> tuple[str, str]:
    """Return (program, agent's name); the name is empty if there is none, or the colon is in a path."""
    program, colon, name = target.rpartition(":")
    return (program, name) if colon and name.isidentifier() else (target, "")


def stem_of(target: str) -> str:
    """Return a target's short name: its file without ``.py``, its directory, or a module's last part."""
    program = split_target(target)[0].rstrip("/")
    name = os.path.basename(program)
    return name.removesuffix(".py") if name.endswith(".py") else re.split(r"[./]", program)[-1]


def name_of(target: str) -> str:
    """Return a target's short name, of A-Z a-z 0-9 _ - only; empty if none of its characters is left."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem_of(target)).strip("-_")


def split_call(text: str) -> tuple[str, str]:
    """Return (target, function's name). A part after the colon that looks like a file is no name."""
    target, colon, function = text.rpartition(":")
    if not colon or os.sep in function or function.endswith(".py"):
        return text, ""
    return target, function


def is_file(program: str) -> bool:
    """Return whether a program's name means a file or a directory, and not a module."""
    return program.endswith(".py") or os.sep in program or os.path.isfile(program)


def file_of(program: str) -> str:
    """Return the path of a program's file; for a directory, that of the :data:`ARTIFACT_FILE` in it."""
    return os.path.join(program, ARTIFACT_FILE) if os.path.isdir(program) else program


def defines_function(path: str | os.PathLike[str], name: str) -> bool:
    """Return whether a line of a program's file begins the definition of a function; loads nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            pattern = re.compile(rf"(async\s+)?def\s+{re.escape(name)}\s*[(\[]")
            return any(map(pattern.match, file))
    except OSError:
        return False


@contextmanager
def loading(program: str) -> Iterator[None]:
    """Note that this process is an instance and loads a program, for as long as the block runs."""
    _loading.append(os.path.basename(program))
    try:
        yield
    finally:
        _loading.pop()


def being_loaded() -> str:
    """Return the name of the program that this instance is loading; empty if it is loading none."""
    return _loading[-1] if _loading else ""
