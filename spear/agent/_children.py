"""Signals in the children that a function forks: as in those of any Python program.

Trio and ``watch_signals`` handle SIGINT and SIGTERM by waking the event loop, which does not run in a
forked child. A child that inherited these handlers would ignore both signals, and its parent, which
terminates the child and waits for it, would wait for ever. So a child has the handlers that the program
itself has set, or the default ones.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Final, TypeAlias

Handler: TypeAlias = "Callable[[int, FrameType | None], object] | int | None"

WATCHED: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that an agent in a process of its own handles."""

_before: Final[dict[signal.Signals, Handler]] = {}
_ours: Final[dict[signal.Signals, Handler]] = {}
_masks: Final[dict[int, set[int | signal.Signals]]] = {}  # of threads that are forking


def remember_handlers() -> None:
    """Note what the program has set, before Trio and we handle the signals."""
    _before.update((number, signal.getsignal(number)) for number in WATCHED)


def keep_from_children() -> None:
    """Keep what handles the signals now from children, which get what was noted before."""
    _ours.update((number, signal.getsignal(number)) for number in WATCHED)


def _block() -> None:
    """Let signals wait until the child has its own handlers; ours would swallow them before that."""
    if _ours:
        _masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


def _unblock() -> None:
    mask = _masks.pop(get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _restore() -> None:
    for number, ours in _ours.items():
        # None: a handler that was not set from Python. Another one: the program has set it meanwhile.
        if signal.getsignal(number) is ours and (before := _before.get(number)) is not None:
            signal.signal(number, before)
    if _ours:
        signal.set_wakeup_fd(-1)  # it is the parent's event loop that this would wake
        _ours.clear()
    _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_restore)
