"""Bounds on everything that a client can make grow, and timeouts for slow clients, on real sockets."""

from __future__ import annotations

import gc
import json
import logging
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import pytest
import trio

from spear.gateway import GatewaySettings

from .helpers import Client, Site, ask, call, close_clients, connect, open_site, wait_until
from .test_sockets import UPGRADE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALL = "/v1/functions/{}/call"
SMUGGLED = b"POST /v1/functions/count/call HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /v1/functions/twice/call HTTP/1.1\r\nHost: localhost\r\nContent-Type: x/y\r\n"


async def is_cut(client: Client) -> None:
    """Wait until the other side has closed."""
    try:
        while await client.stream.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def still_serving(site: Site) -> AsyncIterator[None]:
    """Assert that other clients are served while the block runs."""
    yield
    assert (await call(site.gateway, "add", 1)).body == b"2"


async def test_s18_a_slow_head_is_cut() -> None:
    async with open_site(GatewaySettings(head_seconds=0.1)) as site, still_serving(site):
        silent, slow = await connect(site.gateway), await connect(site.gateway)
        await slow.stream.send_all(HEAD)
        await is_cut(silent)
        await is_cut(slow)
        assert site.gateway.statistics().refused == {"handshake_timeout": 2}


async def test_s18_a_slow_head_after_a_request_is_cut_and_so_is_an_idle_connection() -> None:
    async with open_site(GatewaySettings(idle_seconds=0.1)) as site, still_serving(site):
        idle, slow = await connect(site.gateway), await connect(site.gateway)
        for client in (idle, slow):
            await client.ask("GET", "/healthz")
        await slow.stream.send_all(HEAD)
        await is_cut(idle)
        await is_cut(slow)


async def test_s18_a_slow_body_is_refused() -> None:
    async with open_site(GatewaySettings(body_seconds=0.05)) as site, still_serving(site):
        client = await connect(site.gateway)
        await client.stream.send_all(HEAD + b"Content-Length: 10\r\n\r\n12345")
        client.http.send(_request())
        reply = await client.receive()
        assert (reply.status, reply.error["kind"]) == (408, "SlowRequest")
        assert reply.headers["connection"] == "close"
        await client.aclose()


def _request() -> h11.Request:
    return h11.Request(method="GET", target="/", headers=[("host", "localhost")])


async def test_s18_a_large_body_is_refused_before_it_comes_and_as_it_comes() -> None:
    async with open_site(GatewaySettings(max_body_bytes=1000)) as site, still_serving(site):
        reply = await ask(site.gateway, "POST", CALL.format("twice"), body=bytes(1001))
        assert (reply.status, reply.error["kind"]) == (413, "TooLarge")
        chunked = {"transfer-encoding": "chunked", "content-type": "x/y"}
        reply = await ask(
            site.gateway, "POST", CALL.format("twice"), headers=chunked, body=bytes(5000)
        )
        assert reply.status == 413
        reply = await ask(
            site.gateway,
            "POST",
            CALL.format("twice"),
            headers={"content-type": "x/y"},
            body=bytes(1000),
        )
        assert (reply.status, len(reply.body)) == (200, 2000)


async def test_s18_a_client_that_goes_on_sending_can_read_why_its_body_is_refused() -> None:
    async with open_site(GatewaySettings(max_body_bytes=1000)) as site, still_serving(site):
        client = await connect(site.gateway)
        size = 8 << 20
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await client.stream.send_all(HEAD + b"Content-Length: %d\r\n\r\n" % size)
                await client.stream.send_all(bytes(size))

            nursery.start_soon(send)
            client.http.send(_request())
            assert (await client.receive()).status == 413
        await close_clients()


async def test_s18_all_bodies_together_have_a_bound() -> None:
    async with open_site(GatewaySettings(body_bytes_in_flight=1000)) as site, still_serving(site):
        holder = await connect(site.gateway)
        await holder.stream.send_all(HEAD + b"Content-Length: 900\r\n\r\n" + bytes(800))
        app = site.gateway._app
        await wait_until(lambda: app.budgets.bodies.taken == 800)
        headers = {"content-type": "x/y"}
        reply = await ask(
            site.gateway, "POST", CALL.format("twice"), headers=headers, body=bytes(300)
        )
        assert (reply.status, reply.error["kind"]) == (503, "Busy")
        await holder.stream.send_all(bytes(100))
        holder.http.send(_request())
        assert (await holder.receive()).status == 200
        await wait_until(lambda: app.budgets.bodies.taken == 0)


