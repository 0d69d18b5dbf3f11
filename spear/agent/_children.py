"""Signal handlers in the children that a function forks.

Trio and ``watch_signals`` handle SIGINT and SIGTERM by waking the event loop, which does not run in a
forked child. A child that inherited these handlers would ignore both signals. Its parent, which
terminates the child and waits for it, would wait for ever. A child therefore gets the handlers that the
program itself has set, or the default ones. Both signals are blocked until then, so that none is lost.
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
_forking: Final = threading.local()  # the signal mask of the forking thread before the fork


def remember_handlers() -> None:
    """Remember the program's own handlers, before Trio and this package set theirs."""
    _before.update((number, signal.getsignal(number)) for number in WATCHED)


def keep_from_children() -> None:
    """Replace the current handlers in forked children by the remembered ones from now on."""
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
        # None: a handler not set from Python. A different handler: the program has set it meanwhile.
        if signal.getsignal(number) is ours and (before := _before.get(number)) is not None:
            signal.signal(number, before)
    if _ours:
        signal.set_wakeup_fd(-1)  # otherwise a signal would wake the parent's event loop
        _ours.clear()
    try:
        _let_through()
    except KeyboardInterrupt:  # Python would ignore it in a fork hook
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)


os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_restore)
