"""A Trio stream over a standard library socket, and a listener that accepts such streams.

Trio's own SocketStream hides the socket in a wrapper. The channel layer's hot path calls ``send`` and
``recv_into`` on the plain non-blocking socket, which is about twice as fast. The stream of this module
therefore has the socket as a public attribute, and implements the stream contract directly on it.

This module does not know how sockets are bound or connected.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, final

import trio

from spear._forks import own_socket

from ._abc import ByteStream, Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._addresses import Address
    from ._credentials import PeerCredentials

UNIX_SEND_BUFFER_BYTES: Final = 1024 * 1024
"""Send buffer of a Unix socket. This size makes the round trip of 1 MiB a third shorter (275 to 195 us);
with the default of 208 KiB, the two processes take turns. A Unix socket has no receive buffer of its own.
On TCP, a fixed size makes the same round trip slower, because it disables the kernel's tuning."""

RECEIVE_BYTES: Final = 64 * 1024
LISTEN_BACKLOG: Final = 1024
"""Most connections queued in the kernel while the accept loop pauses."""

CAPACITY_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of ``accept`` for lack of descriptors or memory; the connection stays in the queue."""

# On Linux, accept() also reports errors of the one connection that occurred before it was accepted.
# This is Trio's list; see the literature review in trio/_highlevel_socket.py.
_IGNORED_ERRNOS: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.ENOSR,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
        errno.ETIMEDOUT,
    }
)


@contextmanager
def _as_stream_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.EBADF:
            raise trio.ClosedResourceError("this stream was closed") from None
        raise trio.BrokenResourceError(f"connection broken: {exc}") from exc


@final
class SocketStream(ByteStream):
    """A stream over a connected socket, of which the stream takes ownership.

    Attributes:
        socket: the socket, non-blocking. Reading and writing it directly with
            ``trio.lowlevel.wait_readable`` is fine as long as no task uses the same direction of
            the stream at the same time. Close the stream, not the socket.
    """

    __slots__ = ("_eof_sent", "_sending", "socket")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # Setting an option can fail if the peer has reset the connection; the first read fails, too.
        with suppress(OSError):
            if sock.family == socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER_BYTES)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        own_socket(sock)
        self.socket = sock
        self._sending = False
        self._eof_sent = False

    @contextmanager
    def _only_sender(self) -> Iterator[None]:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self.socket.fileno() == -1:
            raise trio.ClosedResourceError("this stream was closed")
        self._sending = True
        try:
            with _as_stream_errors():
                yield
        finally:
            self._sending = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``. After a cancellation, any part of it may have been sent."""
        with self._only_sender(), memoryview(data) as view:
            if self._eof_sent:
                raise trio.ClosedResourceError("cannot send after send_eof()")
            await trio.lowlevel.checkpoint()
            sent = 0
            while sent < len(view):
                try:
                    with view[sent:] as rest:
                        sent += self.socket.send(rest)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until some data can be sent."""
        with self._only_sender():
            await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """Signal the end of the data to the peer; receiving is still possible. May be repeated."""
        with self._only_sender():
            await trio.lowlevel.checkpoint()
            if not self._eof_sent:
                self.socket.shutdown(socket.SHUT_WR)
                self._eof_sent = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return at least one byte, or ``b""`` after the peer's last. Cancellation loses no data."""
        if max_bytes is None:
            max_bytes = RECEIVE_BYTES
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        with _as_stream_errors():
            while True:
                try:
                    return self.socket.recv(max_bytes)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.socket)

    def close(self) -> None:
        """Close at once; tasks blocked on this stream get ``trio.ClosedResourceError``."""
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    def peer_credentials(self) -> PeerCredentials | None:
        """Return the peer's process as the kernel knows it; None unless this is a Unix socket."""
        if self.socket.family != socket.AF_UNIX:
            return None
        from ._credentials import PeerCredentials

        return PeerCredentials.of(self.socket)

    def describe_peer(self) -> str:
        """Return a description of the peer for log lines."""
        try:
            if credentials := self.peer_credentials():
                return f"pid {credentials.pid} of uid {credentials.uid}"
            host, port = self.socket.getpeername()[:2]
        except OSError:
            return "a closed connection"
        return f"{host} port {port}"


@final
class SocketListener(Listener):
    """A listener over a listening socket, of which the listener takes ownership.

    Args:
        sock: a socket, bound and listening.
        bound: the address of the socket.
        advertised: the address at which clients reach the socket, if it differs from ``bound``.
        on_close: called once, when the listener is closed in the process that made it.
        make_stream: makes a stream of an accepted socket.
    """

    __slots__ = ("_advertised", "_bound", "_make_stream", "_on_close", "_pid", "_socket")

    def __init__(
        self,
        sock: socket.socket,
        bound: Address,
        *,
        advertised: Address | None = None,
        on_close: Callable[[], None] | None = None,
        make_stream: Callable[[socket.socket], ByteStream] = SocketStream,
    ) -> None:
        sock.setblocking(False)
        own_socket(sock)
        self._socket = sock
        self._bound = bound
        self._advertised = advertised or bound
        self._on_close = on_close
        self._make_stream = make_stream
        self._pid = os.getpid()

    @property
    def bound(self) -> Address:
        """The address on which this listener listens, with the port that was actually bound."""
        return self._bound

    @property
    def advertised(self) -> Address:
        """The address at which instances reach this listener."""
        return self._advertised

    async def accept(self) -> ByteStream:
        """Return the next connection; see :meth:`Listener.accept`."""
        while True:
            if self._socket.fileno() == -1:
                raise trio.ClosedResourceError("this listener was closed")
            # Wait first: Linux looks for a free descriptor before it looks for a connection, so that
            # accept() would fail with EMFILE even when no connection is queued.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                continue  # the client has closed its connection again
            except OSError as exc:
                if exc.errno in CAPACITY_ERRNOS:
                    raise
                if self._socket.fileno() == -1:  # the listener was closed when a connection came
                    continue
                if exc.errno not in _IGNORED_ERRNOS:
                    raise trio.BrokenResourceError(f"cannot accept: {exc}") from exc
            else:
                return self._make_stream(sock)

    def close(self) -> None:
        """Stop accepting at once; a blocked ``accept`` gets ``trio.ClosedResourceError``."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            if self._on_close is not None and self._pid == os.getpid():  # not in a forked child
                self._on_close()