async def test_s18_all_results_that_nobody_takes_together_have_a_bound() -> None:
    async with (
        open_site(GatewaySettings(body_bytes_in_flight=40 << 20)) as site,
        still_serving(site),
    ):
        client = await connect(site.gateway)
        size = 16 << 20
        await client.stream.send_all(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        await client.stream.send_all(bytes(size))
        await wait_until(lambda: site.gateway._app.budgets.results.taken == 2 * size)
        headers = {"content-type": "x/y"}
        reply = await ask(
            site.gateway, "POST", CALL.format("twice"), headers=headers, body=bytes(8 << 20)
        )
        assert (reply.status, reply.error["kind"], reply.error["delivered"]) == (507, "Busy", "yes")
        await client.aclose()
        await wait_until(lambda: site.gateway._app.budgets.results.taken == 0)


@pytest.mark.parametrize(
    "body", [b"[" + (1 << 20) * b"[]," + b"[]]", b"[" + (1 << 20) * b'"",' + b"1]"]
)
async def test_s18_json_that_takes_many_times_its_size_is_refused(body: bytes) -> None:
    async with open_site() as site, still_serving(site):
        reply = await ask(site.gateway, "POST", CALL.format("echo"), body=body)
        assert (reply.status, reply.error["kind"]) == (400, "BadRequest")
        assert "more than 1048576 items" in str(reply.error["message"])
        large = json.dumps([3 * (1 << 20) * "x"]).encode()
        assert (await ask(site.gateway, "POST", CALL.format("echo"), body=large)).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("size", [5_000, 40_000, 200_000])
async def test_s18_a_large_head_is_refused(size: int) -> None:
    async with open_site(GatewaySettings(max_head_bytes=4096)) as site, still_serving(site):
        client = await connect(site.gateway)
        client.http.send(_request())
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with suppress(trio.BrokenResourceError):  # the gateway has closed
                    await client.stream.send_all(HEAD + b"X: %b\r\n\r\n" % (b"x" * size))

            nursery.start_soon(send)
            reply = await client.receive()
        assert (reply.status, reply.error["kind"]) == (431, "HeadTooLarge")
        await close_clients()


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ": illegal request line"),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ": the target must be a path"),
        (b"GET / HTTP/1.1\r\n\r\n", ": Missing mandatory Host: header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ": Found multiple Host: headers"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", ": illegal request line: "),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            ": conflicting Content-Length headers",
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", ": bad Content-Length"),
        (b"\r\n\r\n\r\n", ": no request line received"),
        (bytes(100) + b"\r\n\r\n", ": illegal request line: "),
    ],
)
async def test_s18_what_is_no_http_is_refused_and_hurts_nobody(garbage: bytes, reason: str) -> None:
    """Each gets an answer with the reason before the connection is closed, and before any timeout."""
    async with open_site(GatewaySettings(head_seconds=1000)) as site, still_serving(site):
        client = await connect(site.gateway)
        await client.stream.send_all(garbage)
        data = b""
        while part := await client.stream.receive_some(65536):
            data += bytes(part)
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
        error = json.loads(body)["error"]
        assert (error["kind"], error["delivered"]) == ("BadRequest", "no")
        message = f"the request is not valid HTTP/1.1{reason}"
        assert error["message"].startswith(message)
        assert error["message"] == message or reason.startswith((": illegal", ": the target"))
        assert site.gateway.statistics().refused == {}
        await client.aclose()


