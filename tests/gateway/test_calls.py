"""Calls over HTTP, through a real socket: arguments, results, headers, ends."""

from __future__ import annotations

import gzip
import json
import math
import re
import socket
import struct
from decimal import Decimal
from typing import TYPE_CHECKING

import h11
import pytest
import trio

import spear
from spear import DeploymentSettings
from spear.gateway import GatewaySettings, open_gateway
from spear.gateway._errors import Problem
from spear.gateway._exchange import show
from spear.runtimes import MemorySettings

from .helpers import Probe, Site, ask, call, closing_clients, connect, open_site, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALL = "/v1/functions/{}/call"


async def raw(site: Site, function: str, body: bytes, kind: str, query: str = "") -> object:
    """Make a call with a body of some type; return (status, body)."""
    path = CALL.format(function) + query
    reply = await ask(site.gateway, "POST", path, headers={"content-type": kind}, body=body)
    return reply.status, reply.body


@pytest.mark.parametrize(
    ("function", "value", "result"),
    [
        ("add", {"a": 2, "b": 3}, 5),
        ("add", [2, 3], 5),
        ("add", 2, 3),
        ("add", {"$args": [2], "b": 5}, 7),
        ("add", {"a": 1, "b": 1, "timeout": 5}, 7),
        ("probe.add", 2, 3),
        ("order", [{"a": 1, "b": 2}], 3),
        ("order", {"order": {"a": 1}}, 1),
        ("echo", [[1, 2]], [1, 2]),
        ("echo", "text", "text"),
        ("echo", [None], None),
        ("echo", [{"x": {"$bytes": "AP8="}}], {"x": {"$bytes": "AP8="}}),
        ("echo", {"value": {"$float": "nan"}}, {"$float": "nan"}),
        ("echo", [{"$set": [{"$date": "2026-01-31"}]}], {"$set": [{"$date": "2026-01-31"}]}),
        (
            "echo",
            {"value": {"$map": [[1, {"$decimal": "1.50"}]]}},
            {"$map": [[1, {"$decimal": "1.50"}]]},
        ),
        ("echo", [[1.5, True, {"a": None}, "é"]], [1.5, True, {"a": None}, "é"]),
    ],
)
async def test_the_body_decides_what_the_arguments_are(
    function: str, value: object, result: object
) -> None:
    async with open_site() as site:
        reply = await call(site.gateway, function, value)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body) == result


def labels() -> MemorySettings:
    """Return an agent with functions whose parameters take text."""
    app = spear.Agent("labels")

    @app.function
    async def label(
        text: str, amount: Decimal | None = None, number: float = 0.0, *, rest: object = None
    ) -> list[object]:
        return [text, amount, number, rest]

    @app.function
    async def switch(on: bool | None = None) -> bool | None:
        return on

    @app.function
    async def letters(text: str) -> AsyncIterator[str]:
        for each in text:
            yield each

    @app.function
    async def collect(
        words: list[str],
        numbers: set[int] | None = None,
        pair: tuple[str, int] = ("", 0),
        *,
        one: str = "",
    ) -> list[object]:
        return [words, numbers and sorted(numbers), list(pair), one]

    @app.function
    async def join(
        *rest: str, text: str = 5000 * "x"
    ) -> str:  # its signature is too long to be known
        return text

    @app.function
    async def spell(words: list[str]) -> AsyncIterator[str]:
        for each in words:
            yield each

    return MemorySettings(agent=app, shares_process=True)


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("text=1.10", ["1.10", None, 0.0, None]),
        ("text=true&number=1.10&rest=1.10", ["true", None, 1.1, 1.1]),
        ("text=tea&amount=1.10", ["tea", {"$decimal": "1.10"}, 0.0, None]),
        ("text=%22tea%22&amount=null", ["tea", None, 0.0, None]),
        ("text=null&rest=null", ["null", None, 0.0, None]),
    ],
)
async def test_a_query_is_read_by_the_annotations(query: str, result: object) -> None:
    async with open_site() as site:
        await site.spearlet.deploy(labels())
        reply = await ask(site.gateway, "POST", f"{CALL.format('label')}?{query}")
        assert reply.status == 200, reply.body
        assert json.loads(reply.body) == result


