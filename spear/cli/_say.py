"""Standard output of the commands: all of it is written, or it is said that it was not.

What ``print`` leaves in a buffer is written when the interpreter ends, when nobody asks whether it works.
Loads nothing that takes time.
"""

from __future__ import annotations

import os
import sys

from spear._errors import SpearError

from ._waiting import wait_writable


def say(said: str) -> None:
    """Print lines; nothing if there is no standard output.

    Raises:
        BrokenPipeError: nobody reads it.
        SpearError: it cannot be written.
    """
    if sys.stdout is not None:
        encoding = sys.stdout.encoding or "utf-8"
        write(f"{said}\n".encode(encoding, "backslashreplace"))


def write(data: bytes) -> None:
    """All of it at once, so that a reader sees it as it comes. Raises as :func:`say`."""
    output = sys.stdout.fileno()
    rest = memoryview(data)
    try:
        while rest:
            wait_writable(output)
            rest = rest[os.write(output, rest) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SpearError(f"cannot write to standard output: {error.strerror}") from error
