"""Calls over HTTP: through Spear's gateway, and through what people write by hand.

All three servers are in a process of their own, on a TCP port of the loopback interface, and all have the
same client: a blocking socket that sends a prepared request and reads the response, on one connection.

* The gateway: HTTP, the call, the function in its process.
* By hand: the same call in a handler of starlette, served by hypercorn.
* Bare: a handler of starlette, served by hypercorn, that returns its body. No call.
"""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench import drive
from bench.model import BenchError, Effort, Load, Sample
from bench.process import announce, serving, settle_gc

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request], Awaitable[Response]]

_FUNCTIONS = Path(__file__).with_name("functions.py")
_HOST = "127.0.0.1"
_PATIENCE_SECONDS = 30.0
_PIDS = "SPEAR_BENCH_PIDS"  # the file where a server writes which processes work for it


# -- servers -------------------------------------------------------------------------------------------


def serve_gateway(port: str) -> None:
    """Spear's gateway, with one function behind it."""
    from spear.gateway import GatewaySettings, open_gateway
    from spear.spearlet import open_spearlet

    async def serve() -> None:
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(_FUNCTIONS)
            async with open_gateway(spearlet, GatewaySettings(port=int(port))):
                _tell_pids([replica.pid for replica in deployment.replicas])
                settle_gc()
                announce()
                await trio.sleep_forever()

    trio.run(serve)


def serve_by_hand(port: str) -> None:
    """A handler that calls the same function."""
    from starlette.responses import Response

    from spear.spearlet import open_spearlet

    async def serve() -> None:
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(_FUNCTIONS)
            echo = deployment.function("echo")

            async def call(request: Request) -> Response:
                result = await echo(await request.body())
                assert isinstance(result, bytes)
                return Response(result, media_type="application/octet-stream")

            _tell_pids([replica.pid for replica in deployment.replicas])
            await _serve_starlette(call, int(port))

    trio.run(serve)


def serve_bare(port: str) -> None:
    """A handler that calls nothing."""
    from starlette.responses import Response

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    _tell_pids([])
    trio.run(_serve_starlette, echo, int(port))


async def _serve_starlette(handler: Handler, port: int) -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve
    from starlette.applications import Starlette
    from starlette.routing import Route

    config = Config()
    config.bind = [f"{_HOST}:{port}"]
    config.errorlog = None
    config.keep_alive_max_requests = 1 << 60  # or it hangs up after a thousand
    app = Starlette(routes=[Route("/v1/functions/{name}/call", handler, methods=["POST"])])
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(serve, app, config, mode="asgi"))
        settle_gc()
        announce()


def _tell_pids(others: list[int | None]) -> None:
    text = " ".join(str(pid) for pid in (os.getpid(), *others) if pid is not None)
    Path(os.environ[_PIDS]).write_text(text)


# -- the client ----------------------------------------------------------------------------------------


class _Client:
    """One connection, and one request after the other."""

    def __init__(self, port: int, size: int) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._socket = socket.create_connection((_HOST, port))
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            "POST /v1/functions/echo/call HTTP/1.1\r\n"
            f"Host: {_HOST}:{port}\r\n"
            "Content-Type: application/octet-stream\r\n"
            f"Content-Length: {size}\r\n\r\n"
        ).encode()

    def call(self, body: bytes) -> bytes:
        """Send a body, and return that of the answer."""
        self._socket.sendall(self._head + body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, reply = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"refused: {data[:200]!r}")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        parts = [reply]
        rest = length - len(reply)
        while rest:
            parts.append(self._receive())
            rest -= len(parts[-1])
        return b"".join(parts)

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise BenchError("the server has closed the connection")
        return data


@contextmanager
def _serving(entry: str) -> Iterator[tuple[int, list[int]]]:
    """(port, processes) of a server."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    with tempfile.NamedTemporaryFile("r") as pids:
        os.environ[_PIDS] = pids.name
        with serving(f"bench.over_http:{entry}", str(port), announces=True):
            yield port, [int(each) for each in Path(pids.name).read_text().split()]


def _measure(entry: str, load: Load, effort: Effort) -> Sample:
    with _serving(entry) as (port, pids):
        return drive.blocking(_Client(port, load.size).call, load, effort, pids)


def gateway(load: Load, effort: Effort) -> Sample:
    """A call through the gateway."""
    return _measure("serve_gateway", load, effort)


def by_hand(load: Load, effort: Effort) -> Sample:
    """The same call in a handler of starlette."""
    return _measure("serve_by_hand", load, effort)


def bare(load: Load, effort: Effort) -> Sample:
    """A handler of starlette that calls nothing."""
    return _measure("serve_bare", load, effort)
