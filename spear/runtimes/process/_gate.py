"""A launcher: waits for a newline on stdin, and then executes the program given to it.

After the start of a process, the host sets its resource limits and its lifeline, and learns the pid that
may log in. The program must not run before that. Spear's agent waits by itself for its bootstrap record;
every other program is started through this launcher.

A script, run as ``python -I -S _gate.py PROGRAM ARGUMENT...``, with the program's descriptors,
environment and directory. The launcher imports almost no modules, so that it starts within about 10 ms.
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

# Coverage cannot measure this script, which has no site-packages and ends in an exec.


def _initial_environment() -> dict[bytes, bytes]:  # pragma: no cover
    # os.environ may have an LC_CTYPE that the interpreter put there for itself (PEP 538).
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:  # no /proc
        return dict(os.environb)
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def _reset_signals() -> None:  # pragma: no cover
    # An exec keeps ignored and blocked signals. This interpreter ignores SIGPIPE. A host ignores more
    # if it was started with nohup, or in the background by a shell without job control.
    for number in valid_signals():
        try:
            signal(number, SIG_DFL)
        except OSError:  # SIGKILL, SIGSTOP
            continue
    pthread_sigmask(SIG_SETMASK, ())


def main() -> None:  # pragma: no cover
    """Wait for the newline, then execute the program. Exit with 127 if that fails, 1 if the host died."""
    if os.read(0, 1) != b"\n":  # the end of the pipe, or the message of the host's guard
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
