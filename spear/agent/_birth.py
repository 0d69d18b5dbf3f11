"""Resetting signals at process start-up, regardless of the host's signals.

An exec keeps ignored and blocked signals. A host that was started with nohup, or in the background by a
shell without job control, passes them on to its instances, and to the processes that they start.

This module runs before any large module is imported, and imports no large module itself.
"""

from __future__ import annotations

# Not `signal`, which builds enums for some milliseconds.
from _signal import (  # type: ignore[import-not-found]  # no stubs
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIGINT,
    SIGPIPE,
    SIGXFSZ,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    signal,
)

_LAST = 64
"""The highest signal number of Linux."""

_PYTHONS_OWN = (SIGPIPE, SIGXFSZ)
"""Signals that the interpreter itself ignores, to raise OSError; child processes need not ignore them."""


def reset_signals() -> None:
    """Give ignored signals, except SIGPIPE and SIGXFSZ, Python's defaults; unblock all signals."""
    for number in range(1, _LAST + 1):
        if number not in _PYTHONS_OWN and getsignal(number) == SIG_IGN:
            signal(number, default_int_handler if number == SIGINT else SIG_DFL)
    pthread_sigmask(SIG_SETMASK, ())
