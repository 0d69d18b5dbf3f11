"""WebSockets: a function's items in both directions.

The client's first message has the arguments; all its other messages are items. After the function's last
item, a message tells the result or the error; the close code tells the kind of end, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import InvalidArguments, LocalProtocolError, SpearError
from spear.channels import open_private_nursery

from ._calls import find_function, query_arguments, with_options
from ._errors import Problem, describe, status_of
from ._exchange import add_keywords, split_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spear._errors import Delivered
    from spear.calls import Function, FunctionStream

    from ._app import App
    from ._request import Request
    from ._websocket import WebSocket

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
WRONG_DATA: Final = 1007


async def serve_socket(app: App, request: Request, socket: WebSocket, name: str) -> None:
    """Handle ``GET /v1/functions/{name}/socket``. Raises SpearError, Problem before the handshake."""
    function = find_function(app, name)
    function = with_options(app, function, request, is_stream=True)
    with app.budgets.streams.taking(1, request.client):
        query = await query_arguments(app, function, request)
        async with socket.opened():
            await _Conversation(app, request, socket).hold(function, query)


@final
class _Conversation:
    """A streaming call whose items are the messages of a WebSocket."""

    def __init__(self, app: App, request: Request, socket: WebSocket) -> None:
        self._app = app
        self._request = request
        self._socket = socket
        self._failure: Exception | None = None
        self._stream: FunctionStream | None = None  # set once the function is called

    async def hold(self, function: Function, query: Mapping[str, object]) -> None:
        """Call the function, pass items in both directions, and report the end."""
        with trio.CancelScope() as closing:
            async with open_private_nursery() as nursery:
                nursery.start_soon(self._cancel_when_closing, closing)
                try:
                    await self._call(function, query)
                except (SpearError, Problem) as error:
                    await self._fail(error)
        if closing.cancelled_caught:
            problem = Problem(503, "GoingAway", "the host is shutting down")
            await self._fail(problem, GOING_AWAY)

    async def _cancel_when_closing(self, scope: trio.CancelScope) -> None:
        await self._app.closing.wait()
        scope.cancel()

    async def _call(self, function: Function, query: Mapping[str, object]) -> None:
        patience = self._app.settings.body_seconds
        with trio.move_on_after(patience) as scope:
            first = await self._socket.receive()
        if scope.cancelled_caught:
            raise Problem(408, "SlowRequest", f"no arguments arrived within {patience:g} s")
        is_bytes = isinstance(first, bytes)
        positional, keywords = ((first,), {}) if is_bytes else split_arguments(first)
        add_keywords(keywords, query)
        bound = function.bind(*positional, **keywords)
        del first, positional, keywords  # decoded arguments can take many times the memory
        async with bound.stream(sends_items=True) as stream:
            self._stream = stream
            with trio.CancelScope() as receiving:
                async with open_private_nursery() as nursery:
                    nursery.start_soon(self._feed, stream, receiving)
                    async for item in stream:
                        await self._socket.send(item)
                        del item  # free it before waiting for the next one
                    result = await stream.result()
        if self._failure is not None:
            raise self._failure
        await self._socket.send({"$result": result})
        await self._socket.close(NORMAL)

    async def _feed(self, stream: FunctionStream, scope: trio.CancelScope) -> None:
        """Pass the client's items to the function."""
        try:
            while True:
                item = await self._socket.receive()
                if item == {"$end": True}:
                    await stream.send_eof()
                else:
                    await stream.send(item)
                del item  # free it before waiting for the next one
        except LocalProtocolError:  # the call, or its input, has ended
            pass
        except InvalidArguments as error:  # raised here: no instance got the item
            self._failure = Problem(400, "InvalidArguments", str(error), code=error.code)
            scope.cancel()
        except (SpearError, Problem) as error:
            self._failure = error
            scope.cancel()

    async def _fail(self, error: Exception, code: int | None = None) -> None:
        status = status_of(error, is_draining=self._app.is_draining)
        known: Delivered = "no" if self._stream is None else self._stream.delivered
        told = describe(
            error,
            request_id=self._request.id,
            tell_all=self._app.may_know_all(self._request),
            known=known,
        )
        await self._socket.send({"$error": told})
        is_ours = isinstance(error, Problem) and isinstance(error.__cause__, json.JSONDecodeError)
        code = code or (WRONG_DATA if is_ours else 4000 + status)
        await self._socket.close(code, str(told["kind"]))
