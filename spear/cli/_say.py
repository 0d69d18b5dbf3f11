"""Standard output of the commands: all of it is written, or the command fails.

What ``print`` leaves in a buffer is written when the interpreter ends, when nobody asks whether it works.
Loads nothing that takes time.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from spear._errors import ConfigurationError, SpearError

from ._waiting import wait_writable


def expect_output() -> None:
    """Raise ConfigurationError if standard output is closed; another file may have its number by now."""
    if sys.stdout is None:
        raise ConfigurationError(
            "standard output is closed: give the command one, such as /dev/null"
        )


def say(said: str) -> None:
    """Print lines.

    Raises:
        BrokenPipeError: the reader has closed its end.
        ConfigurationError: standard output is closed.
        SpearError: the system refuses to write.
    """
    expect_output()
    encoding = sys.stdout.encoding or "utf-8"
    write(f"{said}\n".encode(encoding, "backslashreplace"))


def complain(said: str) -> None:
    """Print lines on standard error, if they can be written there: the exit status says enough."""
    if sys.stderr is not None:  # print() would take standard output instead
        with suppress(OSError):
            print(said, file=sys.stderr, flush=True)


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