async def test_a_query_may_have_the_booleans_of_python() -> None:
    async with open_site() as site:
        await site.spearlet.deploy(labels())
        for text, on in (("True", True), ("0", False), ("true", True), ("null", None)):
            reply = await ask(site.gateway, "POST", f"{CALL.format('switch')}?on={text}")
            assert json.loads(reply.body) is on


async def test_a_query_is_read_by_the_annotations_of_the_present_deployment() -> None:
    texts, numbers = spear.Agent("changing"), spear.Agent("changing")

    @texts.function(name="show")
    def as_text(x: str) -> str:
        return x

    @numbers.function(name="show")
    def as_number(x: float) -> float:
        return x

    async with open_site() as site:
        for app, result in ((texts, b'"1.0"'), (numbers, b"1.0")):
            agent = MemorySettings(agent=app, shares_process=True)
            deployment = await site.spearlet.deploy(agent)
            reply = await ask(site.gateway, "POST", f"{CALL.format('show')}?x=1.0")
            assert reply.body == result
            await deployment.stop()


async def test_a_query_of_a_stream_is_read_by_the_annotations() -> None:
    async with open_site() as site:
        await site.spearlet.deploy(labels())
        reply = await ask(site.gateway, "POST", "/v1/functions/letters/stream?text=1.0")
        assert reply.body == b'"1"\n"."\n"0"\n'


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("words=a&words=1.10", [["a", "1.10"], None, ["", 0], ""]),
        ("words=a", [["a"], None, ["", 0], ""]),
        ("words=&one=1", [[""], None, ["", 0], "1"]),
        ("words=%5B%22a%22,%22b%22%5D", [["a", "b"], None, ["", 0], ""]),
        ("words=[]&numbers=null", [[], None, ["", 0], ""]),
        ("words=null&numbers=2&numbers=1&numbers=2", [["null"], [1, 2], ["", 0], ""]),
        ("pair=1&numbers=7&words=x&pair=2", [["x"], [7], ["1", 2], ""]),
    ],
)
async def test_a_repeated_name_in_a_query_is_a_list_by_the_annotation(
    query: str, result: object
) -> None:
    async with open_site() as site:
        await site.spearlet.deploy(labels())
        reply = await ask(site.gateway, "POST", f"{CALL.format('collect')}?{query}")
        assert reply.status == 200, reply.body
        assert json.loads(reply.body) == result


async def test_a_repeated_name_for_another_parameter_is_refused() -> None:
    async with open_site() as site:
        await site.spearlet.deploy(labels())
        for function, query, name in (
            ("collect", "words=a&one=x&one=x", "one"),
            ("collect", "words=a&two=x&two=y", "two"),
            ("join", "text=x&text=y", "text"),
        ):
            reply = await ask(site.gateway, "POST", f"{CALL.format(function)}?{query}")
            assert reply.status == 400
            assert f"the query has the parameter '{name}' twice" in str(reply.error["message"])
        reply = await ask(
            site.gateway, "POST", f"{CALL.format('collect')}?numbers=1&numbers=x&words=a"
        )
        assert (reply.status, reply.error["parameter"]) == (400, "numbers[1]")
        reply = await ask(site.gateway, "POST", f"{CALL.format('join')}?text=x")
        assert reply.body == b'"x"'
        reply = await ask(site.gateway, "POST", "/v1/functions/spell/stream?words=a&words=1")
        assert reply.body == b'"a"\n"1"\n'


async def test_what_is_returned_as_shared_memory_is_bytes() -> None:
    async with open_site() as site:
        assert await raw(site, "shared", b"\x00\xff", "image/png") == (200, b"\x00\xff")


