"""A doorman: waits for a go on its stdin, and then becomes the program it was given.

Between the start of a process and the moment when its host has limited it, tied its life to the host's
and knows which peer to let in, a program that is not ours must not run yet. One that is Spear's agent
waits by itself, for its bootstrap record; in front of any other stands this.

A script, run as ``python -I -S _gate.py PROGRAM ARGUMENT...``, with the program's descriptors,
environment and directory. It imports next to nothing: a hundredth of a second is all it takes.
"""

from __future__ import annotations

import os
import sys

# Not `signal`, which builds enums for some milliseconds.
from _signal import (  # type: ignore[import-not-found]  # no stubs
    SIG_DFL,
    SIG_SETMASK,
    pthread_sigmask,
    signal,
    valid_signals,
)

# Coverage cannot follow here: there is no site-packages, and an exec at the end.


def _initial_environment() -> dict[bytes, bytes]:  # pragma: no cover
    # os.environ may have an LC_CTYPE that the interpreter put there for itself (PEP 538).
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:  # there is no /proc
        return dict(os.environb)
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def _reset_signals() -> None:  # pragma: no cover
    # What is ignored or blocked stays so through an exec: by this interpreter, which ignores SIGPIPE,
    # and by a host that was started with nohup, or in the background by a shell without job control.
    for number in valid_signals():
        try:
            signal(number, SIG_DFL)
        except OSError:  # SIGKILL, SIGSTOP
            continue
    pthread_sigmask(SIG_SETMASK, ())


def main() -> None:  # pragma: no cover
    """Wait, and become the program; exits with 127 if that cannot be, 1 if the host is gone."""
    if os.read(0, 1) != b"\n":  # the end, or the word of the host's guard
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _reset_signals()
    try:
        os.execve(sys.argv[1], sys.argv[1:], _initial_environment())  # noqa: S606  # its whole purpose
    except OSError as error:
        sys.stderr.write(f"cannot run {sys.argv[1]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


if __name__ == "__main__":  # pragma: no cover
    main()
