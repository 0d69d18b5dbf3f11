"""Checks before the start, by its files alone, of whether a program can become an instance."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from itertools import dropwhile
from typing import Final

from spear.runtimes import ProcessSettings

HEAD_BYTES: Final = 256
"""Bytes of a script in which the kernel looks for its first line (BINPRM_BUF_SIZE)."""

_INTERPRETER: Final = re.compile(r"(python|pypy)[\d.]*|sh|bash|dash|node|perl|ruby")
"""Programs whose first argument is a file, unless it begins with a dash."""

_PYTHON_SWITCH: Final = re.compile(r"-[BEIOPSbdiqsuvx]+")
"""Options of Python that take no value, so the next argument can be the file."""


def program_problems(settings: ProcessSettings) -> Iterator[str]:
    """Yield reasons why an existing, executable program cannot run or log in."""
    path = shutil.which(settings.program(), path=settings.full_environment()["PATH"])
    assert path is not None  # settings.problems() reports a missing program
    yield from _format_problems(path, settings)
    if not settings.command:
        return
    arguments = settings.command[1:]
    if not settings.environment_handover and not settings.names_bootstrap_fd:
        yield (
            "cannot log in without the host's address: pass {bootstrap_fd} as an argument, or set "
            "environment_handover"
        )
    name = os.path.basename(settings.command[0])
    if name.startswith("py"):
        arguments = tuple(dropwhile(_PYTHON_SWITCH.fullmatch, arguments))
    if arguments and _INTERPRETER.fullmatch(name):
        yield from _script_problems(arguments[0], settings.working_directory)


def _format_problems(path: str, settings: ProcessSettings) -> Iterator[str]:
    """Yield reasons why the kernel cannot run a file."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:  # a program can be executable without being readable
        return
    if not head.startswith(b"#!"):
        if b"\0" not in head:
            yield f"{path} is a text file that does not begin with a line such as #!/bin/sh"
        return
    words = [os.fsdecode(each) for each in head[2:].partition(b"\n")[0].split()]
    interpreter = words[0] if words else ""
    is_there = os.access(interpreter, os.X_OK)
    if is_there and os.path.basename(interpreter) == "env" and len(words) == 2:
        interpreter = words[1]
        is_there = shutil.which(interpreter, path=settings.full_environment()["PATH"]) is not None
    if not is_there:
        yield f"{path} is a script for {interpreter!r}, which is not an executable program"


def _script_problems(script: str, directory: str | None) -> Iterator[str]:
    """Yield reasons why an interpreter cannot read its script."""
    if script.startswith("-"):
        return
    if directory is None and not os.path.isabs(script):
        yield (
            f"is started in a new, empty directory, which has no {script}: use its absolute path, or "
            "set working_directory"
        )
        return
    path = os.path.join(directory or "", script)
    if not os.access(path, os.R_OK):
        yield f"{path} is not a file that can be read"