async def test_other_bodies_are_bytes_and_text() -> None:
    async with open_site() as site:
        assert await raw(site, "twice", b"\x00\xff", "application/octet-stream") == (
            200,
            b"\x00\xff\x00\xff",
        )
        assert await raw(site, "twice", b"\x89PNG", "image/png") == (200, b"\x89PNG\x89PNG")
        assert await raw(site, "echo", "é".encode(), "text/plain; charset=utf-8") == (
            200,
            '"é"'.encode(),
        )
        assert await raw(site, "echo", b'{"value": 1}', "application/cloudevents+json") == (
            200,
            b"1",
        )
        assert await raw(site, "add", b"2", "application/json", "?b=5&timeout=1") == (200, b"8")
        assert await raw(site, "echo", b"", "application/json", "?value=tea+time%21") == (
            200,
            b'"tea time!"',
        )
        reply = await ask(site.gateway, "POST", CALL.format("count"))
        assert (reply.status, reply.body) == (200, b"1")


@pytest.mark.parametrize(
    ("body", "kind", "query", "status", "message"),
    [
        (b"{", "application/json", "", 400, "the body is not JSON"),
        (b'{"a": 1, "a": 2}', "application/json", "", 400, "a map has the same key twice"),
        (b"NaN", "application/json", "", 400, "NaN is not JSON"),
        (b"1e400", "application/json", "", 400, "1e400 is out of the range of a float"),
        (b'{"a": [{"b": -1e-400}]}', "application/json", "", 400, "-1e-400 is out of the range"),
        (b"1", "application/json", "?b=1e400", 400, "1e400 is out of the range of a float"),
        (b'"\\ud800"', "application/json", "", 400, "text that is not Unicode"),
        (b'{"\\ud800": 1}', "application/json", "", 400, "text that is not Unicode"),
        (b'[{"\\ud800": 1}]', "application/json", "", 400, "text that is not Unicode"),
        (b"[" * 100_000, "application/json", "", 400, "nested too deeply"),
        (b"1" * 5000, "application/json", "", 400, 'write it as {"$int": "0x..."}'),
        (b'{"$args": 1}', "application/json", "", 400, "$args must be an array"),
        (b'{"$bytes": "?"}', "application/json", "", 400, "cannot be used: $bytes is not Base64"),
        (b'{"a": {"$float": "x"}}', "application/json", "", 400, "cannot be used: $float is not"),
        (b'{"$date": "soon"}', "application/json", "", 400, "cannot be used: $date: not a date"),
        (b"\xff", "application/json", "", 400, "cannot be used"),
        (b"\xff", "text/plain", "", 400, "not UTF-8"),
        (b"a=1", "application/x-www-form-urlencoded", "", 415, "send JSON"),
        (
            b"1",
            "application/json",
            "?a=1&b=1&b=2",
            400,
            "the query has the parameter 'b' twice: send it once",
        ),
        (b'{"a": 1}', "application/json", "?a=2", 400, "in the query and in the body"),
        (b"1", "application/json", "?b=%ff", 400, "cannot be read"),
        (b"1", "application/json", "?b=" + 5000 * "1", 400, 'write it as {"$int": "0x..."}'),
        (b'"x"', "application/json", "", 400, "expected int"),
        (b'{"c": 1}', "application/json", "", 400, "takes no argument 'c'"),
    ],
)
async def test_what_cannot_be_understood_is_refused_and_says_why(
    body: bytes, kind: str, query: str, status: int, message: str
) -> None:
    async with open_site() as site:
        path = CALL.format("add") + query
        reply = await ask(site.gateway, "POST", path, headers={"content-type": kind}, body=body)
    assert reply.status == status
    assert message in str(reply.error["message"])
    assert "sys." not in str(reply.error["message"])
    assert reply.error["delivered"] == "no"
    assert reply.error["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("value", "accept", "kind", "body"),
    [
        ({"$bytes": "AP8="}, None, "application/octet-stream", b"\x00\xff"),
        ({"$bytes": "AP8="}, "*/*", "application/octet-stream", b"\x00\xff"),
        (
            {"$bytes": "AP8="},
            "application/json, */*;q=0.1",
            "application/octet-stream",
            b"\x00\xff",
        ),
        ({"$bytes": "AP8="}, "image/png", "application/octet-stream", b"\x00\xff"),
        ({"$bytes": "AP8="}, "application/json", "application/json", b'{"$bytes": "AP8="}'),
        ("té", None, "application/json", '"té"'.encode()),
        ("té", "text/plain", "text/plain; charset=utf-8", "té".encode()),
        ("té", "text/plain, application/json", "application/json", '"té"'.encode()),
        ("té", "text/plain, application/json;q=0", "text/plain; charset=utf-8", "té".encode()),
        (1, "text/plain", "application/json", b"1"),
    ],
)
async def test_the_result_has_the_form_that_the_client_wants(
    value: object, accept: str | None, kind: str, body: bytes
) -> None:
    async with open_site() as site:
        headers = {"accept": accept} if accept else {}
        reply = await call(site.gateway, "echo", {"value": value}, headers)
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, kind, body)


