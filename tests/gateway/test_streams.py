"""Streaming responses: their formats, their ends, and the effects of slow clients."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import h11
import pytest
import trio

import spear
from spear.gateway import GatewaySettings, open_gateway

from .helpers import Client, Probe, Site, ask, closing_clients, connect, open_site, wait_until

if TYPE_CHECKING:
    from .helpers import Json, Reply

STREAM = "/v1/functions/{}/stream"
EVENTS = {"accept": "text/event-stream"}
RAW = {"accept": "application/octet-stream"}


async def stream(site: Site, function: str, value: object, headers: dict[str, str]) -> Reply:
    return await ask(site.gateway, "POST", STREAM.format(function), value, headers)


async def body_until_cut(client: Client) -> bytes:
    """Return the body of a response that is cut off."""
    body = b""
    try:
        async for part in client.parts():
            body += part
    except h11.RemoteProtocolError:
        return body
    raise AssertionError("the response has an end")


def events(body: bytes) -> list[tuple[str, Json]]:
    """Return (name or id, data) of each event, without comments."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            name = fields.get("event") or fields["id"]
            found.append((name, json.loads(fields["data"])))
    return found


async def test_items_are_events() -> None:
    async with open_site() as site:
        reply = await stream(site, "blobs", [], EVENTS)
        assert reply.headers["content-type"] == "text/event-stream"
        assert reply.headers["spear-instance"] == "memory:probe-1#1"
        assert events(reply.body) == [
            ("0", {"$bytes": "AP8="}), ("1", "text"), ("2", {"a": 1}), ("end", {"items": 3}),
        ]  # fmt: skip


async def test_items_are_lines() -> None:
    async with open_site() as site:
        reply = await stream(site, "blobs", {}, {})
        assert reply.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in reply.body.splitlines()] == [
            {"$bytes": "AP8="}, "text", {"a": 1},
        ]  # fmt: skip


async def test_items_are_bytes() -> None:
    async with open_site() as site:
        reply = await stream(site, "blobs", {}, RAW)
        assert reply.body == b'\x00\xfftext{"a": 1}\n'


async def test_no_items_at_all() -> None:
    async with open_site() as site:
        site.probe.release.set()
        assert events((await stream(site, "ticks", 0, EVENTS)).body) == [("end", {"items": 0})]
        reply = await stream(site, "ticks", 0, {})
        assert (reply.status, reply.body) == (200, b"")


async def test_a_failure_before_the_first_item_is_an_error() -> None:
    async with open_site() as site:
        for function, value, status, kind in (
            ("ticks", "x", 400, "InvalidArguments"),
            ("echo", 1, 409, "Rejected"),
            ("nothing", 1, 404, "NotFound"),
        ):
            reply = await stream(site, function, value, EVENTS)
            assert (reply.status, reply.error["kind"]) == (status, kind)
            is_refusal = kind == "InvalidArguments"
            assert ("usage" in reply.error) == is_refusal


async def test_a_failure_after_it_is_told_in_the_form_of_the_items() -> None:
    async with open_site() as site:
        value = {"count": 1, "fails": True}
        *_, (name, told) = events((await stream(site, "ticks", value, EVENTS)).body)
        assert name == "error"
        assert isinstance(told, dict)
        assert isinstance(told["error"], dict)
        assert (told["error"]["kind"], told["error"]["type"]) == ("FunctionRaised", "ValueError")
        for headers, last in (({}, b"$error"), (RAW, b"0\n")):
            client = await connect(site.gateway)
            await client.send("POST", STREAM.format("ticks"), json.dumps(value).encode(), headers)
            assert (await client.receive_head()).status == 200
            assert last in await body_until_cut(client)  # every format shows that it is cut
            await client.aclose()
        counted = site.spearlet.deployments["probe"].statistics().functions["ticks"]
        assert (counted.calls, counted.failures) == (3, {"FunctionRaised": 3})


async def test_items_may_be_integers_of_any_size() -> None:
    agent = spear.Agent("huge")

    @agent.function
    async def grow():  # type: ignore[no-untyped-def]  # no annotation fits a generator here
        yield 1
        yield 10**5000

    async with open_site() as site:
        await site.spearlet.deploy(agent)
        told = events((await stream(site, "grow", [], EVENTS)).body)
        assert [each for _, each in told[:-1]] == [1, {"$int": hex(10**5000)}]
        assert told[-1] == ("end", {"items": 2})


async def test_what_a_function_refuses_behind_its_first_item_has_run() -> None:
    agent = spear.Agent("late")

    @agent.function
    async def give_up():  # type: ignore[no-untyped-def]  # see above
        yield 1
        raise spear.Rejected("not today")

    async with open_site() as site:
        await site.spearlet.deploy(agent)
        *_, (name, told) = events((await stream(site, "give_up", [], EVENTS)).body)
        assert name == "error"
        assert isinstance(told, dict)
        assert isinstance(told["error"], dict)
        assert told["error"]["delivered"] == "yes"


