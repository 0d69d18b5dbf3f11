"""``python -m spear.agent``, up to the point where large modules have to be imported.

This module parses the arguments and sets up the lifeline, so that this process cannot outlive its host
even in its first milliseconds. ``_program`` does the rest.
"""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

USAGE = """\
usage: python -m spear.agent FILE.py[:NAME] | MODULE[:NAME] [--bootstrap-fd N]

Serve the functions of a program to its host.

A host passes its address through an inherited pipe (--bootstrap-fd). Without this option, the address is
read from the environment: SERVICE_ADDR=unix:/path SECRET=64-hex-digits SPEAR_INSTANCE=process:name#1

exit status: 0 drained, 1 connection lost permanently or functions can no longer run,
2 program cannot be loaded or started, 3 login refused by the host
"""

BAD_START = 2

BOOTSTRAP_FD = "--bootstrap-fd"
ZYGOTE_FD = "--zygote-fd"
"""An internal option for the socket on which a host requests forks; see ``_zygote``."""
OPTIONS = (BOOTSTRAP_FD, ZYGOTE_FD)


def main() -> NoReturn:
    """Run the command line, and exit."""
    # Imports create no garbage, and the collector would take 5 ms of the start.
    gc.disable()
    arguments = sys.argv[1:]
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        sys.exit(0)
    target, fd, control = _parse(arguments)
    if fd is not None:  # a process started by hand keeps the signals of its shell
        from ._birth import reset_signals

        reset_signals()
    if control is not None and fd is not None:
        from ._lifeline import tie_to

        tie_to(fd)
        from ._zygote import run_zygote

        sys.exit(run_zygote(target, fd, control))
    record: bytes | None = None
    if fd is not None:
        from ._lifeline import take_record

        try:
            record = take_record(fd)
        except (OSError, ValueError) as error:
            fail(f"file descriptor {fd} is not a bootstrap pipe: {error}")
    from ._program import launch

    sys.exit(launch(target, record))


def _parse(arguments: list[str]) -> tuple[str, int | None, int | None]:
    """Return (target, bootstrap descriptor, zygote descriptor). argparse would take 6 ms to import."""
    numbers: dict[str, int] = {}
    targets: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in OPTIONS and word not in numbers:
            number = next(words, "")
            if not (number.isascii() and number.isdecimal()):
                break
            numbers[word] = int(number)
        elif word.startswith("-"):
            break
        else:
            targets.append(word)
    else:
        if len(targets) == 1 and (ZYGOTE_FD not in numbers or BOOTSTRAP_FD in numbers):
            return targets[0], numbers.get(BOOTSTRAP_FD), numbers.get(ZYGOTE_FD)
    sys.stderr.write(USAGE)
    sys.exit(BAD_START)


def fail(message: str) -> NoReturn:
    """Write an error message to stderr, and exit."""
    sys.stderr.write(f"spear: {message}\n")
    sys.exit(BAD_START)
