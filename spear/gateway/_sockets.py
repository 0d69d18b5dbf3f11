"""WebSockets: a function's items in both directions.

The first message of the client has the arguments, all others are items. What comes after the function's
last item says how it ended, and so does the code with which the socket is closed.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio
from starlette.websockets import WebSocket

from spear._errors import LocalProtocolError, SpearError
from spear.channels import open_private_nursery

from ._calls import find_function, with_options
from ._errors import Problem, describe, retry_after, retry_header, status_of
from ._exchange import add_keywords, parse_json, query_of, show, split_arguments
from ._request import LINGER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spear.spearlet import Function, FunctionStream

    from ._app import App
    from ._request import Receive, Request, Scope, Send

PROTOCOL: Final = "spear.v1"

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
WRONG_DATA: Final = 1007


@final
class Socket:
    """One WebSocket, and the call that it is for."""

    def __init__(
        self, app: App, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._app = app
        self._request = request
        self._socket = WebSocket(scope, receive, send)
        self._failure: Exception | None = None

    async def refuse(self, error: Exception) -> None:
        """Answer with an error instead of a WebSocket."""
        request = self._request
        status = status_of(error, is_draining=self._app.is_draining)
        told = describe(error, request_id=request.id)
        body = show({"error": told})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *request.extra,
            *retry_header(retry_after(error, status)),
        ]
        request.status = status
        await self._socket.receive()  # that it wants to connect
        start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
        await self._socket.send(start)
        await self._socket.send({"type": "websocket.http.response.body", "body": body})

    async def serve(self, name: str) -> None:
        """Call the function, and hand items to and fro. Raises SpearError, Problem before it begins."""
        function = find_function(self._app, name)
        query = query_of(self._request)
        function = with_options(function, self._request, {}, is_stream=True)
        with self._app.streams.taking():
            offered = self._socket.scope["subprotocols"]
            await self._socket.accept(
                PROTOCOL if PROTOCOL in offered else None, self._request.extra
            )
            self._request.status = 101
            await self._run(function, query)
            with trio.move_on_after(LINGER_SECONDS), suppress(trio.EndOfChannel):
                while True:  # until the client has seen the end, too
                    await self._socket.receive()

    async def _run(self, function: Function, query: Mapping[str, str]) -> None:
        with trio.CancelScope() as closing:
            async with open_private_nursery() as nursery:
                nursery.start_soon(self._cancel_when_closing, closing)
                try:
                    await self._call(function, query)
                except (SpearError, Problem) as error:
                    await self._fail(error)
        if closing.cancelled_caught:
            problem = Problem(503, "GoingAway", "the host goes away")
            await self._fail(problem, GOING_AWAY)

    async def _cancel_when_closing(self, scope: trio.CancelScope) -> None:
        await self._app.closing.wait()
        scope.cancel()

    async def _call(self, function: Function, query: Mapping[str, str]) -> None:
        patience = self._app.settings.body_seconds
        with trio.move_on_after(patience) as scope:
            first = await self._receive()
        if scope.cancelled_caught:
            raise Problem(408, "SlowRequest", f"there were no arguments within {patience:g} s")
        is_bytes = isinstance(first, bytes)
        positional, keywords = ((first,), {}) if is_bytes else split_arguments(first)
        add_keywords(keywords, query)
        function = function.options(keywords=keywords)
        async with function.stream(*positional, sends_items=True) as stream:
            with trio.CancelScope() as receiving:
                async with open_private_nursery() as nursery:
                    nursery.start_soon(self._feed, stream, receiving)
                    async for item in stream:
                        await self._send(item)
                    result = await stream.result()
        if self._failure is not None:
            raise self._failure
        await self._socket.send_text(show({"$result": result}).decode())
        await self._socket.close(NORMAL)

    async def _feed(self, stream: FunctionStream, scope: trio.CancelScope) -> None:
        """Hand the client's items to the function."""
        try:
            while True:
                item = await self._receive()
                if item == {"$end": True}:
                    await stream.send_eof()
                else:
                    await stream.send(item)
        except LocalProtocolError:  # it has ended, or its items have
            pass
        except (SpearError, Problem) as error:
            self._failure = error
            scope.cancel()

    async def _receive(self) -> object:
        """The next message. Raises Problem."""
        message = await self._socket.receive()
        data = message.get("bytes")
        if data is not None:
            return bytes(data)
        return parse_json(message["text"].encode(errors="surrogatepass"), "the message")

    async def _send(self, item: object) -> None:
        if isinstance(item, bytes):
            await self._socket.send_bytes(item)
        else:
            await self._socket.send_text(show(item).decode())

    async def _fail(self, error: Exception, code: int | None = None) -> None:
        status = status_of(error, is_draining=self._app.is_draining)
        told = describe(
            error, request_id=self._request.id, tell_all=self._app.may_know_all(self._request)
        )
        await self._socket.send_text(show({"$error": told}).decode())
        is_ours = isinstance(error, Problem) and isinstance(error.__cause__, json.JSONDecodeError)
        code = code or (WRONG_DATA if is_ours else 4000 + status)
        await self._socket.close(code, str(told["kind"]))
