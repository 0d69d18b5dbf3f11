"""Notices clients that leave while their requests are handled, at no cost for any request.

One epoll watches the sockets of all connections for the end of the other side's stream, and for nothing
else: data does not wake it. So the task of a connection may wait for a function without reading, and
without a second task that reads in its place.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final, TypeAlias, final

from trio.lowlevel import wait_readable

from spear._forks import disown, own
from spear.channels import protected_class

Note: TypeAlias = Callable[[bool], None]
"""Called when the client's stream has ended; with True if the client cannot receive either."""

_GONE: Final = select.EPOLLHUP | select.EPOLLERR


@final
@protected_class
class Departures:
    """The sockets that are watched."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._notes: dict[int, Note] = {}
        own(self._epoll.fileno())

    def watch(self, descriptor: int, note: Note) -> None:
        """Watch a socket until :meth:`forget`; ``note`` is called at each change for the worse."""
        self._notes[descriptor] = note
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLET)

    def forget(self, descriptor: int) -> None:
        """Watch a socket no more. To be called before the socket is closed."""
        del self._notes[descriptor]
        self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Call the notes, until cancelled."""
        while True:
            await wait_readable(self._epoll.fileno())
            for descriptor, events in self._epoll.poll(0):
                if note := self._notes.get(descriptor):
                    note(bool(events & _GONE))

    def close(self) -> None:
        """Watch nothing any more. To be called when :meth:`run` has ended."""
        disown(self._epoll.fileno())
        self._epoll.close()