async def test_s18_what_has_not_become_a_head_in_time_is_cut_without_an_answer() -> None:
    async with open_site(GatewaySettings(head_seconds=0.1)) as site, still_serving(site):
        client = await connect(site.gateway)
        await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n")  # the end is missing
        assert await client.stream.receive_some(65536) == b""
        assert site.gateway.statistics().refused == {"handshake_timeout": 1}
        await client.aclose()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"xyz\r\n", ": illegal chunk header"), (b"5\r\nabcdeXX", ": malformed chunk footer")],
)
async def test_s18_a_body_that_is_no_http_is_refused(body: bytes, reason: str) -> None:
    """The client gets the reason, the connection is closed, and no function is called."""
    async with open_site() as site, still_serving(site):
        client = await connect(site.gateway)
        await client.stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        client.http.send(_request())
        reply = await client.receive()
        assert (reply.status, reply.error["kind"]) == (400, "BadRequest")
        assert str(reply.error["message"]).startswith(f"the request is not valid HTTP/1.1{reason}")
        assert reply.error["delivered"] == "no"
        assert await client.stream.receive_some(1) == b""
        assert site.spearlet.deployments["probe"].statistics().functions["twice"].calls == 0
        await close_clients()


async def test_s18_nobody_gets_http_2() -> None:
    async with open_site() as site:
        headers = {
            "connection": "Upgrade, HTTP2-Settings",
            "upgrade": "h2c",
            "http2-settings": "AAMAAABk",
        }
        reply = await ask(site.gateway, "GET", "/healthz", headers=headers)
        assert (reply.status, reply.json) == (200, {"status": "ok"})


async def test_s18_there_are_so_many_connections_and_no_more() -> None:
    async with open_site(GatewaySettings(max_connections=3)) as site:
        clients = [await connect(site.gateway) for _ in range(3)]
        for client in clients:
            await client.send("POST", CALL.format("wait"), b"")
        await wait_until(lambda: site.gateway.statistics().requests == 3)
        late = await connect(site.gateway)
        await is_cut(late)
        assert site.gateway.statistics().refused == {"too_many_connections": 1}
        await clients[0].aclose()
        await wait_until(lambda: site.gateway.statistics().connections == 2)
        async with still_serving(site):
            pass
        await close_clients()


async def test_s18_idle_connections_shut_nobody_out() -> None:
    """An idle client with one answered request may have no token: the path may need none, for example."""
    async with open_site(GatewaySettings(max_connections=3)) as site:
        busy, *idle = [await connect(site.gateway) for _ in range(3)]
        await busy.send("POST", CALL.format("wait"), b"")
        await site.probe.begun.wait()
        for client in idle:
            await client.ask("GET", "/healthz")
        for client in idle:
            late = await connect(site.gateway)
            assert (await late.ask("GET", "/healthz")).status == 200
            await is_cut(client)
        assert site.gateway.statistics().refused == {}
        site.probe.release.set()
        assert (await busy.receive()).status == 200


async def test_s18_strangers_are_crowded_out_by_strangers() -> None:
    async with open_site(GatewaySettings(max_new_connections=2)) as site, still_serving(site):
        known = await connect(site.gateway)
        await known.ask("GET", "/healthz")
        strangers = [await connect(site.gateway) for _ in range(3)]
        await is_cut(strangers[0])
        assert site.gateway.statistics().refused == {"crowded_out": 1}
        assert (await known.ask("GET", "/healthz")).status == 200


# -- clients that do not read --------------------------------------------------------------------------


