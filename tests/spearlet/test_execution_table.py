"""Executions that are kept: found by id, listed, and removed in time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import spear
from spear import (
    ExecutionStatus,
    FunctionRaised,
    HostLimits,
    NotFound,
    Overloaded,
    open_spearlet,
)

from .helpers import Probe


async def test_they_are_found_and_listed() -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        done, failed = deployment.echo.submit(1), deployment.boom.submit()
        assert await done.result() == 1
        with pytest.raises(FunctionRaised):
            await failed.result()
        running = deployment.wait.submit()
        await probe.begun.wait()
        executions = spearlet.executions
        assert len(executions) == 3
        assert list(executions) == [running, failed, done]  # newest first
        assert executions.get(done.id) is done
        assert (done.deployment, done.function) == ("probe", "echo")
        assert executions.list(function="echo") == (done,)
        assert executions.list(function="probe.boom") == (failed,)
        assert executions.list(status=ExecutionStatus.RUNNING) == (running,)
        assert executions.list(function="echo", status=ExecutionStatus.FAILED) == ()
        assert executions.list(most=1) == (running,)
        with pytest.raises(NotFound, match="no execution 'x'; executions are kept for 3600"):
            executions.get("x")
        probe.release.set()
    assert len(spearlet.executions) == 0


async def test_r18_those_that_have_ended_are_forgotten_by_age_number_and_size(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = HostLimits(max_executions=3, execution_seconds=60, execution_bytes=1000)
    async with open_spearlet(limits=limits) as spearlet:
        deployment = await spearlet.deploy(Probe().agent)

        async def echo(data: bytes) -> spear.Execution:
            execution = deployment.echo.submit(data)
            await execution.result()
            await trio.testing.wait_all_tasks_blocked()
            return execution

        made = [await echo(b"1") for _ in range(5)]
        assert list(spearlet.executions) == made[:1:-1]
        assert await made[0].result() == b"1"  # a program's own reference still works
        await trio.sleep(59)
        assert len(list(spearlet.executions)) == 3
        await trio.sleep(2)
        assert list(spearlet.executions) == []
        small, large = await echo(bytes(200)), await echo(bytes(900))
        assert list(spearlet.executions) == [large]
        assert small.status is ExecutionStatus.COMPLETED


async def test_r18_a_single_result_above_the_limit_is_forgotten_and_earlier_ones_are_kept() -> None:
    async with open_spearlet(limits=HostLimits(execution_bytes=1000)) as spearlet:
        deployment = await spearlet.deploy(Probe().agent)
        made = []
        for size in (300, 1001, 300):
            made.append(deployment.echo.submit(bytes(size)))
            await made[-1].result()
            await trio.testing.wait_all_tasks_blocked()
        small, large, last = made
        assert list(spearlet.executions) == [last, small]
        assert spearlet.executions.unfinished == 0
        with pytest.raises(NotFound):
            spearlet.executions.get(large.id)
        assert await large.result() == bytes(1001)  # the program holds the result


async def test_r18_failures_count_as_what_they_hold_and_hold_no_arguments() -> None:
    agent = spear.Agent("shop")

    @agent.function
    async def whine(data: bytes) -> None:
        raise ValueError("x" * 4000)

    async with open_spearlet(limits=HostLimits(execution_bytes=20_000)) as spearlet:
        deployment = await spearlet.deploy(agent)
        for _ in range(5):
            execution = deployment.whine.submit(b"argument")
            for _ in range(2):
                with pytest.raises(FunctionRaised, match="ValueError: xxxx"):
                    await execution.result()
            await trio.testing.wait_all_tasks_blocked()
            assert execution.failure is not None
            assert execution.failure.__traceback__ is None  # the frames hold the arguments
        assert len(list(spearlet.executions)) == 2  # the text is held twice


async def test_r18_those_that_have_not_ended_are_bounded() -> None:
    probe = Probe()
    async with open_spearlet(limits=HostLimits(max_submitted=2)) as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        running = [deployment.wait.submit() for _ in range(2)]
        with pytest.raises(
            Overloaded, match=r"2 submitted calls have not ended.*max_submitted"
        ) as no:
            deployment.echo.submit(1)
        assert (no.value.delivered, no.value.retry_after_seconds) == ("no", 1.0)
        assert await deployment.echo(1) == 1  # direct calls are not limited by it
        probe.release.set()
        for each in running:
            await each.result()
        await trio.testing.wait_all_tasks_blocked()
        assert await deployment.echo.submit(2).result() == 2


async def test_one_that_waits_for_a_replica_is_pending() -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        settings = spear.DeploymentSettings(concurrency=1)
        deployment = await spearlet.deploy(probe.agent, settings=settings)
        first = deployment.wait.submit()
        await probe.begun.wait()
        second = deployment.echo.submit(2)
        await trio.testing.wait_all_tasks_blocked()
        assert (first.status, second.status) == (ExecutionStatus.RUNNING, ExecutionStatus.PENDING)
        assert second.instance is None
        late = deployment.echo.submit(3, timeout=0.01)
        with pytest.raises(spear.DeadlineExceeded, match="no replica of probe had a free slot"):
            await late.result()
        assert late.status is ExecutionStatus.TIMEOUT
        probe.release.set()
        assert await second.result() == 2
