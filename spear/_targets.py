"""How programs are named: ``shop.py``, ``./shop/``, ``company.shop``, ``shop.py:app``. A leaf.

Whoever takes such a name splits it here, so that all of them mean the same. Nothing is loaded here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

GUARD: Final = 'put what starts the program under `if __name__ == "__main__":`'

NEEDS_GUARD: Final = "needs_guard"
"""The code of a ConfigurationError that gives this advice."""
"""What to say about a file that does more than define its functions when it is loaded."""

ARTIFACT_FILE: Final = "main.py"
"""Where the functions of a directory are, which has their modules and data, too."""

_loading: list[str] = []  # what this process is loading; see loading()


def split_target(target: str) -> tuple[str, str]:
    """(program, agent's name): a colon may also be part of a path, and then the name is empty."""
    program, colon, name = target.rpartition(":")
    return (program, name) if colon and name.isidentifier() else (target, "")


def stem_of(target: str) -> str:
    """What a target is called: its file without ``.py``, its directory, or the last part of a module."""
    program = split_target(target)[0].rstrip("/")
    name = os.path.basename(program)
    return name.removesuffix(".py") if name.endswith(".py") else re.split(r"[./]", program)[-1]


def name_of(target: str) -> str:
    """The name of a target, of A-Z a-z 0-9 _ - only; empty if nothing of it is left."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem_of(target)).strip("-_")


def split_call(text: str) -> tuple[str, str]:
    """(target, function's name), which may have dots and dashes, but not look like a file."""
    target, colon, function = text.rpartition(":")
    if not colon or os.sep in function or function.endswith(".py"):
        return text, ""
    return target, function


def is_file(program: str) -> bool:
    """Whether the name of a program means a file or a directory, and not a module."""
    return program.endswith(".py") or os.sep in program or os.path.isfile(program)


def file_of(program: str) -> str:
    """The file that is meant by a file's name or, as its :data:`ARTIFACT_FILE`, by a directory's."""
    return os.path.join(program, ARTIFACT_FILE) if os.path.isdir(program) else program


@contextmanager
def loading(program: str) -> Iterator[None]:
    """While the block runs, this process is an instance that loads its program."""
    _loading.append(os.path.basename(program))
    try:
        yield
    finally:
        _loading.pop()


def being_loaded() -> str:
    """What this instance is loading; empty if it has been loaded, or this is no instance."""
    return _loading[-1] if _loading else ""
