"""Notice clients that disconnect while their requests are handled.

One epoll, read by one task, watches the sockets of all connections for the end of the client's stream.
Incoming data does not wake it. So the task of a connection can wait for a function without reading and
without a second task that reads. A socket is registered once a connection, so a request costs nothing.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final, TypeAlias, final

from trio.lowlevel import wait_readable

from spear._forks import disown, own
from spear.channels import protected_class

Note: TypeAlias = Callable[[bool], None]
"""Called when a client's stream has ended: with False for a half-close, with True for a disconnect.

Must neither block nor raise: an exception ends the gateway."""

_GONE: Final = select.EPOLLHUP | select.EPOLLERR


@final
@protected_class
class Departures:
    """A watcher for the ends of clients' streams. Nothing is noticed unless :meth:`run` runs."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._notes: dict[int, Note] = {}
        own(self._epoll.fileno())

    def watch(self, descriptor: int, note: Note) -> None:
        """Watch a socket until :meth:`forget`.

        Args:
            descriptor: The file descriptor of the socket.
            note: Called by :meth:`run` when the client's stream ends, and again when the client is gone.
        """
        self._notes[descriptor] = note
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLET)

    def forget(self, descriptor: int) -> None:
        """Stop watching a socket. Must be called before the socket is closed."""
        del self._notes[descriptor]
        self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Call the notes of sockets whose clients have left, until cancelled."""
        while True:
            await wait_readable(self._epoll.fileno())
            for descriptor, events in self._epoll.poll(0):
                if note := self._notes.get(descriptor):
                    note(bool(events & _GONE))

    def close(self) -> None:
        """Close the epoll. Must be called after :meth:`run` has ended."""
        disown(self._epoll.fileno())
        self._epoll.close()
