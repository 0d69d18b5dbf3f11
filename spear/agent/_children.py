"""Signals in the children that a function forks: as in those of any Python program.

Trio and ``watch_signals`` handle SIGINT and SIGTERM by waking the event loop, which does not run in a
forked child. A child that inherited these handlers would ignore both signals, and its parent, which
terminates the child and waits for it, would wait for ever. So a child has the handlers that the program
itself has set, or the default ones. Both signals wait until it has them, as an earlier one would be lost.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, TypeAlias

SignalHandler: TypeAlias = "Callable[[int, FrameType | None], object] | int | None"

WATCHED: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that an agent in a process of its own handles."""

_before: Final[dict[signal.Signals, SignalHandler]] = {}
_ours: Final[dict[signal.Signals, SignalHandler]] = {}
_forking: Final = threading.local()  # what the thread that forks had blocked before


def remember_handlers() -> None:
    """Note what the program has set, before Trio and we handle the signals."""
    _before.update((number, signal.getsignal(number)) for number in WATCHED)


def keep_from_children() -> None:
    """Keep what handles the signals now from children, which get what was noted before."""
    _ours.update((number, signal.getsignal(number)) for number in WATCHED)


def _hold_back() -> None:
    if _ours:
        _forking.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


def _let_through() -> None:
    blocked = _forking.__dict__.pop("blocked", None)
    if blocked is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _restore() -> None:
    for number, ours in _ours.items():
        # None: a handler that was not set from Python. Another one: the program has set it meanwhile.
        if signal.getsignal(number) is ours and (before := _before.get(number)) is not None:
            signal.signal(number, before)
    if _ours:
        signal.set_wakeup_fd(-1)  # it is the parent's event loop that this would wake
        _ours.clear()
    try:
        _let_through()
    except KeyboardInterrupt:  # which Python would ignore here
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)


os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_restore)
