"""Signals as they are at birth, whatever the host's own are.

What is ignored or blocked stays so through an exec. So a host that was started with nohup, or in the
background by a shell without job control, hands that on: to its instances, and to whatever these start.

This runs before anything heavy is imported, and imports nothing heavy itself.
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
"""Linux has no signal above it."""

_PYTHONS_OWN = (SIGPIPE, SIGXFSZ)
"""The interpreter ignores them itself, to raise OSError instead; what it starts need not do so."""


def reset_signals() -> None:
    """Ignore and block nothing that this interpreter would not ignore of its own accord."""
    for number in range(1, _LAST + 1):
        if number not in _PYTHONS_OWN and getsignal(number) == SIG_IGN:
            signal(number, default_int_handler if number == SIGINT else SIG_DFL)
    pthread_sigmask(SIG_SETMASK, ())
