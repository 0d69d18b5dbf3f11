"""Submitted calls: every status, and the ways to each."""

from __future__ import annotations

import gc
import itertools
from typing import cast

import pytest
import trio
import trio.testing

import spear
from spear import CallCancelled, DeadlineExceeded, FunctionRaised, InvalidArguments, SpearError
from spear.calls import STATUS_MOVES, Execution, ExecutionStatus, decode_result_untrusted
from spear.spearlet import Deployment
from spear.testing import cancel_sweep

from .helpers import PATIENCE_SECONDS, Probe, deployed

S = ExecutionStatus


def status(execution: Execution) -> str:
    """Return the status's name; mypy would narrow the status itself to its first value."""
    return execution.status.value


def ways() -> dict[ExecutionStatus, list[ExecutionStatus]]:
    """Return a path from the initial status to each status."""
    found: dict[ExecutionStatus, list[ExecutionStatus]] = {S.PENDING: []}
    queue = [S.PENDING]
    while queue:
        here = queue.pop(0)
        for there in sorted(STATUS_MOVES[here] - found.keys(), key=lambda status: status.value):
            found[there] = [*found[here], there]
            queue.append(there)
    return found


def test_every_status_can_be_reached_and_is_in_the_table() -> None:
    assert set(ways()) == set(STATUS_MOVES) == set(S)


@pytest.mark.parametrize(("here", "there"), [*itertools.product(S, S)])
async def test_each_move_is_allowed_or_changes_nothing(
    here: ExecutionStatus, there: ExecutionStatus
) -> None:
    created = Execution._create("d", "f", decode_result_untrusted, 0, lambda *_: None)
    execution = cast("Execution", created)
    for step in ways()[here]:
        execution._move(step)
    if there in STATUS_MOVES[here]:
        execution._move(there)
        assert execution.status is there
    else:
        with pytest.raises(ValueError, match=f"{there.value} cannot follow {here.value}"):
            execution._move(there)
        assert execution.status is here


async def test_one_that_completes(autojump_clock: trio.testing.MockClock) -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        execution = deployment.wait.submit()
        assert status(execution) == "pending"
        assert execution.instance is None
        assert repr(execution) == f"<Execution {execution.id} of wait: pending>"
        await probe.begun.wait()
        assert status(execution) == "running"
        assert str(execution.instance) == "memory:probe-1#1"
        await trio.sleep(2)
        assert execution.duration_seconds == pytest.approx(2)
        assert execution.execution_seconds is None
        probe.release.set()
        assert await execution.result() == "released"
        assert await execution.result() == "released"  # may be repeated
        await trio.sleep(2)
        assert status(execution) == "completed"
        assert execution.failure is None
        assert execution.duration_seconds == pytest.approx(2)
        assert execution.execution_seconds == pytest.approx(2)
        execution.cancel()
        assert status(execution) == "completed"
        assert repr(execution) == f"<Execution {execution.id} of wait: completed>"


async def test_one_that_takes_no_time(autojump_clock: trio.testing.MockClock) -> None:
    async with deployed(Probe().agent) as deployment:
        execution = deployment.echo.submit(1)
        assert await execution.result() == 1
        assert trio.current_time() == 0  # a valid time
        await trio.sleep(5)
        assert execution.duration_seconds == 0


async def test_one_that_fails() -> None:
    async with deployed(Probe().agent) as deployment:
        execution = deployment.boom.submit()
        for _ in range(2):
            with pytest.raises(FunctionRaised, match="nothing there"):
                await execution.result()
        assert status(execution) == "failed"
        assert isinstance(execution.failure, FunctionRaised)
        assert str(execution.instance) == "memory:probe-1#1"