async def test_headers_are_options_of_the_call_and_come_back() -> None:
    sent = {
        "x-request-id": "r-1",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "a=1",
        "baggage": "user=ada",
    }
    options = {"spear-timeout": "7", "spear-session": "ada"}
    async with open_site() as site:
        reply = await call(site.gateway, "context", [], {**sent, **options})
        assert reply.status == 200
        assert reply.json["metadata"] == sent
        assert (reply.json["key"], reply.json["remaining"]) == (None, 7)
        assert {name: reply.headers[name] for name in sent} == sent
        assert reply.headers["spear-instance"] == "memory:probe-1#1"
        assert reply.headers["spear-timeout"] == "7"
        assert float(reply.headers["spear-duration-ms"]) >= 0
        made = await call(site.gateway, "context", [], {"x-request-id": "two words"})
        assert made.json["metadata"] == {"x-request-id": made.headers["x-request-id"]}
        assert made.headers["x-request-id"] != "two words"
        options["idempotency-key"] = "order-1"
        keyed = await call(site.gateway, "context", [], options)
        # An execution under a key has its deployment's deadline, whichever clients wait for it.
        assert (keyed.json["key"], keyed.json["remaining"]) == ("order-1", 60)
        endless = await call(site.gateway, "echo", 1, {"spear-timeout": "inf"})
        assert (endless.status, endless.headers["spear-timeout"]) == (200, "inf")
        assert made.headers["spear-timeout"] == "60"


async def test_a_call_waits_as_long_as_its_header_says() -> None:
    async with open_site(deployment=DeploymentSettings(concurrency=1)) as site:
        holding = await connect(site.gateway)
        await holding.send("POST", "/v1/functions/wait/call", b"")
        await site.probe.begun.wait()
        late = await call(site.gateway, "count", [], {"spear-queue-timeout": "0.05"})
        assert (late.status, late.error["kind"]) == (504, "DeadlineExceeded")
        assert late.error["delivered"] == "no"
        late = await call(site.gateway, "count", [], {"spear-queue-timeout": "0"})
        assert (late.status, late.error["delivered"]) == (504, "no")
        assert str(late.error["message"]).endswith("no replica of probe had a free slot")
        site.probe.release.set()
        assert (await holding.receive()).status == 200
        waits = {"spear-queue-timeout": "inf", "idempotency-key": "k"}
        assert (await call(site.gateway, "count", [], waits)).status == 400
        assert (await call(site.gateway, "count", [], {"spear-queue-timeout": "0"})).status == 200


@pytest.mark.slow
async def test_a_call_is_tried_again_as_often_as_its_header_says() -> None:
    attempts = {"spear-max-attempts": "2"}
    async with open_site(deployment=DeploymentSettings(concurrency=1, queue=0)) as site:
        holding = await connect(site.gateway)
        await holding.send("POST", "/v1/functions/wait/call", b"")
        await site.probe.begun.wait()
        assert (await call(site.gateway, "count", [], attempts)).status == 429
        site.probe.release.set()
        assert (await holding.receive()).status == 200
        made = site.spearlet.deployments["probe"].statistics().functions["count"]
        assert made.failures == {"Overloaded": 2}
        stream = await ask(site.gateway, "POST", "/v1/functions/ticks/stream", 1, attempts)
        assert (stream.status, stream.error["kind"]) == (400, "BadRequest")


