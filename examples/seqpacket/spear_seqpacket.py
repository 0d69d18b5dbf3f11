"""A transport in a distribution of its own: Unix sockets that keep message boundaries (SOCK_SEQPACKET).

A byte stream has no message boundaries. Each read therefore takes a whole message from the socket, and
keeps the bytes beyond ``max_bytes`` for the next read.
"""

import operator
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import attrs
import trio

from spear import transports
from spear.transports import ConnectOptions, ListenOptions, Opening, SocketListener

KIND = socket.SOCK_SEQPACKET
MESSAGE_BYTES = 64 * 1024


@attrs.frozen
class SeqpacketAddress(transports.Address):
    """The address of a socket in the file system."""

    path: str
    reach = transports.Reach.MACHINE

    def __str__(self) -> str:
        return f"seqpacket:{self.path}"


class SeqpacketStream(transports.ByteStream):
    """A connection. An empty message means the end of the stream, so none is ever sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._rest = b""
        self._is_sending = False
        self._is_ended = False

    @contextmanager
    def _as_sender(self) -> Iterator[None]:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._is_sending = True
        try:
            with self._as_stream():
                self._socket.getpeername()  # raises if closed, even if there is nothing to send
                yield
        finally:
            self._is_sending = False

    @contextmanager
    def _as_stream(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._socket.fileno() == -1:
                raise trio.ClosedResourceError("this stream was closed") from None
            raise trio.BrokenResourceError(f"connection broken: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._as_sender(), memoryview(data) as view:
            if self._is_ended:
                raise trio.ClosedResourceError("cannot send after send_eof()")
            await trio.lowlevel.checkpoint()
            for start in range(0, len(view), MESSAGE_BYTES):
                await self._socket.send(view[start : start + MESSAGE_BYTES])

    async def wait_send_all_might_not_block(self) -> None:
        with self._as_sender():
            await trio.lowlevel.wait_writable(self._socket)

    async def send_eof(self) -> None:
        with self._as_sender():
            await trio.lowlevel.checkpoint()
            self._socket.shutdown(socket.SHUT_WR)
            self._is_ended = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = MESSAGE_BYTES if max_bytes is None else operator.index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._as_stream():
            await trio.lowlevel.checkpoint()
            self._rest = self._rest or await self._socket.recv(MESSAGE_BYTES)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        self._socket.close()

    def peer_credentials(self) -> transports.PeerCredentials | None:
        return transports.PeerCredentials.of(self._socket)

    def describe_peer(self) -> str:
        return "a process of this machine"


class SeqpacketTransport(transports.Transport):
    """A transport whose listeners are in the host's private directory, like Spear's own Unix sockets."""

    name = "seqpacket"

    def parse(self, address: str) -> SeqpacketAddress:
        return SeqpacketAddress(address.partition(":")[2])

    def listen(self, options: ListenOptions) -> Opening[SocketListener]:
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> SocketListener:
        await trio.lowlevel.checkpoint()
        chosen = options.address or f"seqpacket:{options.get_directory()}/{options.name}.packets"
        bound = self.parse(str(chosen))
        return transports.open_unix_listener(
            bound.path, bound=bound, kind=KIND, make_stream=SeqpacketStream
        )

    def connect(
        self, address: transports.Address, options: ConnectOptions
    ) -> Opening[transports.ByteStream]:
        path, seconds = self.parse(str(address)).path, options.seconds
        connect = partial(transports.connect_unix, kind=KIND, make_stream=SeqpacketStream)
        return Opening(partial(connect, path, seconds=seconds))
