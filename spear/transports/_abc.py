"""The contracts of byte streams and listeners.

Both are Trio's own contracts (``trio.testing.check_half_closeable_stream`` is the conformance
suite) plus what the accept loop needs: closing without an await, knowing the peer, and putting a
connection's security handshake outside ``accept``, where one slow peer would hold up all others.

This module knows no concrete transport.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._addresses import Address
    from ._credentials import PeerCredentials
    from ._tls import TlsClient


class ByteStream(trio.abc.HalfCloseableStream):
    """A two-way stream of bytes with backpressure.

    As with Trio's streams, a cancelled ``send_all`` may have sent any part of its data, so that
    the stream is good for nothing but closing; a cancelled ``receive_some`` has taken nothing.
    """

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Close at once; tasks blocked on this stream get ``trio.ClosedResourceError``."""

    @abstractmethod
    def describe_peer(self) -> str:
        """The peer, for log lines."""

    def peer_credentials(self) -> PeerCredentials | None:
        """Return the peer's process as the kernel knows it; None for anything but Unix sockets."""
        return None

    async def aclose(self) -> None:
        """Close, even when cancelled; the only thing that waits is the checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


class Listener(trio.abc.Listener[ByteStream]):
    """Accepts streams until it is closed."""

    __slots__ = ()

    @property
    @abstractmethod
    def bound(self) -> Address:
        """The address that it listens on, with the port that was really bound."""

    @property
    def advertised(self) -> Address:
        """The address at which instances reach it; by default the one that is bound."""
        return self.bound

    @property
    def trust(self) -> TlsClient | None:
        """How instances check who listens; None if by what their system trusts, or not at all."""
        return None

    @abstractmethod
    async def accept(self) -> ByteStream:
        """The next connection, as it comes from the network; see :meth:`secure`.

        If cancelled, no connection is lost: it stays queued.

        Raises:
            trio.ClosedResourceError: the listener is closed.
            trio.BrokenResourceError: it can never accept again.
            OSError: no file descriptor or memory is left (errno in ``CAPACITY_ERRNOS``); the
                connection stays queued, so try again a little later.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop accepting at once; a blocked ``accept`` gets ``trio.ClosedResourceError``."""

    async def secure(self, stream: ByteStream) -> trio.abc.Stream:
        """Return the stream to speak on, after this transport's own handshake.

        If cancelled, the connection is unusable.

        Raises:
            Refused: the peer failed the handshake.
        """
        return stream

    async def aclose(self) -> None:
        """Close, even when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()


class Refused(Exception):
    """A connection is not let in. Never leaves this package.

    Attributes:
        reason: what the refusal is counted under.
    """

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