async def test_a_key_makes_two_calls_one() -> None:
    async with open_site() as site:
        replies = [
            await call(site.gateway, "count", [], {"idempotency-key": "k"}) for _ in range(2)
        ]
        assert [reply.body for reply in replies] == [b"1", b"1"]
        assert "spear-instance" not in replies[1].headers  # no function ran


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spear-timeout", "soon"),
        ("spear-timeout", "0"),
        ("spear-timeout", "nan"),
        ("spear-timeout", "1e400"),
        ("spear-queue-timeout", "soon"),
        ("spear-queue-timeout", "-1"),
        ("spear-max-attempts", "0"),
        ("spear-max-attempts", "101"),
        ("spear-max-attempts", "+3"),
        ("spear-timeout", "1_0"),
        ("spear-timeout", "1e-400"),
        ("idempotency-key", "é"),
        ("spear-session", 300 * "x"),
        ("baggage", 9000 * "x"),
    ],
)
async def test_headers_that_cannot_be_used_are_refused(name: str, value: str) -> None:
    async with open_site() as site:
        reply = await call(site.gateway, "count", [], {name: value})
        assert (reply.status, reply.error["kind"]) == (400, "BadRequest")
        assert site.probe.calls == 0


@pytest.mark.parametrize(
    ("function", "value", "headers", "status", "kind"),
    [
        ("boom", "oh", {}, 500, "FunctionRaised"),
        ("overloaded", [], {}, 429, "Overloaded"),
        ("wait", [], {"spear-timeout": "0.01"}, 504, "DeadlineExceeded"),
        ("ticks", 1, {}, 409, "Rejected"),
        ("nothing", [], {}, 404, "NotFound"),
        ("add", "x", {}, 400, "InvalidArguments"),
        ("%ff", [], {}, 400, "BadRequest"),
        ("no%20such", [], {}, 404, "NotFound"),
    ],
)
async def test_failures_have_a_status_and_say_what_is_known(
    function: str, value: object, headers: dict[str, str], status: int, kind: str
) -> None:
    async with open_site() as site:
        reply = await call(site.gateway, function, value, headers)
    assert (reply.status, reply.error["kind"]) == (status, kind)
    if kind == "FunctionRaised":
        assert (reply.error["type"], reply.error["message"]) == ("KeyError", "'oh'")
        assert reply.error["delivered"] == "yes"
    if kind == "InvalidArguments":
        assert reply.error["usage"] == "add(a: int, b: int = 1, *, timeout: int = 0) -> int"
    if kind == "Overloaded":
        assert (reply.headers["retry-after"], reply.error["retry_after_seconds"]) == ("3", 2.5)


@pytest.mark.slow
async def test_paths_and_methods() -> None:
    async with open_site() as site:
        for path in (
            "/nothing",
            "/v1/functions/add/nothing",
            "/v1/functions//call",
            "/v1/a/b/c/d/e",
        ):
            reply = await ask(site.gateway, "GET", path)
            assert (reply.status, reply.error["kind"]) == (404, "NoSuchPath"), path
        reply = await ask(site.gateway, "DELETE", "/v1/functions")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        reply = await ask(site.gateway, "GET", "/v1/functions/double/socket")
        assert (reply.status, reply.headers["upgrade"]) == (426, "websocket")
        reply = await ask(site.gateway, "HEAD", "/healthz", body=None)
        assert (reply.status, reply.body) == (200, b"")


async def test_functions_are_listed_with_their_signatures() -> None:
    async with open_site() as site:
        await call(site.gateway, "add", 1)
        await call(site.gateway, "boom")
        listed = (await ask(site.gateway, "GET", "/v1/functions")).json["functions"]
        assert isinstance(listed, list)
        one = (await ask(site.gateway, "GET", "/v1/functions/add")).json
        assert one in listed
        assert one["signature"] == "add(a: int, b: int = 1, *, timeout: int = 0) -> int"
        assert (one["kind"], one["deployment"], one["summary"]) == (
            "function",
            "probe",
            "Add numbers.",
        )
        assert isinstance(one["statistics"], dict)
        assert one["statistics"]["calls"] == 1
        boom = (await ask(site.gateway, "GET", "/v1/functions/probe.boom")).json
        assert isinstance(boom["statistics"], dict)
        assert boom["statistics"]["failures"] == {"FunctionRaised": 1}
        ticks = (await ask(site.gateway, "GET", "/v1/functions/ticks")).json
        assert ticks["kind"] == "stream"