@pytest.mark.slow
async def test_s18_a_client_that_does_not_read_its_answer_is_cut() -> None:
    async with open_site(GatewaySettings(write_seconds=0.2)) as site, still_serving(site):
        client = await connect(site.gateway)
        size = 16 << 20
        await client.stream.send_all(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        await client.stream.send_all(bytes(size))
        await wait_until(lambda: site.gateway.statistics().connections == 0)
        received = 0
        with suppress(trio.BrokenResourceError):
            while part := await client.stream.receive_some(1 << 20):
                received += len(part)
        assert received < 2 * size  # bytes in the kernel's buffers


async def test_s18_a_closing_gateway_does_not_wait_for_a_client_that_does_not_read() -> None:
    settings = GatewaySettings(write_seconds=1000.0, close_seconds=0.1)
    async with open_site(settings) as site:
        client = await connect(site.gateway)
        await client.send(
            "POST", "/v1/functions/flood/stream", b"", {"accept": "application/octet-stream"}
        )
        await client.receive_head()
    assert site.probe.cancelled.is_set()  # and the block has been left


def memory() -> int:
    """Return the memory of this process in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
async def test_s18_clients_that_do_not_read_take_little_memory() -> None:
    async with open_site() as site:
        before = memory()
        for _ in range(8):
            client = await connect(site.gateway)
            await client.send(
                "POST", "/v1/functions/flood/stream", b"", {"accept": "application/octet-stream"}
            )
            await client.receive_head()
        await wait_until(lambda: site.gateway.statistics().streams == 8)
        await trio.testing.wait_all_tasks_blocked(0.2)  # until no client can write more
        assert memory() - before < 32 << 20


# -- fairness ----------------------------------------------------------------------------------------


async def test_s18_requests_that_are_sent_ahead_leave_others_their_turn() -> None:
    """64 KiB of requests took seconds, and no other client was served meanwhile."""
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.stream.send_all(500 * b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.receive_head()
        assert site.gateway.statistics().requests < 500


async def test_s18_a_body_of_many_chunks_leaves_others_their_turn() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        bodies = site.gateway._app.budgets.bodies
        await client.stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await client.stream.send_all(5000 * b"1\r\nx\r\n")
        while not bodies.taken:
            await trio.lowlevel.checkpoint()
        assert bodies.taken < 5000
        await client.stream.send_all(b"0\r\n\r\n")
        assert (await client.receive()).body == 10_000 * b"x"


async def test_s18_many_small_frames_leave_others_their_turn() -> None:
    async with open_site() as site:
        client, _ = await upgraded(site, "wait")
        await client.stream.send_all(100 * frame(9, b"hey"))
        assert len(await client.stream.receive_some(1000)) < 100 * 5
        await client.aclose()


# -- WebSockets --------------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a frame of a client, masked with zeros."""
    size = len(payload)
    if size > 65535:
        length = b"\xff" + size.to_bytes(8)
    else:
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([(0x80 if fin else 0) | opcode]) + length + bytes(4) + payload


async def upgraded(
    site: Site, function: str, headers: dict[str, str] | None = None
) -> tuple[Client, bytes]:
    """Upgrade a connection to a WebSocket; return the client and the head of the answer."""
    client = await connect(site.gateway)
    lines = {"host": "localhost", **UPGRADE, **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    path = f"/v1/functions/{function}/socket"
    await client.stream.send_all(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += bytes(await client.stream.receive_some(65536))
    assert data.startswith(b"HTTP/1.1 101")
    return client, data


async def received(client: Client) -> bytes:
    """Read until the end of the stream."""
    data = b""
    try:
        while part := await client.stream.receive_some(65536):
            data += bytes(part)
    except trio.BrokenResourceError:
        pass
    return data


@pytest.mark.parametrize("fragments", [1, 5])
async def test_s18_a_large_message_is_refused_and_not_kept(fragments: int) -> None:
    async with open_site(GatewaySettings(max_message_bytes=100_000)) as site, still_serving(site):
        client, _ = await upgraded(site, "wait")
        await client.stream.send_all(frame(1, b"[]"))
        await site.probe.begun.wait()
        part = bytes(200_000 // fragments)
        for number in range(fragments):
            await client.stream.send_all(
                frame(0 if number else 2, part, fin=number == fragments - 1)
            )
        await site.probe.cancelled.wait()
        # The client may send for a while, and its bytes are ignored.
        for _ in range(20):
            await client.stream.send_all(frame(2, bytes(50_000)))
        await client.stream.send_eof()
        assert await received(client) == b"\x88\x02" + (1009).to_bytes(2, "big")


async def test_s18_the_size_of_a_text_is_that_of_its_bytes() -> None:
    async with open_site(GatewaySettings(max_message_bytes=1000)) as site:
        for size, code in ((499, 1000), (500, 1009)):
            client, _ = await upgraded(site, "echo")
            await client.stream.send_all(frame(1, f'"{size * "é"}"'.encode()))
            assert (await received(client))[-2:] == code.to_bytes(2, "big")


@pytest.mark.slow
async def test_s18_a_message_in_many_fragments_takes_no_more_than_its_size() -> None:
    """An object per fragment took many times as much."""
    async with open_site(GatewaySettings(max_message_bytes=30_000)) as site:
        client, _ = await upgraded(site, "echo")
        await client.stream.send_all(frame(2, b"", fin=False))
        before = 0
        for number in range(30):
            await client.stream.send_all(1000 * frame(0, b"x", fin=False) + frame(9, b""))
            assert await client.stream.receive_some(2) == b"\x8a\x00"  # all has been read
            if number == 5:
                before = memory()
        assert memory() - before < 1 << 19
        await client.stream.send_all(frame(0, b"x"))
        assert (await received(client)).endswith((1009).to_bytes(2, "big"))


async def test_s7_messages_are_not_compressed() -> None:
    async with open_site() as site:
        offer = {"sec-websocket-extensions": "permessage-deflate"}
        client, head = await upgraded(site, "echo", offer)
        assert b"extensions" not in head.lower()
        compressed = bytes([0xC1, 0x80, 0, 0, 0, 0])
        await client.stream.send_all(compressed)
        assert (await received(client))[:4] == b"\x88\x1f" + (1002).to_bytes(2, "big")
        await close_clients()


@pytest.mark.slow
async def test_s18_a_client_that_does_not_answer_pings_is_cut() -> None:
    async with open_site(GatewaySettings(keep_alive_seconds=0.5)) as site:
        client, _ = await upgraded(site, "wait")
        await client.stream.send_all(frame(1, b"[]"))
        await site.probe.begun.wait()
        assert b"\x89\x00" in await received(client)
        await site.probe.cancelled.wait()


async def test_a_client_is_not_cut_while_its_function_is_slow_to_take_items() -> None:
    """The client's answers to pings are behind items for which there is no room."""
    async with open_site(GatewaySettings(keep_alive_seconds=0.05)) as site:
        client, _ = await upgraded(site, "late_total")
        items, size = 40, 1 << 20

        async def send() -> None:
            await client.stream.send_all(frame(1, b"[]"))
            for _ in range(items):
                await client.stream.send_all(frame(2, bytes(size)))
            await client.stream.send_all(frame(1, b'{"$end": true}'))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            data = b""
            while data.count(b"\x89\x00") < 5:
                part = bytes(await client.stream.receive_some(1000))
                assert part, "the connection was closed"
                data += part
                if b"\x89" in part:
                    await trio.testing.wait_all_tasks_blocked()
            site.probe.release.set()
            data = b""
            while b"$result" not in data:
                data += bytes(await client.stream.receive_some(1000))
            assert str(items * size).encode() in data
        await client.aclose()


@pytest.mark.slow
async def test_a_ping_that_waits_does_not_follow_the_clients_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_site(GatewaySettings(keep_alive_seconds=0.5)) as site:
        client, _ = await upgraded(site, "flood")
        await client.stream.send_all(frame(1, b"[]"))
        await site.probe.begun.wait()
        # Wait for longer than the ping interval: the ping is queued behind an item.
        await trio.testing.wait_all_tasks_blocked(0.6)
        await client.stream.send_all(frame(8, b"\x03\xe8"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await received(client)).endswith(b"\x88\x02\x03\xe8")
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_pings_are_answered() -> None:
    async with open_site() as site:
        client, _ = await upgraded(site, "wait")
        await client.stream.send_all(frame(10, b"") + frame(9, b"hey"))
        assert bytes(await client.stream.receive_some(5)) == b"\x8a\x03hey"
        await client.aclose()


async def test_pings_are_answered_between_items_that_nobody_reads_for_a_while() -> None:
    async with open_site() as site:
        client, _ = await upgraded(site, "flood")
        await client.stream.send_all(frame(1, b"[]"))
        await site.probe.begun.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.stream.send_all(frame(9, b"are you there"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        data = b""
        while b"\x8a\x0dare you there" not in data:
            data = data[-100:] + bytes(await client.stream.receive_some(65536))
        await client.aclose()


async def test_s18_a_handshake_that_is_none_is_refused() -> None:
    async with open_site() as site:
        headers = {**UPGRADE, "sec-websocket-version": "7"}
        reply = await ask(site.gateway, "GET", "/v1/functions/wait/socket", headers=headers)
        assert reply.status == 400


async def test_s18_a_body_is_not_read_as_messages() -> None:
    """A proxy would take it for a body."""
    async with open_site() as site:
        for framing in ({}, {"transfer-encoding": "chunked"}):
            reply = await ask(
                site.gateway, "GET", "/v1/functions/count/socket", headers={**UPGRADE, **framing},
                body=frame(1, b"[]"),
            )  # fmt: skip
            assert (reply.status, site.probe.calls) == (400, 0)
