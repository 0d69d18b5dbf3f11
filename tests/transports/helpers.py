"""The four transports behind one interface, so that a test can run over each of them."""

from __future__ import annotations

import datetime
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import attrs
import trio
import trustme

from spear import RemoteProtocolError
from spear.transports import (
    Acceptor,
    Address,
    ConnectOptions,
    Handler,
    IncomingConnection,
    Listener,
    ListenOptions,
    TlsClient,
    Transport,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PASSWORD = b"open sesame\n"


class Certificates:
    """A certificate authority, and files of the certificates that it has issued."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *, expired: bool = False) -> str:
        """Return the path of a certificate for ``name``, with its key."""
        path = self._directory / f"{name}{'-expired' if expired else ''}.pem"
        not_after = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC) if expired else None
        leaf = self._authority.issue_cert(name, not_after=not_after)
        leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)


@attrs.frozen
class Carrier:
    """Ways to listen and connect over one transport, whose streams and listeners have no tasks."""

    transport: Transport
    address: Address
    tls_client: TlsClient | None = None

    async def listen(self) -> Listener:
        """Open a listener; the caller closes it."""
        return await self.transport.listen(ListenOptions(address=self.address)).__aenter__()

    async def connect(self, listener: Listener) -> trio.abc.Stream:
        """Open a connection; the caller closes it."""
        options = ConnectOptions(tls=self.tls_client)
        return await self.transport.connect(listener.advertised, options).__aenter__()

    async def pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        """Open two connected streams, by a listener that is closed again."""
        async with await self.listen() as listener:
            return await connected_pair(self, listener)


async def connected_pair(
    transport: Carrier, listener: Listener
) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    accepted: list[trio.abc.Stream] = []

    async def accept() -> None:
        accepted.append(await listener.secure(await listener.accept()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        connected = await transport.connect(listener)
    return connected, accepted[0]


async def receive_exactly(stream: trio.abc.Stream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        some = await stream.receive_some(size - len(received))
        if not some:
            raise trio.BrokenResourceError("the peer left")
        received += some
    return received


async def echo(connection: IncomingConnection) -> None:
    """Accept clients with the password, then send their bytes back."""
    if await receive_exactly(connection.stream, len(PASSWORD)) != PASSWORD:
        raise RemoteProtocolError("that is not the password")
    connection.promote()
    async for data in connection.stream:
        await connection.stream.send_all(data)


async def say(stream: trio.abc.Stream, text: bytes) -> None:
    """Send ``text`` to an echo, and assert that it comes back."""
    await stream.send_all(text)
    assert await receive_exactly(stream, len(text)) == text


async def expect_end(stream: trio.abc.Stream) -> None:
    """Wait until the other side has closed without having sent anything."""
    with suppress(trio.BrokenResourceError):  # closed with bytes unread
        assert await stream.receive_some(1) == b""


@asynccontextmanager
async def serving(
    acceptor: Acceptor, listener: Listener, handler: Handler = echo
) -> AsyncIterator[Listener]:
    """Serve ``listener`` while the block runs, then close all its connections."""
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(acceptor.serve, listener, handler)
        yield listener
        nursery.cancel_scope.cancel()
