"""CBOR in place of JSON: arguments, results, items, errors."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING, cast
from uuid import UUID

import cbor2
import pytest

from spear import SharedBuffer

from .helpers import ask, connect, open_site
from .test_streams import body_until_cut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .helpers import Reply, Site

CBOR = "application/cbor"
HUGE = 3**20000
"""More digits than Python reads or writes as a decimal."""

ODD: list[object] = [
    None,
    True,
    -(2**70),
    HUGE,
    1.5,
    float("inf"),
    "é",
    b"\x00\xff",
    [],
    {"a": b"b", b"c": [1]},
    date(2026, 1, 31),
    {1, "a"},
    [Decimal("1.50"), {"x": UUID(int=1)}],
]


async def send(site: Site, function: str, body: bytes, *, accept: str | None = CBOR) -> Reply:
    headers = {"content-type": CBOR} if accept is None else {"content-type": CBOR, "accept": accept}
    path = f"/v1/functions/{function}/call"
    return await ask(site.gateway, "POST", path, headers=headers, body=body)


def content(reply: Reply) -> dict[str, dict[str, str]]:
    """Return the object in the body of a response."""
    value = cbor2.loads(reply.body) if reply.headers["content-type"] == CBOR else reply.json
    return cast("dict[str, dict[str, str]]", value)


async def test_everything_that_cbor_can_say_survives_both_ways() -> None:
    async with open_site() as site:
        for value in (ODD, *ODD):
            reply = await send(site, "echo", cbor2.dumps([value]))
            assert (reply.status, reply.headers["content-type"]) == (200, CBOR)
            assert cbor2.loads(reply.body) == value


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ({"a": 1}, 2), ({"a": 1, "b": 2}, 3), ([1, 2], 3), (1, 2), ({"$args": [1], "timeout": 5}, 7),
        ({"$args": [1, 2], "timeout": 5}, 8),
    ],
)  # fmt: skip
async def test_arguments_follow_the_rule_of_json(arguments: object, result: int) -> None:
    async with open_site() as site:
        reply = await send(site, "add", cbor2.dumps(arguments))
        assert (reply.status, cbor2.loads(reply.body)) == (200, result)
        path = "/v1/functions/echo/call?value=7"
        reply = await ask(site.gateway, "POST", path, headers={"content-type": CBOR}, body=b"")
        assert (reply.headers["content-type"], reply.body) == ("application/json", b"7")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff", "CBOR: not a valid value"),
        (b"\x82\x01", "CBOR: not a valid value"),
        (b"\x01\x02", "extra bytes at the end"),
        (b"\xf7", "undefined"),
        (b"\x9f\x01\xff", "CBOR: not a valid value"),
        (b"\xa2aa\x01aa\x02", "CBOR: not a valid value"),
        (cbor2.dumps(cbor2.CBORTag(1, 0)), "a tag that is not supported"),
        (b"\x81" * 65 + b"\x01", "CBOR: not a valid value"),
        (b"\x81" * 1_000_000, "CBOR: not a valid value"),
        (b"\x9b" + b"\xff" * 8, "CBOR: not a valid value"),
        (b"\x9a\x00\x10\x00\x01" + b"\x80" * 0x100001, "more than 1048576 items"),
        (b"\xa1\x01\x02", "key must be a text string"),
        (b"\xa1Aa\x02", "must be text"),
        (cbor2.dumps({"$args": 1}), "$args must be an array"),
    ],
)
async def test_what_is_no_usable_cbor_is_refused(body: bytes, message: str) -> None:
    async with open_site() as site:
        reply = await send(site, "count", body, accept="*/*")
        assert (reply.status, reply.error["kind"]) == (400, "BadRequest")
        assert message in str(reply.error["message"])
        assert site.probe.calls == 0


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/octet-stream"),
        ("application/json", "application/json"),
        (CBOR, CBOR),
        (f"application/json, {CBOR}", CBOR),
        (f"text/html, {CBOR};q=0.1, */*", CBOR),
        (f"{CBOR};q=0, */*", "application/octet-stream"),
        (f"{CBOR}; q=0.000, */*", "application/octet-stream"),
        (f"{CBOR};q=0.010, */*", CBOR),
        (f"{CBOR}; version=1;\tq=0 ; x=y, */*", "application/octet-stream"),
        (f"{CBOR};q=0.01;x=0, */*", CBOR),
    ],
)
async def test_a_result_is_cbor_for_a_client_that_names_it(accept: str | None, kind: str) -> None:
    async with open_site() as site:
        for function in ("twice", "shared"):
            body = cbor2.dumps([b"\x00\xff"])
            reply = await send(site, function, body, accept=accept)
            assert (reply.status, reply.headers["content-type"]) == (200, kind)
            if kind == CBOR:
                assert cbor2.loads(reply.body).startswith(b"\x00\xff")


@pytest.mark.parametrize(
    ("accept", "is_cbor"),
    [
        (CBOR, True),
        (f"{CBOR}, application/cbor-seq", True),
        (f"{CBOR}, application/json", False),
        ("*/*", False),
    ],
)
async def test_errors_are_json_unless_the_client_takes_cbor_alone(
    accept: str, is_cbor: bool
) -> None:
    headers = {"accept": accept}
    async with open_site() as site:
        for method, path in (
            ("GET", "/nowhere"),
            ("POST", "/v1/functions/boom/call"),
            ("POST", "/v1/functions/blobs/call"),
        ):
            reply = await ask(site.gateway, method, path, headers=headers)
            assert reply.headers["content-type"] == (CBOR if is_cbor else "application/json")
            told = content(reply)
            assert told["error"]["request_id"] == reply.headers["x-request-id"]
        reply = await ask(
            site.gateway, "POST", "/v1/functions/twice/submit", headers=headers, body=b"[1]"
        )
        told = content(reply)
        path = f"/v1/executions/{told['id']}/result?wait=20"
        reply = await ask(site.gateway, "GET", path, headers=headers)
        assert reply.status >= 400
        assert reply.headers["content-type"] == (CBOR if is_cbor else "application/json")


async def buffers() -> AsyncIterator[object]:
    """Yield shared memory and other items."""
    buffer = SharedBuffer(2)
    buffer.view[:] = b"\x00\xff"
    yield buffer
    yield HUGE


def items_in(body: bytes) -> list[object]:
    """Return the items of a CBOR sequence."""
    source = BytesIO(body)
    decoder = cbor2.CBORDecoder(source)
    found = []
    while source.tell() < len(body):
        found.append(decoder.decode())
    return found


async def test_items_come_as_a_sequence() -> None:
    async with open_site() as site:
        for accept in ("application/cbor-seq", CBOR):
            reply = await ask(
                site.gateway, "POST", "/v1/functions/blobs/stream", headers={"accept": accept}
            )
            assert reply.headers["content-type"] == "application/cbor-seq"
            assert items_in(reply.body) == [b"\x00\xff", "text", {"a": 1}]


async def test_a_sequence_that_fails_ends_with_the_error_and_is_cut() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        headers = {"accept": "application/cbor-seq", "content-type": CBOR}
        body = cbor2.dumps({"count": 2, "fails": True})
        await client.send("POST", "/v1/functions/ticks/stream", body, headers)
        assert (await client.receive_head()).status == 200
        *items, last = items_in(await body_until_cut(client))
        assert items == [0, 1]
        assert isinstance(last, dict)
        assert last["$error"]["type"] == "ValueError"


async def test_a_sequence_begins_before_there_is_an_item() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        path = "/v1/deployments/probe/logs?follow=true"
        await client.send("GET", path, None, {"accept": "application/cbor-seq"})
        head = await client.receive_head()
        assert (head.status, head.headers["content-type"]) == (200, "application/cbor-seq")


@pytest.mark.parametrize("accept", ["application/cbor-seq", "application/octet-stream"])
async def test_items_that_are_shared_memory_come_as_bytes(accept: str) -> None:
    async with open_site() as site:
        agent = type(site.probe.agent)("more")
        agent.function(buffers)
        await site.spearlet.deploy(agent)
        reply = await ask(
            site.gateway, "POST", "/v1/functions/buffers/stream", headers={"accept": accept}
        )
        if accept == "application/cbor-seq":
            assert items_in(reply.body) == [b"\x00\xff", HUGE]
        else:
            assert reply.body.startswith(b"\x00\xff{")
