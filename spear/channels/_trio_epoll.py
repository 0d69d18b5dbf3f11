"""The epoll that Trio waits with: the only module of channels that uses private names of Trio.

Trio's public interface can only wake a task when a descriptor is readable. A task that waits for our
epoll, again and again, costs each wake-up two system calls and a pass of the scheduler: a fifth of a call
of 1 KiB on one core. Where a release of Trio has other names, such a task does it; see :class:`Pump`.
"""

from __future__ import annotations

import select
from collections import defaultdict
from contextlib import suppress
from typing import final


@final
class TrioEpoll:
    """The epoll of this Trio run.

    Args:
        epoll: the epoll itself.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll

    def register(self, fileno: int) -> None:
        """End Trio's wait for I/O whenever a descriptor is readable, until it is unregistered."""
        self._epoll.register(fileno, select.EPOLLIN)

    def unregister(self, fileno: int) -> None:
        """Stop that. Does nothing if Trio's run has ended."""
        with suppress(OSError, ValueError):
            self._epoll.unregister(fileno)


def trio_epoll() -> TrioEpoll | None:
    """Return the epoll of this Trio run; None if this release of Trio is made otherwise."""
    try:
        from trio._core import _run

        manager: object = _run.GLOBAL_RUN_CONTEXT.runner.io_manager
    except (ImportError, AttributeError):
        return None
    epoll = getattr(manager, "_epoll", None)
    # Trio looks each readable descriptor up in a table, which must not miss one without a task.
    table = getattr(manager, "_registered", None)
    if isinstance(epoll, select.epoll) and isinstance(table, defaultdict):
        return TrioEpoll(epoll)
    return None