async def test_functions_are_listed_with_the_policy_that_applies() -> None:
    app = spear.Agent("careful")

    @app.function(retry=spear.RetryPolicy(on=("KeyError",), idempotent=True))
    async def look_up() -> None: ...

    @app.function
    async def write() -> None: ...

    policy = {
        "max_attempts": 3, "initial_seconds": 0.1, "max_seconds": 5.0, "on": ["KeyError"],
        "idempotent": True,
    }  # fmt: skip
    async with open_site() as site:
        deployment = await site.spearlet.deploy(app)
        own = (await ask(site.gateway, "GET", "/v1/functions/look_up")).json
        assert own["retry"] == policy
        assert (await ask(site.gateway, "GET", "/v1/functions/write")).json["retry"] is None
        settings = DeploymentSettings(retry=spear.RetryPolicy(max_attempts=5))
        await deployment.restart(settings=settings)
        for name in "look_up", "write":
            shown = (await ask(site.gateway, "GET", f"/v1/functions/{name}")).json["retry"]
            assert shown == {**policy, "max_attempts": 5, "on": [], "idempotent": False}


async def test_one_connection_takes_one_request_after_the_other() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        for number in range(3):
            reply = await client.ask("POST", CALL.format("add"), b"%d" % number)
            assert json.loads(reply.body) == number + 1
        assert site.gateway.statistics().connections == 1
        await client.aclose()
    assert site.gateway.statistics().requests == 3
    assert site.gateway.statistics().responses == {200: 3}


async def test_requests_may_be_sent_ahead_of_answers() -> None:
    head = b"POST /v1/functions/count/call HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.stream.send_all(3 * head)
        for number in range(1, 4):
            client.http.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
            client.http.send(h11.EndOfMessage())
            assert (await client.receive()).body == b"%d" % number
            client.http.start_next_cycle()
        await client.aclose()


async def test_bodies_come_in_chunks_and_after_a_word() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        headers = {"transfer-encoding": "chunked", "expect": "100-continue"}
        reply = await client.ask(
            "POST", CALL.format("twice"), b"ab", {**headers, "content-type": "x/y"}
        )
        assert reply.body == b"abab"
        await client.aclose()


async def test_a_proxy_may_name_the_host_in_the_path() -> None:
    async with open_site() as site:
        path = "http://localhost" + CALL.format("add")
        reply = await ask(site.gateway, "POST", path, 1, host="example.org")
        assert (reply.status, reply.body) == (200, b"2")
        reply = await ask(site.gateway, "POST", "http://example.org" + CALL.format("add"), 1)
        assert reply.status == 403


async def test_a_header_that_comes_twice_is_joined() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        head = b"POST /v1/functions/context/call HTTP/1.1\r\nHost: localhost\r\n"
        await client.stream.send_all(head + b"Baggage: a=1\r\nbaggage: b=2\r\n\r\n")
        client.http.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
        metadata = (await client.receive()).json["metadata"]
        assert isinstance(metadata, dict)
        assert metadata["baggage"] == "a=1, b=2"


async def test_a_client_that_leaves_is_noticed_behind_what_it_has_sent_ahead() -> None:
    head = b"POST /v1/functions/%b/call HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.stream.send_all(head % b"wait" + 9 * (head % b"count"))
        await site.probe.begun.wait()
        await client.aclose()
        await site.probe.cancelled.wait()
        await wait_until(lambda: site.gateway.statistics().connections == 0)
        assert site.probe.calls == 0


async def test_an_answer_to_a_client_that_is_gone_hurts_nobody() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        # With this much unread, the gateway does not read on, and so does not see the end.
        head = b"POST /v1/functions/%b/call HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await client.stream.send_all(head % b"wait" + 2500 * (head % b"count"))
        await site.probe.begun.wait()
        sock = client.stream.socket if isinstance(client.stream, trio.SocketStream) else None
        assert sock is not None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        site.probe.release.set()
        await wait_until(lambda: site.gateway.statistics().connections == 0)
        assert (await call(site.gateway, "add", 1)).status == 200


