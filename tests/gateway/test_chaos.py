"""Many clients that do anything at any time: other clients are not affected, and nothing is left."""

from __future__ import annotations

import json
import logging
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from spear.gateway import GatewaySettings

from .helpers import call, open_site, wait_until
from .test_limits import frame
from .test_sockets import UPGRADE

if TYPE_CHECKING:
    from random import Random

    from .helpers import Site

CLIENTS = 200
AT_A_TIME = 20

PATHS = (
    "POST /v1/functions/echo/call", "POST /v1/functions/flood/stream", "POST /v1/functions/wait/call",
    "POST /v1/functions/boom/call", "POST /v1/functions/blobs/stream", "GET /v1/watch", "GET /healthz",
)  # fmt: skip


def request(rng: Random) -> bytes:
    """Return a request, good or bad."""
    head = f"{rng.choice(PATHS)} HTTP/1.1\r\nHost: localhost\r\n".encode()
    body = json.dumps({"value": "x" * rng.randrange(100_000)}).encode()
    match rng.randrange(8):
        case 0:
            return rng.randbytes(500)
        case 1:
            return head[: rng.randrange(len(head))]
        case 2:
            return head + b"Content-Length: 99999\r\n\r\n" + bytes(rng.randrange(9999))
        case 3:
            return head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nzz"
        case 4:
            return rng.randrange(1, 20) * (head + b"\r\n")
        case 5:
            return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        case _:
            lines = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
            name = rng.choice(["double", "flood", "wait", "boom"])
            start = f"GET /v1/functions/{name}/socket HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
            frames = [
                frame(1, b"1"),
                frame(9, b"p"),
                frame(1, b"{"),
                frame(8, b""),
                rng.randbytes(20),
            ]
            return (
                start.encode() + frame(1, b"[]") + b"".join(rng.choices(frames, k=rng.randrange(9)))
            )


async def misbehave(site: Site, rng: Random) -> None:
    """Run one client."""
    port = int(site.gateway.urls[0].rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        with trio.move_on_after(rng.random() / 2):
            await stream.send_all(request(rng))
            for _ in range(rng.randrange(4)):
                await stream.receive_some(1000)
            if rng.random() < 0.5:
                await trio.sleep_forever()
        if rng.random() < 0.3:  # leave with a reset
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


@pytest.mark.slow
@pytest.mark.repetitive
async def test_s18_clients_that_do_whatever_they_like_leave_nothing(
    seed: Random, caplog: pytest.LogCaptureFixture
) -> None:
    settings = GatewaySettings(
        max_streams=10, head_seconds=0.5, body_seconds=0.5, write_seconds=0.5, idle_seconds=1.0,
        keep_alive_seconds=0.2,
    )  # fmt: skip
    async with open_site(settings) as site:
        limiter = trio.CapacityLimiter(AT_A_TIME)

        async def visit() -> None:
            async with limiter:
                await misbehave(site, seed)

        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(visit)
        await wait_until(lambda: not site.gateway.statistics().connections)
        app = site.gateway._app
        assert (app.budgets.streams.taken, app.budgets.bodies.taken, app.budgets.results.taken) == (
            0,
            0,
            0,
        )
        probe = site.spearlet.deployments["probe"]
        await wait_until(lambda: probe.statistics().calls_in_flight == 0)
        assert (await call(site.gateway, "add", 1)).body == b"2"
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
