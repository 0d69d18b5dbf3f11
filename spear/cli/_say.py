"""Standard output of the commands: either everything is written, or the command fails.

``print`` buffers its output until the interpreter exits, when errors are no longer noticed. This module
imports nothing that loads slowly.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from spear._errors import ConfigurationError, SpearError

from ._waiting import wait_writable


def expect_output() -> None:
    """Raise ConfigurationError if standard output is closed: another file may have its descriptor."""
    if sys.stdout is None:
        raise ConfigurationError("standard output is closed: redirect it, for example to /dev/null")


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
    """Print lines on standard error. Failures are ignored: the exit status is enough."""
    if sys.stderr is not None:  # print() would use standard output instead
        with suppress(OSError):
            print(said, file=sys.stderr, flush=True)


def write(data: bytes) -> None:
    """Write all the data without buffering, so that a reader sees it at once. Raises as :func:`say`."""
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


def silence(output: TextIO) -> None:
    """Redirect an output to /dev/null, so that the interpreter does not write to it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output.fileno())
    os.close(nowhere)