async def test_a_client_that_leaves_cancels_its_call() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.send("POST", CALL.format("wait"), b"")
        await site.probe.begun.wait()
        await client.aclose()
        await site.probe.cancelled.wait()
        await wait_until(lambda: site.gateway.statistics().connections == 0)
        assert site.gateway.statistics().responses == {0: 1}


async def test_while_the_host_drains_calls_finish_and_new_ones_are_refused() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.send("POST", CALL.format("wait"), b"")
        await site.probe.begun.wait()
        assert (await ask(site.gateway, "GET", "/readyz")).json == {"status": "ready"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.spearlet.drain)
            await wait_until(lambda: site.spearlet.state.value == "draining")
            ready = await ask(site.gateway, "GET", "/readyz")
            assert (ready.status, ready.json["status"]) == (503, "draining")
            reply = await call(site.gateway, "add", 1)
            assert (reply.status, reply.error["kind"]) == (503, "Rejected")
            assert reply.headers["retry-after"] == "1"
            site.probe.release.set()
            assert (await client.receive()).body == b'"released"'
        await client.aclose()


async def test_integers_of_any_size_go_both_ways() -> None:
    long = {"$int": hex(10**5000)}
    async with open_site() as site:
        assert (await call(site.gateway, "echo", {"value": [long, 1]})).body == json.dumps(
            [long, 1]
        ).encode()
        reply = await call(site.gateway, "add", {"a": long, "b": {"$int": hex(1 - 10**5000)}})
        assert reply.body == b"1"
        headers = {"idempotency-key": "k"}
        reply = await call(site.gateway, "add", [long], headers)
        assert reply.json == {"$int": hex(10**5000 + 1)}
        assert (await call(site.gateway, "add", [long], headers)).body == reply.body


def test_what_has_no_json_has_come_out_of_a_function() -> None:
    with pytest.raises(Problem, match="the result cannot be represented as JSON") as caught:
        show(["\ud800"])
    assert (caught.value.status, caught.value.delivered) == (502, "yes")


async def test_s7_a_compressed_body_is_refused() -> None:
    async with open_site() as site:
        body = gzip.compress(b"[1]")
        for path in ("/v1/functions/count/call", "/2015-03-31/functions/count/invocations"):
            for coding in ("gzip", "identity, gzip"):
                reply = await ask(
                    site.gateway, "POST", path, body=body, headers={"content-encoding": coding}
                )
                assert reply.status == 415
                assert reply.headers["accept-encoding"] == "identity"
                assert b"is not supported: send the body without encoding" in reply.body
        assert site.probe.calls == 0
        reply = await call(site.gateway, "echo", 1, {"content-encoding": "Identity"})
        assert reply.status == 200
        reply = await ask(
            site.gateway, "POST", CALL.format("count"), headers={"content-encoding": "gzip"}
        )
        assert reply.body == b"1"  # no body, so no compressed one either


@pytest.mark.parametrize(
    "line",
    [b"Content-Type: text/plain", b"Idempotency-Key: k", b"Spear-Session: s", b"Spear-Timeout: 5"],
)
async def test_what_may_be_said_once_is_not_taken_twice(line: bytes) -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        head = b"POST /v1/functions/count/call HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        await client.stream.send_all(head + 2 * (line + b"\r\n") + b"\r\n")
        client.http.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
        reply = await client.receive()
        assert (reply.status, reply.error["kind"]) == (400, "BadRequest")
        name = line.partition(b":")[0].decode()
        assert f"there is more than one {name} header" in str(reply.error["message"])
        assert site.probe.calls == 0