@pytest.mark.parametrize("asks", [True, False])
async def test_a_failure_that_nobody_asks_about_is_logged(
    asks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with deployed(Probe().agent) as deployment:
        execution = deployment.boom.submit()
        while status(execution) != "failed":
            await trio.lowlevel.checkpoint()
        if asks:
            assert execution.failure is not None
        name = execution.id
        del execution
    gc.collect()
    warnings = [each.getMessage() for each in caplog.records if each.name == "spear.spearlet"]
    said = (
        f"execution {name} of boom failed: KeyError: 'nothing there' [function_raised], "
        "and its result was never requested"
    )
    assert warnings == ([] if asks else [said])


async def test_many_failures_that_nobody_asks_about_are_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with deployed(Probe().agent) as deployment:
        for number in range(50):
            (deployment.boom if number % 10 else deployment.add).submit(*["x"] * (not number % 10))
        await deployment.echo(1)
        while deployment.statistics().functions["boom"].calls < 45:
            await trio.lowlevel.checkpoint()
    gc.collect()
    (line,) = [each.getMessage() for each in caplog.records if each.name == "spear.spearlet"]
    assert line.startswith(
        "50 executions failed, and their results were never requested (boom: 45, add: 5); "
        "the last one: execution "
    )


async def test_an_execution_can_be_awaited() -> None:
    async with deployed(Probe().agent) as deployment:
        assert await deployment.echo.submit("tea") == "tea"
        with pytest.raises(FunctionRaised, match="nothing there"):
            await deployment.boom.submit()


async def test_executions_come_in_the_order_in_which_they_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = spear.Agent()

    @app.function
    async def rest(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async with deployed(app) as deployment:
        executions = [deployment.rest.submit(each) for each in (3, 1, 5, 2, 4)]
        await executions[1]
        ended = [await each async for each in spear.as_completed(executions)]
        assert ended == [1, 2, 3, 4, 5]
        assert [each async for each in spear.as_completed(executions)] == executions
        assert [each async for each in spear.as_completed(())] == []
        waiting = spear.as_completed([deployment.rest.submit(9)])
        with trio.move_on_after(1):
            await anext(waiting)
        assert await (await anext(waiting)) == 9


async def test_one_whose_arguments_do_not_fit() -> None:
    async with deployed(Probe().agent) as deployment:
        execution = deployment.add.submit("one")
        with pytest.raises(InvalidArguments, match="expected int"):
            await execution.result()
        assert status(execution) == "failed"


async def test_one_whose_progress_handler_fails_leaves_the_others_alone() -> None:
    def fail(report: object) -> None:
        raise ZeroDivisionError

    probe = Probe()
    async with deployed(probe.agent) as deployment:
        other = deployment.wait.submit()
        execution = deployment.steps.options(on_progress=fail).submit(1)
        with pytest.raises(ZeroDivisionError):
            await execution.result()
        assert status(execution) == "failed"
        probe.release.set()
        assert await other.result() == "released"


async def test_one_whose_time_is_up(autojump_clock: trio.testing.MockClock) -> None:
    async with deployed(Probe().agent) as deployment:
        execution = deployment.wait.submit(timeout=3)
        with pytest.raises(DeadlineExceeded):
            await execution.result()
        assert status(execution) == "timeout"
        assert execution.duration_seconds == pytest.approx(3)


async def test_the_time_of_who_submits_does_not_matter(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with deployed(
        Probe().agent, limits=spear.HostLimits(wire=spear.WireLimits(call_seconds=9))
    ) as deployment:
        with trio.move_on_after(1):
            execution = deployment.wait.submit()
            await execution.result()
        assert status(execution) == "running"
        with pytest.raises(DeadlineExceeded):
            await execution.result()
        assert execution.duration_seconds == pytest.approx(9)


async def test_one_that_is_cancelled_while_it_runs() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        execution = deployment.wait.submit()
        await probe.begun.wait()
        execution.cancel()
        with pytest.raises(
            CallCancelled, match=f"execution {execution.id} of wait was cancelled"
        ) as caught:
            await execution.result()
        assert caught.value.delivered == "maybe"
        assert status(execution) == "cancelled"
        with trio.fail_after(PATIENCE_SECONDS):
            await probe.cancelled.wait()


async def test_one_that_is_cancelled_before_it_runs() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        execution = deployment.wait.submit()
        execution.cancel()
        with pytest.raises(CallCancelled) as caught:
            await execution.result()
        assert caught.value.delivered == "no"
        assert status(execution) == "cancelled"
        assert execution.instance is None
        assert probe.calls == 0


async def test_cancelling_who_waits_does_not_cancel_it() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        execution = deployment.wait.submit()
        await probe.begun.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await execution.result()
        assert status(execution) == "running"
        probe.release.set()
        assert await execution.result() == "released"


async def test_numbers_and_counts_are_the_spearlets() -> None:
    probe = Probe()
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        executions = [deployment.wait.submit() for _ in range(3)]
        assert len({each.id for each in executions}) == 3
        assert spearlet.statistics().executions == 3
        probe.release.set()
        for each in executions:
            await each.result()
        await trio.testing.wait_all_tasks_blocked()
        assert spearlet.statistics().executions == 0


async def test_what_runs_at_the_end_may_finish() -> None:
    probe = Probe()
    async with trio.open_nursery() as nursery, deployed(probe.agent) as deployment:
        execution = deployment.wait.submit()
        await probe.begun.wait()
        nursery.start_soon(release_when_draining, probe, deployment)
    assert await execution.result() == "released"


async def release_when_draining(probe: Probe, deployment: Deployment) -> None:
    channel = deployment.replicas[0].channel
    assert channel is not None
    while channel.is_connected:
        await trio.testing.wait_all_tasks_blocked()
    probe.release.set()


async def test_what_does_not_finish_ends_with_the_spearlet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    probe = Probe()
    begun = trio.current_time()
    async with deployed(
        probe.agent, limits=spear.HostLimits(timeouts=spear.InstanceTimeouts(drain_seconds=3))
    ) as deployment:
        execution = deployment.wait.submit(timeout=60)
        await probe.begun.wait()
    assert trio.current_time() - begun == pytest.approx(3, abs=0.1)
    with pytest.raises(SpearError):
        await execution.result()
    assert execution.status in (S.FAILED, S.CANCELLED)
    assert probe.cancelled.is_set()


async def test_an_exception_cancels_what_runs() -> None:
    probe, running = Probe(), []

    async def fail() -> None:
        async with deployed(probe.agent) as deployment:
            running.append(deployment.wait.submit())
            await probe.begun.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(SpearError):
        await running[0].result()
    assert running[0].status in (S.FAILED, S.CANCELLED)


async def test_nothing_is_submitted_after_the_end() -> None:
    async with deployed(Probe().agent) as deployment:
        pass
    with pytest.raises(SpearError, match="this spearlet has ended"):
        deployment.echo.submit(1)


async def test_waiting_is_a_checkpoint() -> None:
    async with deployed(Probe().agent) as deployment:
        execution = deployment.echo.submit(1)
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                assert await execution.result() == 1


async def test_cancelled_anywhere_a_wait_leaves_the_execution_alone() -> None:
    async def submit(deployment: Deployment) -> None:
        assert await deployment.echo.submit(b"x").result() == b"x"

    sweep = await cancel_sweep(lambda: deployed(Probe().agent), submit, submit)
    assert sweep.runs > 2
