"""One WebSocket: what ASGI says of it, and messages that are JSON or bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast, final

import trio

from ._exchange import JSON, parse_json, show
from ._request import LINGER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._request import MoreHeaders, Receive, Request, Scope, Send

PROTOCOL: Final = "spear.v1"


@final
class Socket:
    """One WebSocket, from its request to its end."""

    def __init__(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        self._request = request
        self._protocols = cast("Sequence[str]", scope["subprotocols"])
        self._next = receive
        self._put = send

    async def refuse(self, status: int, body: bytes, headers: MoreHeaders) -> None:
        """Answer the request with an error."""
        self._request.status = status
        head = [
            (b"content-type", JSON),
            (b"content-length", b"%d" % len(body)),
            *self._request.extra,
            *headers,
        ]
        await self._next()  # that it wants to connect
        await self._put(
            {"type": "websocket.http.response.start", "status": status, "headers": head}
        )
        await self._put({"type": "websocket.http.response.body", "body": body})

    async def accept(self) -> None:
        """Have a WebSocket."""
        await self._next()  # that it wants to connect
        protocol = PROTOCOL if PROTOCOL in self._protocols else None
        headers = self._request.extra
        await self._put({"type": "websocket.accept", "subprotocol": protocol, "headers": headers})
        self._request.status = 101

    async def receive(self) -> object:
        """The next message: bytes, or what its JSON says. Raises Problem."""
        message = await self._next()
        data = message.get("bytes")
        if data is not None:
            return bytes(cast("bytes", data))
        text = cast("str", message["text"])
        return parse_json(text.encode(errors="surrogatepass"), "the message")

    async def send(self, item: object) -> None:
        """Send bytes as they are, and all else as JSON."""
        what = {"bytes": item} if isinstance(item, bytes) else {"text": show(item).decode()}
        await self._put({"type": "websocket.send", **what})

    async def close(self, code: int, reason: str = "") -> None:
        """Say that this was all."""
        await self._put({"type": "websocket.close", "code": code, "reason": reason})

    async def linger(self) -> None:
        """Wait until the client has seen the end, too."""
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.EndOfChannel):
            while True:
                await self._next()
