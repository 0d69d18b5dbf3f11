"""The connections of a client to its host, which later requests use again.

Invariants:

* At most ``max_connections`` are open; a request beyond them waits for one, first come, first served.
* An idle connection has no response outstanding: a connection whose response was not read to its end is
  closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from spear.channels import protected_class

from ._connection import HostConnection

if TYPE_CHECKING:
    from ._address import HostAddress

MAX_IDLE_SECONDS: Final = 60.0
"""Seconds after which an idle connection is not used again: the gateway closes it after 75 s."""


@final
@protected_class
class ConnectionPool:
    """A pool of connections to one host.

    Attributes:
        address: the address of the host.
        max_connections: the most connections.
        open: the number of connections that are open or being opened.
        opened: the number of connections that were opened so far.
    """

    def __init__(self, address: HostAddress, max_connections: int) -> None:
        self.address = address
        self.max_connections = max_connections
        self.open = 0
        self.opened = 0
        self._idle: list[HostConnection] = []
        self._waiting = trio.lowlevel.ParkingLot()

    async def acquire(self, *, is_new: bool = False) -> HostConnection:
        """Return a connection, which must be given to :meth:`release` or :meth:`discard`.

        Waits if there are ``max_connections``. If cancelled, no connection is taken.

        Args:
            is_new: whether a connection that was used before will not do.

        Raises:
            NoHost: the host accepts no connection.
        """
        while True:
            while self._idle:
                connection = self._idle.pop()
                age = trio.current_time() - connection.idle_since
                if not is_new and age < MAX_IDLE_SECONDS and connection.is_alive():
                    return connection
                await self.discard(connection)
            if self.open < self.max_connections:
                break
            await self._waiting.park()
        self.open += 1
        try:
            stream = await self.address.open_stream()
        except BaseException:
            self._closed()
            raise
        self.opened += 1
        return HostConnection(stream)

    async def release(self, connection: HostConnection) -> None:
        """Take back a connection whose response was read to its end."""
        if connection.may_be_reused():
            self._idle.append(connection)
            self._waiting.unpark()
        else:
            await self.discard(connection)

    async def discard(self, connection: HostConnection) -> None:
        """Close a connection. Works even if the task is cancelled."""
        self._closed()
        await connection.aclose()

    def _closed(self) -> None:
        self.open -= 1
        self._waiting.unpark()

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self.discard(self._idle.pop())
