"""Access to the epoll that Trio waits with: the only module of channels that uses private names of Trio.

Trio's public interface can only wake a task when a descriptor is readable. With a task that waits for our
epoll, each wake-up costs two system calls and a scheduler pass: a fifth of a call of 1 KiB on one core.
If a release of Trio has other private names, :class:`Pump` falls back to such a task.
"""

from __future__ import annotations

import select
from collections import defaultdict
from contextlib import suppress
from typing import final


@final
class TrioEpoll:
    """A wrapper of the epoll that this Trio run waits with.

    Args:
        epoll: the epoll object of Trio.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll

    def register(self, fileno: int) -> None:
        """End Trio's wait for I/O whenever a descriptor is readable, until it is unregistered."""
        self._epoll.register(fileno, select.EPOLLIN)

    def unregister(self, fileno: int) -> None:
        """Stop ending Trio's wait for a descriptor. Does nothing if Trio's run has ended."""
        with suppress(OSError, ValueError):
            self._epoll.unregister(fileno)


def trio_epoll() -> TrioEpoll | None:
    """Return the epoll of this Trio run; None if this release of Trio has other private names."""
    try:
        from trio._core import _run

        manager: object = _run.GLOBAL_RUN_CONTEXT.runner.io_manager
    except (ImportError, AttributeError):
        return None
    epoll = getattr(manager, "_epoll", None)
    # Trio looks up each readable descriptor in this table, where our descriptor has no entry: only a
    # defaultdict allows that.
    table = getattr(manager, "_registered", None)
    if isinstance(epoll, select.epoll) and isinstance(table, defaultdict):
        return TrioEpoll(epoll)
    return None
