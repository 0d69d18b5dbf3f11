"""A doorman: waits for a go on its stdin, and then becomes the program it was given.

Between the start of a process and the moment when its host has limited it, tied its life to the host's
and knows which peer to let in, a program that is not ours must not run yet. One that is Spear's agent
waits by itself, for its bootstrap record; in front of any other stands this.

A script, run as ``python -I -S _process_gate.py PROGRAM ARGUMENT...``, with the program's descriptors,
environment and directory. It imports next to nothing: a hundredth of a second is all it takes.
"""

from __future__ import annotations

import os
import sys

# Not `signal`, which builds enums for some milliseconds.
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]  # no stubs

# Coverage cannot follow here: there is no site-packages, and an exec at the end.


def _initial_environment() -> dict[bytes, bytes]:  # pragma: no cover
    # os.environ may have an LC_CTYPE that the interpreter put there for itself (PEP 538).
    with open("/proc/self/environ", "rb") as file:
        entries = file.read().split(b"\0")
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def main() -> None:  # pragma: no cover
    """Wait, and become the program; exits with 127 if that cannot be, 1 if the host is gone."""
    if not os.read(0, 1):
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for number in SIGPIPE, SIGXFSZ:  # this interpreter ignores them, and that is inherited
        signal(number, SIG_DFL)
    try:
        os.execve(sys.argv[1], sys.argv[1:], _initial_environment())  # noqa: S606  # its whole purpose
    except OSError as error:
        sys.stderr.write(f"cannot run {sys.argv[1]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


if __name__ == "__main__":  # pragma: no cover
    main()
