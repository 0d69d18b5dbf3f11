"""Helpers of the tests of clients: a host in this process, and servers that are none."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import attrs
import trio
from gateway.helpers import Site, open_site

import spear
from spear.gateway import GatewaySettings
from spear.wire import encode_alone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.frozen
class Connected:
    """A host in this process, and a client of it."""

    site: Site
    host: spear.RemoteHost
    probe: spear.RemoteDeployment

    @property
    def connections(self) -> int:
        """Connections that the gateway has now."""
        return self.site.gateway.statistics().connections


@asynccontextmanager
async def open_connected(
    *,
    settings: GatewaySettings | None = None,
    is_local: bool = False,
    token: str | None = None,
    max_connections: int = 64,
) -> AsyncIterator[Connected]:
    """Open a host with a probe, and connect to it: over its control socket, or by its URL."""
    settings = settings or GatewaySettings()
    path = f"{tempfile.gettempdir()}/c.sock"
    settings = attrs.evolve(settings, control_socket=path, token=token)
    async with open_site(settings) as site:
        address = path if is_local else site.gateway.urls[0]
        async with spear.connect(
            address, token=None if is_local else token, max_connections=max_connections
        ) as host:
            yield Connected(site, host, await host.deployment("probe"))


@asynccontextmanager
async def open_server(*answers: bytes) -> AsyncIterator[str]:
    """Open a server that is no host; yield its URL.

    Each connection gets the next answer after its first bytes, and is then closed. After the last answer
    connections are closed at once.
    """
    left = list(answers)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if left:
                await stream.receive_some(65536)
                await stream.send_all(left.pop(0))

    async with trio.open_nursery() as nursery:
        open_listeners = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        listeners = cast("list[trio.SocketListener]", await nursery.start(open_listeners))
        port = listeners[0].socket.getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            nursery.cancel_scope.cancel()


@attrs.define
class Relay:
    """A relay in front of a host, whose connections a test can cut.

    Attributes:
        site: the host.
        url: the relay's URL.
    """

    site: Site
    url: str = ""
    _open: list[trio.SocketStream] = attrs.field(factory=list)

    async def serve(self, client: trio.SocketStream) -> None:
        """Pass bytes in both directions."""
        port = int(self.site.gateway.urls[0].rpartition(":")[2])
        host = await trio.open_tcp_stream("127.0.0.1", port)
        self._open.append(client)
        async with client, host, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, host, nursery.cancel_scope)
            nursery.start_soon(_copy, host, client, nursery.cancel_scope)

    def cut(self) -> None:
        """Close all connections."""
        for each in self._open:
            each.socket.close()

    async def cut_when(self, event: trio.Event) -> None:
        """Close all connections after an event."""
        await event.wait()
        self.cut()


async def _copy(
    source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    scope.cancel()


@asynccontextmanager
async def open_relay() -> AsyncIterator[Relay]:
    """Open a host with a probe, and a relay in front of it."""
    async with open_site() as site, trio.open_nursery() as nursery:
        relay = Relay(site)
        listeners = await nursery.start(partial(trio.serve_tcp, relay.serve, 0, host="127.0.0.1"))
        relay.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        try:
            yield relay
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_scripted(way: str, kind: bytes, body: bytes) -> AsyncIterator[str]:
    """Open a server with a function ``f`` whose calls all get one response; yield its URL."""
    stream = "stream" if way == "stream" else "function"
    listed = f'{{"functions": [{{"name": "f", "deployment": "d", "kind": "{stream}"}}]}}'.encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nSpear-Instance: memory:d-1#1\r\n"

    async def serve(client: trio.SocketStream) -> None:
        async with client:
            with suppress(trio.BrokenResourceError):
                async for data in client:
                    is_call = f"/{way} ".encode() in data
                    kind_now, answer = (kind, body) if is_call else (b"application/json", listed)
                    length = b"Content-Length: %d\r\n\r\n" % len(answer)
                    await client.send_all(head % kind_now + length + answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        try:
            yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        finally:
            nursery.cancel_scope.cancel()


def response(status: int, value: object = None, *headers: str) -> bytes:
    """Return a response with a value as CBOR."""
    body = encode_alone(value)
    lines = [f"HTTP/1.1 {status} Any", "Content-Type: application/cbor", *headers]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


CUT: Final = b"\xff"

LISTED: Final = response(
    200,
    {
        "functions": [
            {
                "name": "f", "deployment": "d", "kind": "function", "timeout_seconds": 30.0,
                "retry": {"max_attempts": 2}, "signature": "f()", "summary": "",
            },
            {"name": "g", "deployment": "d", "kind": "function", "retry": {"odd": 1}},
            "no function",
        ]
    },
)  # fmt: skip


@asynccontextmanager
async def open_answers(*answers: bytes) -> AsyncIterator[str]:
    """Open a server that lists functions, and sends each other request the next answer; yield its URL.

    After an empty answer, and one that begins with CUT, the connection is closed.
    """
    left = list(answers)

    async def serve(client: trio.SocketStream) -> None:
        async with client:
            with suppress(trio.BrokenResourceError):
                async for data in client:
                    answer = LISTED if b"GET /v1/functions " in data else left.pop(0)
                    await client.send_all(answer.removeprefix(CUT))
                    if answer.startswith(CUT) or not answer:
                        return

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        try:
            yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        finally:
            nursery.cancel_scope.cancel()
    assert not left
