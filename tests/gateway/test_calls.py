"""Calls over HTTP, through a real socket: arguments, results, headers."""

from __future__ import annotations

import json

import pytest

from .helpers import call, connect, open_site

CALL = "/v1/functions/{}/call"


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
        ("echo", [{"$bytes": "AP8="}], None),
        ("echo", [{"x": {"$bytes": "AP8="}}], {"x": {"$bytes": "AP8="}}),
        ("echo", {"value": {"$float": "nan"}}, {"$float": "nan"}),
        ("echo", [[1.5, True, {"a": None}, "é"]], [1.5, True, {"a": None}, "é"]),
    ],
)
async def test_the_body_decides_what_the_arguments_are(
    function: str, value: object, result: object
) -> None:
    async with open_site() as site:
        reply = await call(site.gateway, function, value)
    assert reply.status == 200, reply.body
    if result is None and value != [None]:
        assert (reply.headers["content-type"], reply.body) == (
            "application/octet-stream",
            b"\x00\xff",
        )
    else:
        assert reply.headers["content-type"] == "application/json"
        assert json.loads(reply.body) == result


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
