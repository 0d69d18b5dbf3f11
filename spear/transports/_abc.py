"""The contracts of byte streams and listeners.

Both extend Trio's contracts (``trio.testing.check_half_closeable_stream`` is the conformance suite) with
the needs of the accept loop: closing without an await, a description of the peer, and a security
handshake outside ``accept``. Inside ``accept``, one slow peer would delay all others.

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

    As with Trio's streams, a cancelled ``send_all`` may have sent any part of its data, so that the
    stream can only be closed. A cancelled ``receive_some`` has received nothing.
    """

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Close at once; tasks blocked on this stream get ``trio.ClosedResourceError``."""

    @abstractmethod
    def describe_peer(self) -> str:
        """Return a description of the peer for log lines."""

    def peer_credentials(self) -> PeerCredentials | None:
        """Return the peer's process as the kernel knows it; None unless this is a Unix socket."""
        return None

    async def aclose(self) -> None:
        """Close, even if cancelled. A checkpoint that does not block."""
        self.close()
        await trio.lowlevel.checkpoint()


class Listener(trio.abc.Listener[ByteStream]):
    """A listener that accepts streams until it is closed."""

    __slots__ = ()

    @property
    @abstractmethod
    def bound(self) -> Address:
        """The address on which this listener listens, with the port that was actually bound."""

    @property
    def advertised(self) -> Address:
        """The address at which instances reach this listener; by default :attr:`bound`."""
        return self.bound

    @property
    def trust(self) -> TlsClient | None:
        """TLS settings for instances to verify this listener; None for their system's, or for no TLS."""
        return None

    @abstractmethod
    async def accept(self) -> ByteStream:
        """Return the next connection, before its security handshake; see :meth:`secure`.

        Cancellation loses no connection: each stays queued until it is returned.

        Raises:
            trio.ClosedResourceError: the listener is closed.
            trio.BrokenResourceError: the listener can never accept again.
            OSError: no file descriptor or memory is left (errno in ``CAPACITY_ERRNOS``). The connection
                stays queued, so the caller may retry a little later.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop accepting at once; a blocked ``accept`` gets ``trio.ClosedResourceError``."""

    async def secure(self, stream: ByteStream) -> trio.abc.Stream:
        """Do this transport's own handshake, and return the stream for the protocol.

        After a cancellation, the connection is unusable.

        Raises:
            Refused: the peer failed the handshake.
        """
        return stream

    async def aclose(self) -> None:
        """Close, even if cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()


class Refused(Exception):
    """A connection is refused. Never leaves this package.

    Attributes:
        reason: the name under which the refusal is counted.
    """

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
