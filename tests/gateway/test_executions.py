"""Submitted calls over HTTP."""

from __future__ import annotations

import json
import time

import trio

import spear

from .helpers import Site, ask, items_of, open_site, wait_until


async def submit(site: Site, function: str, value: object = None) -> str:
    """Submit a call; return the path of the new execution."""
    reply = await ask(site.gateway, "POST", f"/v1/functions/{function}/submit", value)
    assert reply.status == 202, reply.body
    path = reply.headers["location"]
    assert path == f"/v1/executions/{reply.json['id']}"
    assert reply.headers["spear-execution-id"] == reply.json["id"]
    return path


async def test_a_submitted_call_runs_and_its_result_can_be_had() -> None:
    async with open_site() as site:
        path = await submit(site, "wait")
        await site.probe.begun.wait()
        shown = (await ask(site.gateway, "GET", path)).json
        assert (shown["status"], shown["function"], shown["deployment"]) == (
            "running",
            "wait",
            "probe",
        )
        assert (shown["instance"], shown["error"]) == ("memory:probe-1#1", None)
        assert isinstance(shown["submitted"], float)
        assert abs(time.time() - shown["submitted"]) < 60
        early = await ask(site.gateway, "GET", f"{path}/result")
        assert (early.status, early.json["status"]) == (202, "running")
        early = await ask(site.gateway, "GET", f"{path}/result?wait=0.01")
        assert early.status == 202
        site.probe.release.set()
        reply = await ask(site.gateway, "GET", f"{path}/result?wait=10")
        assert (reply.status, json.loads(reply.body)) == (200, "released")
        assert reply.headers["spear-instance"] == "memory:probe-1#1"
        assert float(reply.headers["spear-duration-ms"]) > 0
        assert reply.headers["spear-execution-id"] in path
        again = await ask(site.gateway, "GET", f"{path}/result")
        assert again.body == reply.body
        shown = (await ask(site.gateway, "GET", path)).json
        assert shown["status"] == "completed"


async def test_a_submitted_call_that_fails_says_so() -> None:
    async with open_site() as site:
        path = await submit(site, "boom", "oh")
        reply = await ask(site.gateway, "GET", f"{path}/result?wait=10")
        assert (reply.status, reply.error["kind"], reply.error["type"]) == (
            500,
            "FunctionRaised",
            "KeyError",
        )
        shown = (await ask(site.gateway, "GET", path)).json
        assert isinstance(shown["error"], dict)
        assert (shown["status"], shown["error"]["kind"]) == ("failed", "FunctionRaised")


async def test_a_submitted_call_can_be_cancelled() -> None:
    async with open_site() as site:
        path = await submit(site, "wait")
        await site.probe.begun.wait()
        assert (await ask(site.gateway, "POST", f"{path}/cancel")).status == 202
        await site.probe.cancelled.wait()
        reply = await ask(site.gateway, "GET", f"{path}/result?wait=10")
        assert (reply.status, reply.error["kind"]) == (499, "CallCancelled")
        assert (await ask(site.gateway, "POST", f"{path}/cancel")).json["status"] == "cancelled"


async def test_a_submitted_call_that_waits_has_no_instance() -> None:
    agent = spear.Agent("narrow", concurrency=1)

    @agent.function
    async def hold() -> None:
        await trio.sleep_forever()

    async with open_site() as site:
        narrow = await site.spearlet.deploy(agent)
        first = await submit(site, "hold")
        await wait_until(lambda: narrow.statistics().calls_in_flight == 1)
        second = await submit(site, "hold")
        await wait_until(lambda: narrow.statistics().waiting == 1)
        assert (await ask(site.gateway, "GET", second)).json["status"] == "pending"
        await ask(site.gateway, "POST", f"{second}/cancel")
        reply = await ask(site.gateway, "GET", f"{second}/result?wait=10")
        assert (reply.status, reply.error["delivered"]) == (499, "no")
        assert "spear-instance" not in reply.headers
        await ask(site.gateway, "POST", f"{first}/cancel")


async def test_executions_are_listed() -> None:
    async with open_site() as site:
        paths = [
            await submit(site, name, value)
            for name, value in (("add", 1), ("add", 2), ("boom", "x"))
        ]
        await wait_until(lambda: site.spearlet.executions.unfinished == 0)

        async def listed(query: str = "") -> list[str]:
            reply = await ask(site.gateway, "GET", f"/v1/executions{query}")
            return [f"/v1/executions/{each['id']}" for each in items_of(reply.json["executions"])]

        assert await listed() == paths[::-1]
        assert await listed("?function=add") == paths[1::-1]
        assert await listed("?function=probe.add&most=1") == [paths[1]]
        assert await listed("?status=failed") == [paths[2]]
        for query in ("?status=lost", "?most=0", "?most=1001", "?most=x"):
            assert (await ask(site.gateway, "GET", f"/v1/executions{query}")).status == 400
        for path in ("/v1/executions/nothing", "/v1/executions/nothing/result"):
            assert (await ask(site.gateway, "GET", path)).status == 404


async def test_a_stream_cannot_be_submitted() -> None:
    async with open_site() as site:
        reply = await ask(site.gateway, "POST", "/v1/functions/ticks/submit", 1)
        assert (reply.status, reply.error["kind"]) == (409, "Rejected")
