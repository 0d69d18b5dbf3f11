"""A replica gets no call from the moment at which it is asked to drain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import DeploymentSettings, Scale, open_spearlet
from spear.runtimes import Instance

from .helpers import Probe, deployed

if TYPE_CHECKING:
    from spear.spearlet import Deployment


class Lingering:
    """Replicas that are asked to stop, and receive the request only when a test lets them.

    For a process that takes a moment, too: its host checks the state first, and waits for other tasks
    that stop it already.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.leaving = trio.Event()
        self.may_go = trio.Event()
        stop = Instance.stop

        async def linger(replica: Instance, drain_seconds: float | None = None) -> int | None:
            self.leaving.set()
            await self.may_go.wait()
            return await stop(replica, drain_seconds)

        monkeypatch.setattr(Instance, "stop", linger)


@pytest.fixture
def lingering(monkeypatch: pytest.MonkeyPatch) -> Lingering:
    return Lingering(monkeypatch)


async def instances_that_answer(deployment: Deployment, calls: int) -> set[str]:
    return {str((await deployment.echo.ask(1)).instance) for _ in range(calls)}


async def test_r15_one_that_leaves_is_given_no_call_if_there_is_another(
    lingering: Lingering,
) -> None:
    async with deployed(Probe().agent, replicas=2) as deployment, trio.open_nursery() as nursery:
        nursery.start_soon(deployment.scale, 1)
        await lingering.leaving.wait()
        assert await instances_that_answer(deployment, 8) == {"memory:probe-1#1"}
        assert [str(each.id) for each in deployment.replicas] == ["memory:probe-1#1"]
        lingering.may_go.set()


async def test_r15_one_that_is_replaced_is_given_no_call(lingering: Lingering) -> None:
    async with deployed(Probe().agent) as deployment, trio.open_nursery() as nursery:
        nursery.start_soon(deployment.restart)
        await lingering.leaving.wait()
        assert await instances_that_answer(deployment, 8) == {"memory:probe-1#2"}
        assert deployment.statistics().ready == 1
        lingering.may_go.set()


async def test_r15_the_last_one_that_leaves_is_given_no_call_and_another_is_started(
    autojump_clock: trio.testing.MockClock, lingering: Lingering
) -> None:
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(replicas=Scale(min=0, max=1, idle_seconds=1))
        deployment = await spearlet.deploy(Probe().agent, settings=settings)
        await lingering.leaving.wait()  # without any call
        assert await instances_that_answer(deployment, 2) == {"memory:probe-1#2"}
        lingering.may_go.set()


async def test_r15_what_one_that_leaves_still_runs_is_no_load_of_those_that_stay(
    lingering: Lingering,
) -> None:
    probe = Probe()
    async with deployed(probe.agent, replicas=2) as deployment:
        running = [deployment.wait.submit() for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        assert deployment.statistics().calls_in_flight == 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.scale, 1)
            await lingering.leaving.wait()
            lingering.may_go.set()
            await trio.testing.wait_all_tasks_blocked()
            assert deployment._pool.load().in_flight == 1
            assert deployment.statistics().calls_in_flight == 2  # running calls are still counted
            probe.release.set()
        assert [await each.result() for each in running] == ["released"] * 2


async def test_r15_whoever_waits_in_line_is_not_sent_to_one_that_leaves(
    lingering: Lingering,
) -> None:
    """The draining replica's slots become free, but no call gets them."""
    probe = Probe()
    app = spear.Agent("probe", concurrency=1)
    app.function(probe.wait)
    app.function(probe.echo)
    async with deployed(app, replicas=2) as deployment:
        running = [deployment.wait.submit() for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.scale, 1)
            await lingering.leaving.wait()
            waiting = [deployment.echo.submit(number) for number in range(4)]
            await trio.testing.wait_all_tasks_blocked()
            assert deployment.statistics().waiting == 4
            probe.release.set()
            assert [await each.result() for each in waiting] == [0, 1, 2, 3]
            assert {str(each.instance) for each in waiting} == {"memory:probe-1#1"}
            lingering.may_go.set()
        assert [await each.result() for each in running] == ["released"] * 2