@pytest.mark.parametrize(
    ("way", "function", "message"),
    [
        ("call", "ticks", "POST /v1/functions/ticks/stream"),
        ("submit", "ticks", "cannot be submitted.* POST /v1/functions/ticks/stream"),
        ("stream", "echo", "gives one result, not a stream: use POST /v1/functions/echo/call"),
    ],
)
async def test_who_takes_the_wrong_way_is_told_the_other(
    way: str, function: str, message: str
) -> None:
    async with open_site() as site:
        reply = await ask(site.gateway, "POST", f"/v1/functions/{function}/{way}", [1])
        assert (reply.status, reply.error["kind"]) == (409, "Rejected")
        assert reply.error["delivered"] == "no"
        assert re.search(message, str(reply.error["message"]))
        assert ".stream(" not in str(reply.error["message"])


async def test_a_fault_of_the_gateway_is_an_error_without_details(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site() as site:
        monkeypatch.setattr(type(site.spearlet), "find_function", lambda *_: 1 / 0)
        reply = await call(site.gateway, "add", 1)
        assert (reply.status, reply.error["kind"]) == (500, "InternalError")
        assert "division" not in str(reply.error)
        assert "division by zero" in caplog.text


@pytest.mark.parametrize("seconds", ["inf", "1e9", "3600.1"])
async def test_a_call_that_goes_on_without_its_client_has_a_bound(seconds: str) -> None:
    """No client can end such a call: once they filled all slots of an instance for ever."""
    async with open_site() as site:
        keyed = {"spear-timeout": seconds, "idempotency-key": "k"}
        for way, headers in (
            ("call", keyed),
            ("submit", keyed),
            ("submit", {"spear-timeout": seconds}),
        ):
            path = f"/v1/functions/count/{way}"
            reply = await ask(site.gateway, "POST", path, headers=headers)
            assert (reply.status, reply.error["kind"]) == (400, "BadRequest")
            assert "at most 3600 s (detached_seconds)" in str(reply.error["message"])
        assert site.probe.calls == 0
        reply = await call(site.gateway, "count", headers={"spear-timeout": seconds})
        assert reply.status == 200  # the call ends with its client
        keyed["spear-timeout"] = "3600"
        assert (await call(site.gateway, "count", headers=keyed)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "advice"),
    [
        ("GET", "/v1/function", {}, "GET /openapi.json"),
        ("GET", "/v1/functions/add/socket", {}, "ws://"),
        ("POST", "/v1/functions/%ff/call", {}, "encode the path as UTF-8"),
        ("POST", "/v1/functions/add/call", {"authorization": "Basic Zm9v"}, "Bearer TOKEN"),
        ("POST", "/v1/deployments/probe/scale", {}, "{...}"),
    ],
)
async def test_a_refusal_says_what_to_do(
    method: str, path: str, headers: dict[str, str], advice: str
) -> None:
    token = "0123456789abcdef"
    async with open_site(GatewaySettings(token=token)) as site:
        headers = {"authorization": f"Bearer {token}"} | headers
        reply = await ask(site.gateway, method, path, [], headers)
        assert advice in str(reply.error["message"])


async def test_an_execution_of_a_key_has_the_time_that_its_client_asked_for() -> None:
    """The time may exceed the deployment's default, and clients that join do not shorten it."""
    agent = spear.Agent("asked")

    @agent.function
    async def remaining() -> int:
        return round(spear.context().remaining_seconds())

    async with open_site() as site:
        await site.spearlet.deploy(agent)
        for asked, expected in (("300", b"300"), ("5", b"60"), (None, b"60")):
            headers = {"idempotency-key": f"for {asked}"}
            if asked is not None:
                headers["spear-timeout"] = asked
            assert (await call(site.gateway, "remaining", [], headers)).body == expected


@pytest.mark.slow
@pytest.mark.parametrize("way", ["call", "submit"])
async def test_a_call_without_its_client_ends_where_the_deployment_has_no_deadline(
    way: str,
) -> None:
    probe = Probe()
    settings = GatewaySettings(detached_seconds=0.1, port=0)
    endless = spear.DeploymentSettings(timeout=math.inf)
    async with closing_clients(), spear.open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent, settings=endless)
        async with open_gateway(spearlet, settings) as gateway:
            client = await connect(gateway)
            headers = {"idempotency-key": "k"} if way == "call" else {}
            await client.send("POST", f"/v1/functions/wait/{way}", b"", headers)
            await probe.begun.wait()
            await client.aclose()
            await probe.cancelled.wait()
