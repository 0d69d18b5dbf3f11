"""Watching and operating a host over HTTP, with real processes."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from runtimes.helpers import Spoiled

import spear
from spear.gateway import GatewaySettings, open_gateway
from spear.runtimes import Instance, InstanceMetrics, MemorySettings
from spear.spearlet import Scale
from spear.telemetry import LogLine

from .helpers import (
    KNOWN,
    TOKEN,
    Probe,
    Site,
    ask,
    call,
    closing_clients,
    connect,
    items_of,
    open_site,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from spear.gateway import Gateway
    from spear.runtimes import InstanceBody

    from .helpers import Json, Reply

SHOP = """
import sys

import spear

app = spear.Agent("shop")


@app.function
async def say(text: str) -> str:
    print(text, flush=True)
    return text


@app.function
async def die() -> None:
    sys.stderr.write("so long\\n")
    sys.stderr.flush()
    import os
    os._exit(3)
"""

CONTROL = GatewaySettings(allow_control=True)


@asynccontextmanager
async def open_shop(
    place: Path, settings: GatewaySettings = CONTROL, replicas: int | Scale = 1
) -> AsyncIterator[tuple[Site, spear.Deployment]]:
    """Open a gateway in front of a deployment of processes."""
    file = place / "shop.py"
    file.write_text(SHOP, encoding="utf-8")
    async with closing_clients(), spear.open_spearlet() as spearlet:
        shop = await spearlet.deploy(file, replicas=replicas)
        async with open_gateway(spearlet, attrs.evolve(settings, port=0)) as gateway:
            yield Site(gateway, spearlet, Probe()), shop


def bounds_of_bucket(index: int) -> tuple[int, int]:
    """Return the lower bound (inclusive) and the upper bound (exclusive) in µs, as documented."""
    if index < 4:
        return index, index + 1
    octave, quarter = divmod(index, 4)
    width = 2 ** (octave - 1)
    return (4 + quarter) * width, (5 + quarter) * width


async def lines_of(site: Site, query: str = "") -> list[str]:
    """Return the lines of the log."""
    reply = await ask(site.gateway, "GET", f"/v1/deployments/shop/logs{query}")
    assert reply.status == 200
    return [json.loads(line)["text"] for line in reply.body.splitlines()]


@pytest.mark.slow
async def test_what_runs_is_shown_with_its_processes(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as (site, shop):
        await call(site.gateway, "say", "hello")
        shown = (await ask(site.gateway, "GET", "/v1/deployments/shop")).json
        assert (shown["name"], shown["state"], shown["reason"]) == ("shop", "ready", "")
        assert str(shown["target"]).endswith("shop.py")
        assert (shown["functions"], shown["streams"]) == (["say", "die"], [])
        settings, statistics = shown["settings"], shown["statistics"]
        assert isinstance(settings, dict)
        assert isinstance(statistics, dict)
        assert settings["replicas"] == attrs.asdict(Scale())
        assert (statistics["ready"], statistics["wanted"], statistics["waiting"]) == (1, 1, 0)
        assert isinstance(shown["function_statistics"], dict)
        say = shown["function_statistics"]["say"]
        assert isinstance(say, dict)
        assert isinstance(say["latency"], dict)
        assert (say["calls"], say["latency"]["count"]) == (1, 1)
        buckets = say["latency"]["buckets"]
        assert isinstance(buckets, list)
        (index,) = (number for number, count in enumerate(buckets) if count)
        at_least, less_than = bounds_of_bucket(index)
        assert at_least <= float(str(say["latency"]["mean_seconds"])) * 1e6 < less_than
        assert bounds_of_bucket(len(buckets) - 1)[0] / 1e6 > 60  # and all above
        (instance,) = items_of(shown["instances"])
        (replica,) = shop.replicas
        assert (instance["id"], instance["pid"], instance["state"]) == (
            "process:shop-1#1",
            replica.pid,
            "ready",
        )
        assert isinstance(instance["memory_bytes"], int)
        assert instance["memory_bytes"] > 1 << 20
        listed = (await ask(site.gateway, "GET", "/v1/instances")).json
        assert [each["id"] for each in items_of(listed["instances"])] == ["process:shop-1#1"]
        listed = (await ask(site.gateway, "GET", "/v1/deployments")).json
        assert [each["name"] for each in items_of(listed["deployments"])] == ["shop"]
        await wait_until(lambda: site.gateway.statistics().connections == 0)  # all have been closed
        everything = (await ask(site.gateway, "GET", "/v1/statistics")).json
        assert (everything["state"], everything["pid"], everything["name"]) == (
            "running",
            os.getpid(),
            "default",
        )
        assert isinstance(everything["gateway"], dict)
        assert everything["gateway"]["connections"] == 1
        assert [each["name"] for each in items_of(everything["deployments"])] == ["shop"]

        # The output of the functions is there, too.
        await wait_until(lambda: len(shop.logs()) == 1)
        await call(site.gateway, "say", "again")
        await wait_until(lambda: len(shop.logs()) == 2)
        assert await lines_of(site) == ["hello", "again"]
        assert await lines_of(site, "?tail=1") == ["again"]
        assert await lines_of(site, "?instance=shop-1") == ["hello", "again"]
        assert await lines_of(site, "?instance=shop-2") == []
        for query in ("?tail=-1", "?tail=x", "?tail=1.5", "?tail=1_0", "?follow=perhaps"):
            assert (
                await ask(site.gateway, "GET", f"/v1/deployments/shop/logs{query}")
            ).status == 400

        client = await connect(site.gateway)
        await client.send("GET", "/v1/deployments/shop/logs?tail=1&follow=true")
        assert (await client.receive_head()).status == 200
        parts = client.parts()
        assert json.loads(await anext(parts))["text"] == "again"
        await call(site.gateway, "say", "more")
        line = json.loads(await anext(parts))
        assert (line["text"], line["stream"], line["instance"]) == (
            "more",
            "stdout",
            "process:shop-1#1",
        )

        # A query for one instance shows no lines of another one.
        other = await connect(site.gateway)
        await other.send("GET", "/v1/deployments/shop/logs?follow=true&instance=shop-2")
        assert (await other.receive_head()).status == 200
        await call(site.gateway, "say", "even more")
        assert json.loads(await anext(parts))["text"] == "even more"
        await other.aclose()

        # A client that reads too slowly is told that lines were dropped.
        (follower, _) = shop._feed.followers._open
        follower.lost = 7
        await call(site.gateway, "say", "and more")
        texts = [json.loads(await anext(parts)) for _ in range(2)]
        assert {"lost": 7} in texts


@pytest.mark.slow
async def test_a_deployment_is_scaled_restarted_and_stopped(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as (site, shop):

        async def operate(what: str, value: object = None) -> Json:
            reply = await ask(site.gateway, "POST", f"/v1/deployments/shop/{what}", value)
            assert reply.status == 200, reply.body
            return reply.json

        shown = await operate("scale", {"replicas": 2})
        assert isinstance(shown, dict)
        assert len(items_of(shown["instances"])) == 2
        (decision,) = items_of(shown["decisions"])
        assert (decision["before"], decision["after"]) == (1, 2)
        await operate("scale", {"min": 1, "max": 3})
        assert shop.settings.replicas == Scale(min=1, max=3)
        before = {replica.pid for replica in shop.replicas}
        await operate("restart")
        assert not before & {replica.pid for replica in shop.replicas}
        for value in (
            {},
            {"least": 1},
            [1],
            {"replicas": 0},
            {"replicas": "x"},
            {"min": "x"},
            {"min": 5},
        ):
            reply = await ask(site.gateway, "POST", "/v1/deployments/shop/scale", value)
            assert reply.status == 400, value
        (tmp_path / "shop.py").write_text("raise SystemExit(1)")
        reply = await ask(site.gateway, "POST", "/v1/deployments/shop/restart")
        assert (reply.status, reply.error["kind"]) == (503, "SpawnFailed")
        assert (await call(site.gateway, "say", "still here")).status == 200
        stopped = await operate("stop")
        assert isinstance(stopped, dict)
        assert stopped["state"] == "stopped"
        reply = await ask(site.gateway, "GET", "/v1/deployments/shop")
        assert (reply.status, reply.error["kind"]) == (404, "NotFound")


@pytest.mark.slow
async def test_what_is_wrong_with_a_deployment_is_told_to_those_who_may_know(
    tmp_path: Path,
) -> None:
    settings = GatewaySettings(token=TOKEN)
    policy = spear.DeploymentSettings(restart=spear.RestartPolicy(intensity=0))
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    async with closing_clients(), spear.open_spearlet() as spearlet:
        shop = await spearlet.deploy(tmp_path / "shop.py", settings=policy)
        async with open_gateway(spearlet, attrs.evolve(settings, port=0)) as gateway:
            reply = await ask(gateway, "POST", "/v1/functions/die/call", headers=KNOWN)
            assert (reply.status, reply.error["kind"]) == (502, "WorkerDied")
            assert (reply.error["exit_status"], reply.error["stderr_tail"]) == (3, "so long")
            assert "so long" not in str(reply.error["message"])
            await wait_until(lambda: shop.health().state.value == "unhealthy")
            reply = await ask(gateway, "POST", "/v1/functions/die/call", headers=KNOWN)
            assert (reply.status, reply.error["delivered"]) == (503, "no")
            ready = await ask(gateway, "GET", "/readyz")
            assert (ready.status, ready.json) == (503, {"status": "not ready"})
            ready = await ask(gateway, "GET", "/readyz", headers=KNOWN)
            assert "shop" in str(ready.json["reasons"])
            assert (await ask(gateway, "GET", "/healthz")).status == 200


@pytest.mark.slow
async def test_a_crashing_deployment_leaves_the_others_ready(tmp_path: Path) -> None:
    """A load balancer that asks about its own deployment still uses the host."""
    policy = spear.DeploymentSettings(restart=spear.RestartPolicy(intensity=0))
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        shop = await site.spearlet.deploy(tmp_path / "shop.py", settings=policy)

        async def ready(query: str, headers: Mapping[str, str] | None = None) -> Reply:
            return await ask(site.gateway, "GET", f"/readyz{query}", headers=headers)

        for query in ("", "?deployment=shop", "?deployment=probe", "?deployment=%73hop"):
            assert (await ready(query)).status == 200
        await ask(site.gateway, "POST", "/v1/functions/die/call", headers=KNOWN)
        await wait_until(lambda: shop.health().state.value == "unhealthy")
        assert (await ready("")).status == 503
        told = await ready("?deployment=shop")
        assert (told.status, told.json) == (503, {"status": "not ready"})
        told = await ready("?deployment=shop", KNOWN)
        assert list(told.json["reasons"]) == ["shop"]  # type: ignore[arg-type]  # a dict
        told = await ready("?deployment=probe")
        assert (told.status, told.json) == (200, {"status": "ready"})
        for query in ("?deployment=none", "?deployment=", "?deployment=sho%2570"):
            told = await ready(query)
            assert (told.status, told.error["kind"]) == (404, "NotFound")
            assert "shop" not in str(told.error["message"])
        for query in (
            "?deployments=shop",
            "?deployment=shop&x=1",
            "?deployment=shop&deployment=probe",
        ):
            assert (await ready(query)).status == 400


@pytest.mark.slow
async def test_a_deployment_without_instances_is_idle_and_ready() -> None:
    async with open_site() as site:
        await site.spearlet.deploy(
            Probe("idle").agent, replicas=Scale(min=0, max=1, idle_seconds=0)
        )
        idle = site.spearlet.deployments["idle"]
        await call(site.gateway, "idle.add", 1)
        names = (await ask(site.gateway, "GET", "/v1/functions/idle.add")).json
        with trio.fail_after(20):
            while idle.instances:
                await trio.sleep(0.05)
        assert (await ask(site.gateway, "GET", "/readyz")).status == 200
        # Requests that only watch do not wake it.
        again = (await ask(site.gateway, "GET", "/v1/functions/idle.add")).json
        assert again["signature"] == names["signature"]
        assert not idle.instances


async def test_an_instance_shows_the_figures_that_only_its_runtime_knows() -> None:
    async def metrics() -> InstanceMetrics:
        return InstanceMetrics(memory_bytes=65536, others={"fuel": 12.5})

    def spoil(body: InstanceBody) -> None:
        body.metrics = metrics  # type: ignore[method-assign]  # the other runtime

    async with spear.open_spearlet(runtimes=[Spoiled(spoil=spoil)]) as spearlet:
        await spearlet.deploy(MemorySettings(agent=Probe("shop").agent), name="shop")
        async with closing_clients(), open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            shown = (await ask(gateway, "GET", "/v1/instances")).json
    (instance,) = items_of(shown["instances"])
    assert (instance["memory_bytes"], instance["threads"]) == (65536, None)
    assert instance["metrics"] == {"fuel": 12.5}


@pytest.mark.slow
async def test_snapshots_come_as_time_goes_by() -> None:
    async with open_site() as site:
        for headers in ({}, {"accept": "text/event-stream"}):
            client = await connect(site.gateway)
            await client.send("GET", "/v1/watch?interval=0.2", headers=headers)
            await client.receive_head()
            parts = client.parts()
            shown = [(await anext(parts)).decode() for _ in range(2)]
            if headers:
                shown = [each.partition("data: ")[2] for each in shown]
            first, second = (json.loads(each) for each in shown)
            assert second["time"] > first["time"]
            assert second["gateway"]["streams"] >= 1
            await client.aclose()
        assert (await ask(site.gateway, "GET", "/v1/watch?interval=0.1")).status == 400


async def test_operators_need_a_right() -> None:
    paths = [f"/v1/deployments/probe/{what}" for what in ("scale", "restart", "stop", "start")]
    async with open_site() as site:
        for path in (*paths, "/v1/drain"):
            reply = await ask(site.gateway, "POST", path, {"replicas": 2})
            assert (reply.status, reply.error["kind"]) == (403, "Forbidden")
            assert "control socket" in str(reply.error["message"])
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        assert (await ask(site.gateway, "POST", paths[0], {"replicas": 2})).status == 401
        reply = await ask(site.gateway, "POST", paths[0], {"replicas": 2}, KNOWN)
        assert reply.status == 200
        assert len(site.spearlet.deployments["probe"].replicas) == 2
    async with open_site(CONTROL) as site:
        reply = await ask(site.gateway, "POST", "/v1/deployments/nothing/stop")
        assert (reply.status, reply.error["kind"]) == (404, "NotFound")


async def test_an_operation_goes_on_though_its_client_leaves() -> None:
    async with open_site(CONTROL) as site:
        waiting = await connect(site.gateway)
        await waiting.send("POST", "/v1/functions/wait/call", b"")
        await site.probe.begun.wait()
        client = await connect(site.gateway)
        await client.send("POST", "/v1/deployments/probe/stop", b"")
        probe = site.spearlet.deployments["probe"]
        await wait_until(lambda: probe.health().state.value == "stopping")
        await client.aclose()
        site.probe.release.set()
        assert (await waiting.receive()).status == 200
        await wait_until(lambda: not site.spearlet.deployments)


async def test_a_stopped_deployment_is_started_by_the_program_that_deploys_it() -> None:
    asked: list[str] = []

    async def start(name: str) -> None:
        asked.append(name)
        await spearlet.deploy(Probe().agent, name=name)

    settings = attrs.evolve(CONTROL, port=0)
    async with closing_clients(), spear.open_spearlet() as spearlet:
        async with open_gateway(spearlet, settings, on_start=start) as gateway:
            reply = await ask(gateway, "POST", "/v1/deployments/probe/start")
            assert isinstance(reply.json, dict)
            assert (reply.status, reply.json["state"]) == (200, "ready")
            reply = await ask(gateway, "POST", "/v1/deployments/probe/start")
            assert (reply.status, reply.error["kind"]) == (400, "ConfigurationError")
        async with open_gateway(spearlet, settings) as gateway:  # it starts none
            assert (await ask(gateway, "POST", "/v1/deployments/probe/start")).status == 200
            reply = await ask(gateway, "POST", "/v1/deployments/other/start")
            assert (reply.status, reply.error["kind"]) == (404, "NotFound")
    assert asked == ["probe", "probe"]


async def test_an_operator_may_drain_the_host() -> None:
    async with open_site(CONTROL) as site:
        for wrong in ({"seconds": -1}, {"seconds": "x"}, {"second": 1}, [1]):
            assert (await ask(site.gateway, "POST", "/v1/drain", wrong)).status == 400
        reply = await ask(site.gateway, "POST", "/v1/drain")
        assert (reply.status, reply.json) == (202, {"state": "draining"})
        await wait_until(lambda: not site.spearlet.deployments)
    asked: list[float | None] = []
    async with closing_clients(), spear.open_spearlet() as spearlet:
        settings = attrs.evolve(CONTROL, port=0)
        async with open_gateway(spearlet, settings, on_drain=asked.append) as gateway:
            for value in (None, {"seconds": 2.5}, {"seconds": None}):
                assert (await ask(gateway, "POST", "/v1/drain", value)).status == 202
            assert spearlet.state.value == "running"
    assert asked == [None, 2.5, None]


async def test_the_lines_of_all_deployments_are_read_and_followed_together() -> None:
    async with open_site() as site:
        other = await site.spearlet.deploy(Probe("other").agent)
        probe = site.spearlet.deployments["probe"]

        def say(deployment: spear.Deployment, time: float, text: str) -> None:
            place = spear.InstanceId("memory", f"{deployment.name}-1", 1)
            deployment._feed.put(place, LogLine(1, "stdout", time, text))

        async def texts(query: str) -> list[str]:
            reply = await ask(site.gateway, "GET", f"/v1/logs{query}")
            return [json.loads(line)["text"] for line in reply.body.splitlines()]

        say(probe, 1.0, "one")
        for time in (2.0, 3.0):
            say(other, time, "noise")
        assert await texts("") == ["one", "noise", "noise"]
        # The tail is of the lines that are wanted, however many others there are.
        assert await texts("?tail=1&deployment=probe") == ["one"]
        assert await texts("?tail=1&instance=memory:probe-1%231") == ["one"]
        assert await texts("?deployment=nothing") == []

        client = await connect(site.gateway)
        await client.send("GET", "/v1/logs?tail=0&follow=true&deployment=probe")
        await client.receive_head()
        await wait_until(lambda: site.spearlet._registry.followers._open)
        say(other, 4.0, "noise")
        say(probe, 5.0, "two")
        line = json.loads(await anext(client.parts()))
        assert (line["deployment"], line["instance"], line["text"]) == (
            "probe", "memory:probe-1#1", "two",
        )  # fmt: skip
        assert (await ask(site.gateway, "HEAD", "/v1/logs")).status == 200


async def test_failures_of_instances_are_listed() -> None:
    async with open_site() as site:
        probe = site.spearlet.deployments["probe"]
        (replica,) = probe.replicas
        assert isinstance(replica, Instance)
        await replica.kill("a test says so")
        await wait_until(lambda: probe.failures)
        reply = await ask(site.gateway, "GET", "/v1/deployments/probe/failures")
        (failure,) = items_of(reply.json["failures"])
        assert (failure["instance"], failure["code"]) == ("memory:probe-1#1", "worker_died")
        assert "a test says so" in str(failure["reason"])
        assert (failure["exit_status"], failure["stderr_tail"]) == (None, "")
        assert isinstance(failure["time"], float)
        reply = await ask(site.gateway, "GET", "/v1/deployments/nothing/failures")
        assert reply.status == 404


async def test_a_snapshot_says_what_its_reader_may_do_and_may_start_again() -> None:
    configured = {"probe", "gone"}

    async def start(name: str) -> None:
        if name not in configured:
            raise spear.NotFound(f"there is no {name}")
        await spearlet.deploy(Probe().agent, name=name)

    async def stopped(gateway: Gateway) -> Json:
        shown = (await ask(gateway, "GET", "/v1/statistics")).json
        assert shown["may_operate"] is True
        return shown["stopped"]

    settings = attrs.evolve(CONTROL, port=0)
    async with closing_clients(), spear.open_spearlet() as spearlet:
        for name in configured:
            await spearlet.deploy(Probe().agent, name=name)
        async with open_gateway(spearlet, settings, on_start=start) as gateway:
            assert await stopped(gateway) == []
            for name in ("probe", "gone"):
                await ask(gateway, "POST", f"/v1/deployments/{name}/stop")
            assert await stopped(gateway) == ["gone", "probe"]
            await ask(gateway, "POST", "/v1/deployments/probe/start")
            assert await stopped(gateway) == ["gone"]
            configured.remove("gone")
            assert (await ask(gateway, "POST", "/v1/deployments/gone/start")).status == 404
            assert await stopped(gateway) == []
    async with open_site() as site:
        shown = (await ask(site.gateway, "GET", "/v1/statistics")).json
        assert shown["may_operate"] is False
