"""The HTTP servers that are compared. Each runs in a process of its own.

All servers answer `POST /v1/functions/echo/call` with the body of the request, on a TCP port of the
loopback interface. Servers "with the call" call the same function, in an instance of its own.

* Spear's gateway, with the call.
* Starlette on hypercorn, with the call, and without.
* h11 on Trio, with the call, and without: a minimal server, which is only a loop over a stream. The call
  has an id and a deadline, and the answer has the headers that the gateway sends.
* uvicorn on asyncio, with h11, without the call.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench.http_client import HOST, PATH
from bench.process import announce, settle_gc

if TYPE_CHECKING:
    import h11
    from starlette.requests import Request
    from starlette.responses import Response

    from spear.calls import Function

    Handler = Callable[[Request], Awaitable[Response]]
    Headers = list[tuple[bytes, bytes]]
    Answer = Callable[[bytes], Awaitable[tuple[Headers, bytes]]]
    Message = MutableMapping[str, object]

PIDS = "SPEAR_BENCH_PIDS"
"""The environment variable with the file to which a server writes the pids of its processes."""

_FUNCTIONS = Path(__file__).with_name("functions.py")
_CHUNK_BYTES = 1 << 16
_TIMEOUT = 60.0
_MEDIA_TYPE = "application/octet-stream"


def _tell_pids(others: list[int | None]) -> None:
    text = " ".join(str(pid) for pid in (os.getpid(), *others) if pid is not None)
    Path(os.environ[PIDS]).write_text(text)


def gateway_with_socket(port: str, path: str) -> None:
    """Run Spear's gateway, with a control socket besides."""
    gateway(port, path=path)


def gateway(port: str, token: str | None = None, path: str | None = None) -> None:
    """Run Spear's gateway, with one function behind it."""
    from spear.gateway import GatewaySettings, open_gateway
    from spear.spearlet import open_spearlet

    async def serve() -> None:
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(_FUNCTIONS)
            settings = GatewaySettings(port=int(port), token=token, control_socket=path)
            async with open_gateway(spearlet, settings):
                _tell_pids([replica.pid for replica in deployment.replicas])
                settle_gc()
                announce()
                await trio.sleep_forever()

    trio.run(serve)


async def _serve_beside(serve: Callable[[Function], Awaitable[None]]) -> None:
    """Run a server that calls a function of a spearlet directly, without the gateway."""
    from spear.spearlet import open_spearlet

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(_FUNCTIONS)
        _tell_pids([replica.pid for replica in deployment.replicas])
        await serve(deployment.function("echo"))


# -- starlette on hypercorn ----------------------------------------------------------------------------


def starlette_call(port: str) -> None:
    """Run a starlette handler that calls the function."""
    from starlette.responses import Response

    async def serve(echo: Function) -> None:
        async def call(request: Request) -> Response:
            result = await echo(await request.body())
            assert isinstance(result, bytes)
            return Response(result, media_type=_MEDIA_TYPE)

        await _serve_starlette(call, int(port))

    trio.run(_serve_beside, serve)


def starlette_bare(port: str) -> None:
    """Run a starlette handler that answers without a call."""
    from starlette.responses import Response

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type=_MEDIA_TYPE)

    _tell_pids([])
    trio.run(_serve_starlette, echo, int(port))


async def _serve_starlette(handler: Handler, port: int) -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve
    from starlette.applications import Starlette
    from starlette.routing import Route

    config = Config()
    config.bind = [f"{HOST}:{port}"]
    config.errorlog = None
    config.keep_alive_max_requests = 1 << 60  # the default closes a connection after 1000 requests
    app = Starlette(routes=[Route("/v1/functions/{name}/call", handler, methods=["POST"])])
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(serve, app, config, mode="asgi"))
        settle_gc()
        announce()


# -- h11 on Trio ---------------------------------------------------------------------------------------


def h11_call(port: str) -> None:
    """Run an h11 loop that calls the function like the gateway, and sends the gateway's headers."""

    async def serve(echo: Function) -> None:
        async def call(body: bytes) -> tuple[Headers, bytes]:
            request_id = os.urandom(8).hex()
            function = echo.options(timeout=_TIMEOUT, metadata={"x-request-id": request_id})
            answer = await function.ask(body)
            assert isinstance(answer.result, bytes)
            headers = [
                (b"x-content-type-options", b"nosniff"),
                (b"x-request-id", request_id.encode()),
                (b"spear-timeout", b"%g" % _TIMEOUT),
                (b"spear-duration-ms", b"%.3f" % (answer.execution_seconds * 1e3)),
                (b"spear-instance", str(answer.instance).encode()),
            ]
            return headers, answer.result

        await _serve_h11(call, int(port))

    trio.run(_serve_beside, serve)


def h11_bare(port: str) -> None:
    """Run an h11 loop that answers without a call."""

    async def echo(body: bytes) -> tuple[Headers, bytes]:
        return [], body

    _tell_pids([])
    trio.run(_serve_h11, echo, int(port))


async def _serve_h11(answer: Answer, port: int) -> None:
    async with trio.open_nursery() as nursery:

        async def handle(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):  # a client may hang up at any time
                await _converse(answer, stream)

        await nursery.start(functools.partial(trio.serve_tcp, handle, port, host=HOST))
        settle_gc()
        announce()


async def _converse(answer: Answer, stream: trio.SocketStream) -> None:
    import h11

    connection = h11.Connection(h11.SERVER)
    while (body := await _next_body(connection, stream)) is not None:
        headers, reply = await answer(body)
        headers += [
            (b"content-length", b"%d" % len(reply)),
            (b"content-type", _MEDIA_TYPE.encode()),
        ]
        head = connection.send(h11.Response(status_code=200, headers=headers))
        data = connection.send(h11.Data(data=reply))
        end = connection.send(h11.EndOfMessage())
        assert head is not None
        assert data is not None
        assert end is not None
        await stream.send_all(head + data + end)
        connection.start_next_cycle()


async def _next_body(connection: h11.Connection, stream: trio.SocketStream) -> bytes | None:
    """Return the body of the next request, or None if the client has closed the connection."""
    import h11

    parts: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(_CHUNK_BYTES))
        elif isinstance(event, h11.Data):
            parts.append(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return b"".join(parts)
        elif isinstance(event, h11.ConnectionClosed):
            return None


# -- uvicorn -------------------------------------------------------------------------------------------


def uvicorn_bare(port: str) -> None:
    """Run uvicorn with h11, asyncio's own event loop and an application that answers without a call."""
    import uvicorn

    async def app(
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await receive()
            settle_gc()
            await send({"type": "lifespan.startup.complete"})
            announce()  # slightly too early: clients retry until the server listens
            await receive()
            return
        assert scope["path"] == PATH
        body, more = b"", True
        while more:
            message = await receive()
            part, more = message["body"], bool(message.get("more_body"))
            assert isinstance(part, bytes)
            body += part
        headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", _MEDIA_TYPE.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    _tell_pids([])
    uvicorn.run(
        app, host=HOST, port=int(port), loop="asyncio", http="h11", ws="none", lifespan="on",
        access_log=False, log_level="error",
    )  # fmt: skip
