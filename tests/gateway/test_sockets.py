"""WebSockets: items in both directions, closing, and clients that misbehave."""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

import spear
from spear.channels import open_private_nursery
from spear.gateway import GatewaySettings, open_gateway

from .helpers import KNOWN, TOKEN, Probe, Site, ask, connect, open_site, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .helpers import Reply


@asynccontextmanager
async def connected(
    site: Site,
    function: str,
    *,
    query: str = "",
    headers: dict[str, str] | None = None,
    protocols: list[str] | None = None,
) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket."""
    client = await connect(site.gateway)
    try:
        async with open_private_nursery() as nursery:
            socket = await wrap_client_stream(
                nursery,
                client.stream,
                "localhost",
                f"/v1/functions/{function}/socket{query}",
                subprotocols=protocols,
                extra_headers=[
                    (name.encode(), value.encode()) for name, value in (headers or {}).items()
                ],
            )
            try:
                yield socket
            finally:
                with trio.move_on_after(5, shield=True):
                    await socket.aclose()
    finally:
        await client.aclose()


UPGRADE = {
    "connection": "keep-alive, Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


async def refusal(site: Site, path: str, headers: dict[str, str]) -> Reply:
    """Return the response to a refused upgrade to a WebSocket."""
    return await ask(site.gateway, "GET", f"/v1/functions/{path}", headers={**UPGRADE, **headers})


async def close_code(socket: WebSocketConnection) -> int:
    """Wait for the end, which must be next, and return its code."""
    with pytest.raises(ConnectionClosed) as caught:
        await socket.get_message()
    assert caught.value.reason is not None
    return int(caught.value.reason.code)


async def failure(socket: WebSocketConnection) -> object:
    """Return the kind of the failure, which must be next."""
    message = json.loads(await socket.get_message())
    return message["$error"]["kind"]


async def test_items_go_in_both_directions() -> None:
    async with open_site() as site, connected(site, "double", protocols=["spear.v1"]) as socket:
        assert socket.subprotocol == "spear.v1"
        await socket.send_message('{"plus": 1}')
        for number in range(3):
            await socket.send_message(str(number))
            assert await socket.get_message() == str(2 * number + 1)
        await socket.send_message('{"$end": true}')
        assert json.loads(await socket.get_message()) == {"$result": None}
        assert await close_code(socket) == 1000
        await wait_until(lambda: site.gateway.statistics().responses == {101: 1})


async def test_a_function_may_take_items_and_give_one_result() -> None:
    async with open_site() as site, connected(site, "total") as socket:
        assert socket.subprotocol is None
        for message in ("[]", "1", "2", '{"$end": true}'):
            await socket.send_message(message)
        assert json.loads(await socket.get_message()) == {"$result": 3}
        assert await close_code(socket) == 1000


async def test_bytes_are_binary_and_the_query_has_keyword_arguments() -> None:
    async with open_site() as site:
        async with connected(site, "blobs") as socket:
            await socket.send_message("[]")
            items = [await socket.get_message() for _ in range(3)]
            assert items == [b"\x00\xff", '"text"', '{"a": 1}']
        async with connected(site, "twice") as socket:
            await socket.send_message(b"\x00")
            assert json.loads(await socket.get_message()) == {"$result": {"$bytes": "AAA="}}
        async with connected(site, "double", query="?plus=5") as socket:
            await socket.send_message("[]")
            await socket.send_message("1")
            assert await socket.get_message() == "7"


@pytest.mark.parametrize(
    ("function", "messages", "kind", "code", "delivered"),
    [
        ("ticks", ['{"count": 0, "fails": true}'], "FunctionRaised", 4500, "yes"),
        ("ticks", ['"x"'], "InvalidArguments", 4400, "no"),
        ("double", ["[]", '"x"'], "InvalidArguments", 4400, "yes"),
        ("double", ["{"], "BadRequest", 1007, "no"),
        ("double", ["[]", "{"], "BadRequest", 1007, "maybe"),
        ("double", ["[]", '"\\ud800"'], "InvalidArguments", 4400, "maybe"),
        ("double", ['{"$args": 1}'], "BadRequest", 4400, "no"),
        ("boom", ["[]"], "FunctionRaised", 4500, "yes"),
    ],
)
async def test_failures_are_told_and_close_with_a_code(
    function: str, messages: list[str], kind: str, code: int, delivered: str
) -> None:
    async with open_site() as site, connected(site, function) as socket:
        for message in messages:
            await socket.send_message(message)
        told = json.loads(await socket.get_message())["$error"]
        assert (told["kind"], told["delivered"]) == (kind, delivered)
        assert await close_code(socket) == code


async def test_a_bad_message_behind_an_item_of_the_function_finds_that_it_has_run() -> None:
    async with open_site() as site, connected(site, "double") as socket:
        for message in ("[]", "5"):
            await socket.send_message(message)
        assert await socket.get_message() == "10"
        await socket.send_message("{bad")
        told = json.loads(await socket.get_message())["$error"]
        assert (told["kind"], told["delivered"]) == ("BadRequest", "yes")


@pytest.mark.parametrize(
    ("function", "query", "headers", "status"),
    [
        ("nothing", "", {}, 404),
        ("double", "?a=1&a=2", {}, 400),
        ("double", "", {"spear-timeout": "x"}, 400),
        ("double", "", {"origin": "http://evil.example"}, 403),
        ("double/x", "", {}, 404),
        ("double", "", {"idempotency-key": "k"}, 400),
    ],
)
async def test_refusals_come_instead_of_a_socket(
    function: str, query: str, headers: dict[str, str], status: int
) -> None:
    async with open_site() as site:
        reply = await refusal(site, function + "/socket" + query, headers)
        assert reply.status == status
        assert reply.error["delivered"] == "no"


async def test_a_token_comes_as_a_header_or_as_a_subprotocol() -> None:
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        coded = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
        wrong = base64.urlsafe_b64encode(b"another-token-0123").decode().rstrip("=")
        for offered in ("", "spear.v1", f"spear.v1, spear.token.{wrong}", "spear.token.A"):
            headers = {"sec-websocket-protocol": offered} if offered else {}
            assert (await refusal(site, "total/socket", headers)).status == 401
        async with connected(site, "total", headers=KNOWN) as socket:
            await socket.send_message("[]")
        protocols = ["spear.v1", f"spear.token.{coded}"]
        async with connected(site, "total", protocols=protocols) as socket:
            assert socket.subprotocol == "spear.v1"  # and the token is not sent back


async def test_there_are_so_many_sockets_and_no_more() -> None:
    async with open_site(GatewaySettings(max_streams=1)) as site, connected(site, "double"):
        assert (await refusal(site, "double/socket", {})).status == 503


async def test_a_client_that_leaves_cancels_the_function() -> None:
    async with open_site() as site:
        async with connected(site, "wait") as socket:
            await socket.send_message("[]")
            await site.probe.begun.wait()
        await site.probe.cancelled.wait()
        await wait_until(lambda: site.gateway.statistics().connections == 0)


async def test_what_comes_after_the_end_is_ignored() -> None:
    async with open_site() as site, connected(site, "wait") as socket:
        for message in ("[]", '{"$end": true}', "1", '{"$end": true}'):
            await socket.send_message(message)
        site.probe.release.set()
        assert json.loads(await socket.get_message()) == {"$result": "released"}


async def test_a_client_that_says_nothing_is_closed() -> None:
    settings = GatewaySettings(body_seconds=0.05)
    async with open_site(settings) as site, connected(site, "double") as socket:
        assert await failure(socket) == "SlowRequest"
        assert await close_code(socket) == 4408


async def test_sockets_are_told_when_the_gateway_closes() -> None:
    probe = Probe()
    async with spear.open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        async with trio.open_nursery() as nursery:
            async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
                site = Site(gateway, spearlet, probe)
                told = trio.Event()

                async def wait_for_the_end() -> None:
                    async with connected(site, "wait") as socket:
                        await socket.send_message("[]")
                        error = json.loads(await socket.get_message())["$error"]
                        assert (error["kind"], error["delivered"]) == ("GoingAway", "maybe")
                        assert await close_code(socket) == 1001
                        told.set()

                nursery.start_soon(wait_for_the_end)
                await probe.begun.wait()
            await told.wait()
            await probe.cancelled.wait()
