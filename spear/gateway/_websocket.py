"""A WebSocket by wsproto: bounded messages that are JSON or bytes, and pings.

Compression is not negotiated: a client could send a gigabyte in a few bytes. The gateway pings the client
each ``keep_alive_seconds``, and closes the connection if it read nothing from the client since the last
ping. This module does not interpret messages.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, final

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import generate_accept_token

from spear.channels import open_private_nursery, protected_block, protected_class

from ._errors import Problem
from ._exchange import parse_json, show
from ._http1 import response_head

if TYPE_CHECKING:
    from wsproto.events import Event

    from ._request import Link, Request
    from ._settings import GatewaySettings

PROTOCOL: Final = "spear.v1"

VERSION: Final = b"13"

_BEFORE_ALL: Final = (ConnectionState.OPEN,)
_BEFORE_CLOSE: Final = (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING)
"""States in which a frame may be sent, and states in which the closing frame may be sent."""

MAX_UNREAD: Final = 2
"""Maximum number of messages queued for the function. After one more, reading from the socket pauses."""


def check_handshake(request: Request) -> None:
    """Raise Problem unless a request is a valid WebSocket handshake (RFC 6455, 4.2.1)."""
    headers = request.headers
    if headers.get(b"sec-websocket-version") != VERSION:
        message = "only version 13 of WebSockets is supported: send Sec-WebSocket-Version: 13"
        raise Problem(400, "BadRequest", message, headers=((b"sec-websocket-version", VERSION),))
    try:
        is_key = len(b64decode(headers.get(b"sec-websocket-key", b""), validate=True)) == 16
    except ValueError:
        is_key = False
    if not is_key or b"sec-websocket-key" in request.repeated:
        raise Problem(400, "BadRequest", "Sec-WebSocket-Key must be 16 bytes in Base64")
    if request.is_http_1_0:
        raise Problem(400, "BadRequest", "a WebSocket needs HTTP/1.1")
    if request.has_body:  # a body would be read as messages
        raise Problem(400, "BadRequest", "a request for a WebSocket must not have a body")


@final
@protected_class
class WebSocket:
    """A WebSocket, from its handshake to its end. Use it in the block of :meth:`opened`.

    Args:
        request: The request, which :func:`check_handshake` has accepted.
        link: The connection.
        settings: The settings of the gateway.
    """

    def __init__(self, request: Request, link: Link, settings: GatewaySettings) -> None:
        self._request = request
        self._link = link
        self._settings = settings
        self._wire = Connection(ConnectionType.SERVER)
        self._put, self._messages = trio.open_memory_channel[tuple[bytes, bool]](MAX_UNREAD)
        self._message = bytearray()  # the received part; not a list, as parts can be empty
        self._is_heard = True  # whether bytes arrived since the last ping
        self._is_reading = True  # False while the receiver waits for the function
        self._sending = trio.Lock()

    @protected_block
    async def opened(self) -> AsyncIterator[None]:
        """Send the response 101, then receive messages and answer pings while the block runs.

        The block must call :meth:`close`; otherwise the client is disconnected without a closing frame.
        The handler of the request is cancelled if the client disconnects, closes the WebSocket, violates
        the protocol, sends too large a message or stays silent.
        """
        headers = self._request.headers
        token = generate_accept_token(headers[b"sec-websocket-key"])
        head = [
            (b"upgrade", b"websocket"),
            (b"connection", b"upgrade"),
            (b"sec-websocket-accept", token),
            *self._request.extra,
        ]
        names = headers.get(b"sec-websocket-protocol", b"").split(b",")
        if PROTOCOL.encode() in (each.strip() for each in names):
            head.append((b"sec-websocket-protocol", PROTOCOL.encode()))
        self._request.status = 101
        self._request.is_open_ended = True
        await self._link.write(response_head(101, head))
        async with open_private_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._ping)
            yield
            nursery.cancel_scope.cancel()

    async def receive(self) -> object:
        """Return the next message: bytes, or the value of its JSON. Raises Problem for other text."""
        message, is_text = await self._messages.receive()
        return parse_json(message, "the message") if is_text else message

    async def send(self, item: object) -> None:
        """Send bytes as a binary message, any other item as JSON.

        Raises:
            Problem: the item has no representation in JSON (502).
        """
        if isinstance(item, bytes):
            await self._send(BytesMessage(data=item))
        else:
            await self._send(TextMessage(data=show(item).decode()))

    async def close(self, code: int, reason: str = "") -> None:
        """Send the closing frame. Later messages are dropped."""
        await self._send(CloseConnection(code=code, reason=reason))
        self._request.is_ended = self._request.closes = True

    async def _send(self, event: Event) -> None:
        try:  # an uncontended acquire() would be a pass of the scheduler, too
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            is_last = isinstance(event, CloseConnection)
            if self._wire.state in (_BEFORE_CLOSE if is_last else _BEFORE_ALL):
                await self._link.write(self._wire.send(event))
        finally:
            self._sending.release()

    # -- receiving --------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            data = self._link.parser.take_rest()
            if data:
                self._is_heard = True
                self._wire.receive_data(data)
                for event in self._wire.events():
                    await self._handle(event)
                    await trio.lowlevel.checkpoint()  # one read can contain many events
            await self._link.receive()

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Message):
            is_text = isinstance(event, TextMessage)
            self._message += event.data.encode() if is_text else event.data
            if len(self._message) > self._settings.max_message_bytes:
                await self.close(CloseReason.MESSAGE_TOO_BIG)
                await self._link.leave()
            if event.message_finished:
                message = bytes(self._message)
                self._message.clear()
                self._is_reading = False
                await self._put.send((message, is_text))
                self._is_reading = self._is_heard = True
        elif isinstance(event, Ping):
            await self._send(event.response())
        elif isinstance(
            event, CloseConnection
        ):  # from the client, or wsproto's for a violation of the protocol
            await self.close(event.code, event.reason or "")
            await self._link.leave()

    async def _ping(self) -> None:
        await trio.sleep(self._settings.keep_alive_seconds)
        while self._is_heard or not self._is_reading:
            self._is_heard = False
            await self._send(Ping())
            await trio.sleep(self._settings.keep_alive_seconds)
        await self._link.leave()
