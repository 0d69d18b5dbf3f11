"""The wanted number of replicas: the arithmetic alone, and a deployment that follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import spear
from spear import (
    ConfigurationError,
    DeploymentSettings,
    HealthPolicy,
    HostLimits,
    Scale,
    WireLimits,
    open_spearlet,
)
from spear.spearlet import DeploymentState
from spear.spearlet._autoscaler import MAX_DECISIONS, Autoscaler, Load

from .helpers import PATIENCE_SECONDS, WORKERS, shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.spearlet import Deployment, Replica


def load(calls: int, concurrency: int = 10) -> Load:
    return Load(in_flight=calls, waiting=0, concurrency=concurrency)


@pytest.mark.parametrize(
    ("calls", "needed"), [(0, 1), (1, 1), (7, 1), (8, 2), (14, 2), (15, 3), (1000, 8)]
)
def test_the_load_decides_between_min_and_max(calls: int, needed: int) -> None:
    autoscaler = Autoscaler(Scale(min=1, max=8), 1, 0.0)
    assert autoscaler.needed(load(calls)) == needed
    assert autoscaler.needed(Load(in_flight=0, waiting=calls, concurrency=10)) == needed


def test_spares_come_on_top() -> None:
    autoscaler = Autoscaler(Scale(min=0, max=4, spare=1), 1, 0.0)
    assert [autoscaler.needed(load(calls)) for calls in (0, 7, 8, 29)] == [1, 2, 3, 4]


def test_more_at_once_and_fewer_after_a_while() -> None:
    autoscaler = Autoscaler(Scale(min=1, max=8, idle_seconds=60), 1, 0.0)
    assert autoscaler.look(1.0, load(30))
    assert autoscaler.wanted == 5
    for now in range(2, 60):
        assert not autoscaler.look(float(now), load(10))
    assert not autoscaler.look(60.5, load(0))
    assert autoscaler.look(61.0, load(0))
    assert autoscaler.wanted == 2  # the most that was needed within the last minute
    assert not autoscaler.look(118.0, load(0))
    assert autoscaler.look(119.0, load(0))
    assert autoscaler.wanted == 1
    first, second, third = autoscaler.decisions
    assert (first.before, first.after, first.reason) == (1, 5, "30 calls in flight, 0 queued")
    assert (second.time, second.before, second.after) == (61.0, 5, 2)
    assert third.reason == "lower load for 60 s"


def test_decisions_are_bounded() -> None:
    autoscaler = Autoscaler(Scale(min=1, max=2, idle_seconds=0), 1, 0.0)
    for now in range(1, 500):
        autoscaler.look(float(now), load(8 if now % 2 else 0))
    assert len(autoscaler.decisions) == MAX_DECISIONS


@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.integers(0, 200)), max_size=40),
    st.integers(0, 4),
    st.integers(1, 8),
    st.integers(0, 3),
    st.floats(0, 100),
)
def test_never_outside_its_bounds_and_never_less_than_needed(
    steps: list[tuple[float, int]], least: int, more: int, spare: int, idle: float
) -> None:
    scale = Scale(min=least, max=least + more, spare=spare, idle_seconds=idle)
    autoscaler = Autoscaler(scale, max(least, 1), 0.0)
    now, needs = 0.0, [(0.0, max(least, 1))]
    for seconds, calls in steps:
        now += seconds
        before = autoscaler.wanted
        changed = autoscaler.look(now, load(calls))
        needs.append((now, autoscaler.needed(load(calls))))
        assert changed is (autoscaler.wanted != before)
        assert scale.min <= autoscaler.wanted <= scale.max
        assert autoscaler.wanted >= needs[-1][1]
        # The slow way: the maximum over the window.
        window = [needed for when, needed in needs[:-1] if when > now - idle] + [needs[-1][1]]
        assert autoscaler.wanted == max(window)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min": 3, "max": 2}, r"min is 3, above replicas.max \(2\)"),
        ({"max": 0, "min": 0}, "at least 1"),
        ({"min": -1}, "from 0 to"),
        ({"min": 1.5}, "whole number"),
        ({"idle_seconds": -1}, "idle_seconds must be"),
        ({"idle_seconds": float("nan")}, "idle_seconds must be"),
        ({"target": 0}, "target must be"),
        ({"target": "1"}, "target must be"),
    ],
    ids=str,
)
def test_a_scale_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Scale(**values)  # type: ignore[arg-type]  # the mistake


class Slow:
    """An agent whose calls last until a test releases them."""

    def __init__(self) -> None:
        self.agent = spear.Agent("slow", concurrency=1)
        self.release = trio.Event()
        self.agent.function(self.work)
        self.agent.function(self.items)

    async def work(self) -> str:
        await self.release.wait()
        return "done"

    async def items(self) -> AsyncIterator[int]:
        yield 1
        await self.release.wait()


async def deploy(spearlet: spear.Spearlet, slow: Slow, **values: float) -> Deployment:
    scale = Scale(target=1.0, **values)  # type: ignore[arg-type]  # numbers, all of them
    return await spearlet.deploy(shared(slow.agent), settings=DeploymentSettings(replicas=scale))


async def test_a_deployment_grows_with_its_calls_and_shrinks_without(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = Slow()
    async with open_spearlet() as spearlet:
        deployment = await deploy(spearlet, slow, min=1, max=3, idle_seconds=30)
        running = [deployment.work.submit() for _ in range(5)]
        await trio.testing.wait_all_tasks_blocked()
        now = deployment.statistics()
        assert (now.ready, now.wanted, now.calls_in_flight, now.waiting) == (3, 3, 3, 2)
        slow.release.set()
        assert [await each.result() for each in running] == ["done"] * 5
        assert deployment.statistics().ready == 3
        await trio.sleep(29)
        assert deployment.statistics().ready == 3
        await trio.sleep(3)
        assert deployment.statistics().ready == 1
        assert [(each.before, each.after) for each in deployment.decisions] == [
            (1, 2),
            (2, 3),
            (3, 1),
        ]


async def test_none_when_nobody_calls_and_one_when_somebody_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = Slow()
    slow.release.set()
    async with open_spearlet() as spearlet:
        deployment = await deploy(spearlet, slow, min=0, max=2, idle_seconds=10)
        assert deployment.statistics().ready == 1  # a replica has to announce the functions
        await trio.sleep(12)
        assert deployment.health().state is DeploymentState.IDLE
        assert (deployment.replicas, deployment.instances) == ((), ())
        assert await deployment.work() == "done"
        assert deployment.health().state is DeploymentState.READY
        assert str(deployment.replicas[0].id) == "memory:slow-1#2"
        await trio.sleep(12)
        assert deployment.health().state is DeploymentState.IDLE
        async with deployment.items.stream() as items:
            assert [item async for item in items] == [1]
        assert deployment.statistics().started == 3


async def test_a_spare_is_ready_before_it_is_needed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = Slow()
    async with open_spearlet() as spearlet:
        deployment = await deploy(spearlet, slow, min=0, max=4, spare=1, idle_seconds=10)
        running = [deployment.work.submit()]
        await trio.sleep(2)  # the time for another spare is noticed without a call, too
        assert (deployment.statistics().ready, deployment.statistics().waiting) == (2, 0)
        running += [deployment.work.submit()]
        await trio.sleep(2)
        assert deployment.statistics().ready == 3
        slow.release.set()
        for each in running:
            await each.result()
        await trio.sleep(15)
        assert deployment.statistics().ready == 1


@pytest.mark.slow
async def test_the_first_call_on_a_spare_costs_one_message() -> None:
    """A spare is started, logged in and registered: only the call itself is left to do."""
    limits = HostLimits(
        wire=WireLimits(heartbeat_seconds=60)
    )  # no other frame may be sent meanwhile
    settings = DeploymentSettings(
        replicas=Scale(min=0, max=3, spare=1, target=1.0),
        concurrency=1,
        health=HealthPolicy(interval_seconds=60),
    )
    async with open_spearlet(limits=limits) as spearlet:
        deployment = await spearlet.deploy(WORKERS, settings=settings)
        (first,) = deployment.replicas
        await expect_one_message(deployment, first)
        # While the first one is busy, another spare is kept ready.
        begun = trio.Event()
        holding = deployment.hold.options(on_progress=lambda _: begun.set()).submit(1)
        with trio.fail_after(PATIENCE_SECONDS):
            await begun.wait()
            while len(deployment.replicas) < 2:
                await trio.sleep(0.01)
        (spare,) = (each for each in deployment.replicas if each is not first)
        await expect_one_message(deployment, spare)
        holding.cancel()


async def expect_one_message(deployment: Deployment, spare: Replica) -> None:
    channel = spare.channel
    assert channel is not None
    before = channel.statistics()
    assert (before.messages_sent, before.messages_received) == (0, 0)
    answer = await deployment.who.ask()
    after = channel.statistics()
    assert (answer.instance, answer.result) == (spare.id, spare.pid)
    assert (after.messages_sent, after.messages_received) == (1, 1)
    assert after.latency.count == 1
    assert after.bytes_sent - before.bytes_sent < 64  # a head and no arguments
    assert after.bytes_received - before.bytes_received < 64


async def test_scale_by_hand() -> None:
    slow = Slow()
    async with open_spearlet() as spearlet:
        deployment = await deploy(spearlet, slow, min=1, max=1)
        running = [deployment.work.submit() for _ in range(3)]
        await deployment.scale(3)
        await trio.testing.wait_all_tasks_blocked()
        assert (deployment.statistics().ready, deployment.statistics().calls_in_flight) == (3, 3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.scale, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert deployment.statistics().ready == 1
            assert len(deployment.instances) == 3  # running calls may finish
            slow.release.set()
        assert [await each.result() for each in running] == ["done"] * 3
        assert deployment.settings.replicas == Scale(min=1, max=1)
        with pytest.raises(ConfigurationError, match="from 1 to"):
            await deployment.scale(0)
        await deployment.stop()
        with pytest.raises(spear.SpearError, match="slow is stopping or has stopped"):
            await deployment.scale(2)