async def test_a_stream_takes_no_key() -> None:
    async with open_site() as site:
        reply = await stream(site, "ticks", 0, {"idempotency-key": "k"})
        assert (reply.status, reply.error["kind"]) == (400, "BadRequest")
        assert "Idempotency-Key" in str(reply.error["message"])
        assert not site.probe.begun.is_set()


async def test_while_nothing_comes_there_are_signs_of_life() -> None:
    async with open_site(GatewaySettings(keep_alive_seconds=0.01)) as site:
        client = await connect(site.gateway)
        await client.send("POST", STREAM.format("ticks"), b"0", EVENTS)
        assert (await client.receive_head()).status == 200
        parts = client.parts()
        for _ in range(3):
            assert await anext(parts) == b":\n\n"
        site.probe.release.set()
        rest = b"".join([part async for part in parts])
        assert events(rest) == [("end", {"items": 0})]
        await client.aclose()
        # Other formats cannot express it: their response begins, and waits.
        site.probe.release = trio.Event()
        for headers in ({}, RAW):
            client = await connect(site.gateway)
            await client.send("POST", STREAM.format("ticks"), b"0", headers)
            assert (await client.receive_head()).status == 200
            await client.aclose()


async def test_a_fault_of_the_gateway_cuts_a_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.send("GET", "/v1/watch?interval=0.2")
        await client.receive_head()
        monkeypatch.setattr("spear.gateway._operate.snapshot", lambda *_: 1 / 0)
        await body_until_cut(client)
        assert "division by zero" in caplog.text


async def test_a_client_that_leaves_cancels_the_function() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.send("POST", STREAM.format("ticks"), b"1", EVENTS)
        await client.receive_head()
        await client.aclose()
        await site.probe.cancelled.wait()
        await wait_until(lambda: site.gateway.statistics().streams == 0)


async def test_there_are_so_many_streams_and_no_more() -> None:
    async with open_site(GatewaySettings(max_streams=1)) as site:
        client = await connect(site.gateway)
        await client.send("POST", STREAM.format("ticks"), b"1", EVENTS)
        await client.receive_head()
        for method, path in (("POST", STREAM.format("blobs")), ("GET", "/v1/watch")):
            reply = await ask(site.gateway, method, path)
            assert (reply.status, reply.error["kind"]) == (503, "Busy")
            assert reply.headers["retry-after"] == "1"
        await client.aclose()
        await wait_until(lambda: site.gateway.statistics().streams == 0)
        assert (await ask(site.gateway, "POST", STREAM.format("blobs"))).status == 200


async def begin(site: Site, headers: dict[str, str]) -> Client:
    """Begin a stream; return its client."""
    client = await connect(site.gateway)
    await client.send("POST", STREAM.format("ticks"), b"1", headers)
    await client.receive_head()
    return client


async def test_streams_are_told_when_the_gateway_closes() -> None:
    probe = Probe()
    async with closing_clients(), spear.open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            site = Site(gateway, spearlet, probe)
            with_events, with_lines = await begin(site, EVENTS), await begin(site, {})
            waiting = await connect(gateway)
            await waiting.send("POST", STREAM.format("ticks"), b"0")
            await wait_until(lambda: gateway.statistics().streams == 3)
        body = b"".join([part async for part in with_events.parts()])
        *_, (name, told) = events(body)
        assert name == "error"
        assert isinstance(told, dict)
        assert isinstance(told["error"], dict)
        assert (told["error"]["kind"], told["error"]["delivered"]) == ("GoingAway", "yes")
        assert b'{"$error": {"kind": "GoingAway"' in await body_until_cut(with_lines)
        reply = await waiting.receive()
        assert (reply.status, reply.error["delivered"]) == (503, "maybe")
        for client in (with_events, with_lines, waiting):
            await client.aclose()
        with pytest.raises(OSError, match="all attempts to connect"):
            await connect(gateway)


async def test_a_slow_reader_slows_the_function_and_is_cut() -> None:
    settings = GatewaySettings(write_seconds=0.2)
    async with open_site(attrs.evolve(settings, keep_alive_seconds=60.0)) as site:
        client = await connect(site.gateway)
        await client.send("POST", STREAM.format("flood"), b"", RAW)
        await client.receive_head()
        # The client stops reading: the function is cancelled, and the connection is closed.
        await site.probe.cancelled.wait()
        await wait_until(lambda: site.gateway.statistics().connections == 0)
        await client.aclose()
