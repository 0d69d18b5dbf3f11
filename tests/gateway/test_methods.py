"""GET, HEAD and OPTIONS on every path, and every other method."""

from __future__ import annotations

import pytest

from spear.gateway import GatewaySettings
from spear.gateway._routes import ROUTES

from .helpers import KNOWN, TOKEN, Site, ask, connect, open_site

GETS = [path for path, route in ROUTES.items() if "GET" in route.operations]
VARIES = {"date", "x-request-id", "content-length"}
"""Headers whose values may differ between two equal requests."""


async def where(site: Site, pattern: str) -> str:
    """Return an existing path for a pattern."""
    if "/executions/*" in pattern:
        reply = await ask(
            site.gateway, "POST", "/v1/functions/count/submit", headers=KNOWN, body=b""
        )
        name = str(reply.json["id"])
    else:
        name = "probe" if "/deployments/" in pattern else "echo"
    return pattern.replace("*", name)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", GETS)
async def test_head_is_get_without_a_body(pattern: str) -> None:
    """The response to HEAD ends, even if the response to GET never does."""
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        path = await where(site, pattern)
        if pattern.endswith("/result"):
            path += "?wait=20"
        client = await connect(site.gateway)
        heads = [await client.ask("HEAD", path, None, KNOWN) for _ in range(2)]
        other = await connect(site.gateway)
        await other.send("GET", path, None, KNOWN)
        get = await other.receive_head()
        for head in heads:  # the next answer on the connection shows that the response has ended
            assert (head.status, head.body) == (get.status, b"")
            assert head.headers.keys() == get.headers.keys()
            for name in head.headers.keys() - VARIES:
                assert head.headers[name] == get.headers[name] or name == "spear-duration-ms"


async def test_head_of_what_never_ends_takes_no_stream() -> None:
    follow = "/v1/deployments/probe/logs?follow=true"
    async with open_site(GatewaySettings(max_streams=1)) as site:
        watcher = await connect(site.gateway)
        await watcher.send("GET", "/v1/watch")
        assert (await watcher.receive_head()).status == 200
        client = await connect(site.gateway)
        for path in ("/v1/watch", follow, "/v1/watch?interval=1"):
            reply = await client.ask("HEAD", path, None, {"accept": "text/event-stream"})
            assert (reply.status, reply.body) == (200, b"")
            assert reply.headers["content-type"] == "text/event-stream"
            assert (await client.ask("GET", path)).status == 503
        for path in ("/v1/watch?interval=x", "/v1/deployments/probe/logs?follow=x"):
            assert (await client.ask("HEAD", path)).status == 400
        assert (await client.ask("HEAD", follow.replace("probe", "none"))).status == 404
        assert site.gateway.statistics().streams == 1


@pytest.mark.parametrize("pattern", ROUTES)
async def test_options_and_unknown_methods_tell_the_methods(pattern: str) -> None:
    """Both kinds of requests need no token, and allow no calls from pages of other sites."""
    route = ROUTES[pattern]
    methods = {*route.operations, "OPTIONS"} | ({"HEAD"} if "GET" in route.operations else set())
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        client = await connect(site.gateway)
        path = pattern.replace("*", "anything")
        asking = {"origin": "http://localhost", "access-control-request-method": "POST"}
        reply = await client.ask("OPTIONS", path, None, asking)
        assert (reply.status, reply.body) == (204, b"")
        assert set(reply.headers["allow"].split(", ")) == methods
        assert not [name for name in reply.headers if name.startswith("access-control-")]
        for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"} - methods:
            reply = await client.ask(method, path, None, {})
            assert (reply.status, set(reply.headers["allow"].split(", "))) == (405, methods)


async def test_options_of_no_path_is_not_found() -> None:
    async with open_site() as site:
        assert (await ask(site.gateway, "OPTIONS", "/nothing")).status == 404
