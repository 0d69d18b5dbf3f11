"""Changes of running deployments: by several callers at once, and during long calls."""

from __future__ import annotations

import os
import sys
from math import inf
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from runtimes.helpers import children, nothing_left

import spear
from spear import (
    DeploymentSettings,
    HostLimits,
    InstanceTimeouts,
    Rejected,
    Scale,
    WorkerDied,
    open_spearlet,
)
from spear.telemetry import InstanceState

from .helpers import WORKERS, Probe, deployed
from .test_supervision import until

if TYPE_CHECKING:
    from pathlib import Path

    from spear.spearlet import Deployment

HASTY = HostLimits(timeouts=InstanceTimeouts(drain_seconds=0.001))
"""Limits under which no call has time to finish, unless a longer timeout is given."""


def slow() -> spear.Agent:
    app = spear.Agent("slow")

    @app.function
    async def nap(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    return app


def pipes(place: Path, amount: int) -> list[Path]:
    """Make pipes that ``read`` waits for."""
    paths = [place / f"pipe-{number}" for number in range(amount)]
    for path in paths:
        os.mkfifo(path)
    return paths


# -- long calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["restart", "scale"])
async def test_r15_a_replica_that_leaves_finishes_what_it_runs(
    change: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with deployed(slow(), replicas=2, limits=HASTY) as deployment:
        naps = [deployment.nap.submit(10) for _ in range(4)]
        await trio.testing.wait_all_tasks_blocked()
        if change == "restart":
            await deployment.restart()
        else:
            await deployment.scale(1)
        assert [await each.result() for each in naps] == [10] * 4
        assert not deployment.statistics().functions["nap"].failures


@pytest.mark.slow
async def test_r15_for_as_long_as_calls_have_that_name_no_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    begun = trio.current_time()
    async with deployed(slow()) as deployment, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def sleep_too_long() -> None:
            with pytest.raises(WorkerDied, match="memory:slow-1#1 has ended"):
                await deployment.nap.options(timeout=inf).call(1000)

        await trio.testing.wait_all_tasks_blocked()
        await deployment.restart()
        assert trio.current_time() - begun == pytest.approx(60, abs=0.1)


@pytest.mark.slow
async def test_r15_or_for_as_long_as_the_deployment_gives_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(timeout=70)
        deployment = await spearlet.deploy(slow(), settings=settings)
        nap = deployment.nap.submit(65)
        await trio.testing.wait_all_tasks_blocked()
        await deployment.restart()
        assert await nap.result() == 65


async def test_r15_a_shorter_timeout_is_for_those_that_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with deployed(slow()) as deployment:
        nap = deployment.nap.submit(10)
        await trio.testing.wait_all_tasks_blocked()
        await deployment.restart(settings=DeploymentSettings(timeout=1))
        assert await nap.result() == 10


@pytest.mark.slow
async def test_r15_a_drain_may_give_more_time_than_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(slow())
        nap = deployment.nap.options(timeout=inf).submit(65)
        await trio.testing.wait_all_tasks_blocked()
        await spearlet.drain(70)
        assert await nap.result() == 65


async def test_r15_whoever_stops_it_meanwhile_need_not_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    begun = trio.current_time()
    async with deployed(slow(), replicas=2) as deployment, trio.open_nursery() as nursery:
        naps = [deployment.nap.submit(50) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(deployment.scale, 1)
        await trio.testing.wait_all_tasks_blocked()
        await deployment.stop(3)
        assert trio.current_time() - begun == pytest.approx(3, abs=0.1)
        for each in naps:
            with pytest.raises(WorkerDied):
                await each.result()


@pytest.mark.slow
async def test_r15_processes_finish_what_they_run_and_their_zygote_waits_for_them(
    tmp_path: Path,
) -> None:
    """A replica that drains after scaling down finishes its call, although the others are replaced."""
    first, second = pipes(tmp_path, 2)
    with nothing_left():
        async with deployed(WORKERS, replicas=2, limits=HASTY) as deployment:
            zygotes = set(children())
            async with trio.open_nursery() as nursery:
                calls = [deployment.read.submit(str(first))]
                await until(lambda: deployment.statistics().calls_in_flight == 1)
                calls.append(deployment.read.submit(str(second)))
                await until(lambda: deployment.statistics().calls_in_flight == 2)
                await deployment.scale(1)
                await until(lambda: states(deployment)["process:workers-2#1"] == "draining")
                nursery.start_soon(deployment.restart)
                await until(lambda: states(deployment)["process:workers-1#1"] == "draining")
                await take_a_while()
                first.write_text("one")
                assert await calls[0].result() == "one"
            assert states(deployment) == {
                "process:workers-1#2": "ready", "process:workers-2#1": "draining",
            }  # fmt: skip
            second.write_text("two")
            assert await calls[1].result() == "two"
            await until(lambda: not zygotes & set(children()))


@pytest.mark.slow
async def test_r15_a_drain_gives_what_runs_the_time_that_it_was_told(tmp_path: Path) -> None:
    (pipe,) = pipes(tmp_path, 1)
    async with open_spearlet(limits=HASTY) as spearlet, trio.open_nursery() as nursery:
        deployment = await spearlet.deploy(WORKERS)
        call = deployment.read.submit(str(pipe))
        await until(lambda: deployment.statistics().calls_in_flight == 1)
        nursery.start_soon(spearlet.drain, 30)
        await until(lambda: states(deployment) == {"process:workers-1#1": "draining"})
        with pytest.raises(Rejected):
            await deployment.echo(1)
        await take_a_while()
        pipe.write_text("finished")
        assert await call.result() == "finished"


async def take_a_while() -> None:
    """Wait longer than the shortest timeouts: until a process has started and exited."""
    await trio.run_process([sys.executable, "-c", ""])


def states(deployment: Deployment) -> dict[str, str]:
    return {str(each.id): each.state.value for each in deployment.instances}


# -- several changes at once ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("target", ["memory", "process"])
async def test_restarts_that_overlap_follow_each_other(target: str) -> None:
    async with deployed(Probe().agent if target == "memory" else WORKERS, replicas=2) as deployment:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(deployment.restart)
            await deployment.echo(1)
        assert {each.id.incarnation for each in deployment.replicas} == {4}
        assert await deployment.echo(1) == 1
        statistics = deployment.statistics()
        assert (statistics.ready, statistics.lost) == (2, 0)


async def test_a_restart_after_one_that_was_given_up_meanwhile() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment, trio.open_nursery() as nursery:
        running = deployment.wait.submit()
        await probe.begun.wait()
        with trio.CancelScope() as impatience:
            nursery.start_soon(cancel_when_leaving, deployment, impatience)
            await deployment.restart()
        assert impatience.cancelled_caught
        await deployment.restart()
        assert [str(each.id) for each in deployment.replicas] == ["memory:probe-1#3"]
        probe.release.set()
        assert await running.result() == "released"


async def cancel_when_leaving(deployment: Deployment, scope: trio.CancelScope) -> None:
    await until(lambda: states(deployment).get("memory:probe-1#1") == InstanceState.DRAINING.value)
    scope.cancel()


@pytest.mark.parametrize(
    "settings", [None, DeploymentSettings(replicas=Scale(min=2, max=2), queue=7)]
)
async def test_a_change_of_number_during_a_restart_stays(
    settings: DeploymentSettings | None,
) -> None:
    probe = Probe()
    async with deployed(probe.agent, replicas=2) as deployment, trio.open_nursery() as nursery:
        running = deployment.wait.submit()
        await probe.begun.wait()
        async with trio.open_nursery() as restarting:
            restarting.start_soon(deployment.restart, None, settings)
            await until(lambda: states(deployment).get("memory:probe-1#1") == "draining")
            await deployment.scale(3)
            probe.release.set()
        assert await running.result() == "released"
        assert deployment.settings.replicas == Scale(min=3, max=3)
        assert deployment.settings.queue == (1000 if settings is None else 7)
        assert len(deployment.replicas) == 3
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_restart_may_change_the_runtime() -> None:
    async with deployed(Probe().agent) as deployment:
        await deployment.restart(WORKERS)
        assert [str(each.id) for each in deployment.replicas] == ["process:probe-1#2"]
        assert await deployment.echo(1) == 1
        await deployment.restart(Probe().agent)
        assert [str(each.id) for each in deployment.replicas] == ["memory:probe-1#3"]


async def test_a_restart_that_changes_the_number_wins() -> None:
    async with deployed(Probe().agent, replicas=2) as deployment:
        await deployment.restart(settings=DeploymentSettings(replicas=Scale(min=1, max=1)))
        assert len(deployment.replicas) == 1
        assert deployment.settings.replicas == Scale(min=1, max=1)
