"""The door for asyncio programs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, cast

import pytest

import spear
import spear.asyncio
from spear import HostLimits
from spear.asyncio import as_completed, open_spearlet
from spear.spearlet import DeploymentState, SpearletState

from .functions import Dish, Kitchen

if TYPE_CHECKING:
    from spear.asyncio import Deployment
    from spear.calls import Result
    from spear.telemetry import CallRecord

P = ParamSpec("P")

PATIENCE_SECONDS = 15.0


def in_asyncio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@asynccontextmanager
async def deployed_in(kitchen: Kitchen) -> AsyncIterator[Deployment]:
    async with open_spearlet() as spearlet:
        yield await spearlet.deploy(kitchen.agent)


async def when_set(event: threading.Event) -> None:
    """Wait for an event of another thread."""
    assert await asyncio.to_thread(event.wait, PATIENCE_SECONDS)


# -- one call ---------------------------------------------------------------------------------


@in_asyncio
async def test_a_function_is_awaited(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        assert await deployed.echo([1, b"\xff", "tea"]) == [1, b"\xff", "tea"]
        assert await deployed.echo.call(value=2, timeout=PATIENCE_SECONDS) == 2
        assert deployed.function("echo").name == "echo"
        assert deployed.echo.deployment == "kitchen"
        assert deployed.count.is_stream
        assert await deployed.echo.signature() == "echo(value: object) -> object"
        assert await deployed.thread() != threading.get_ident()
        assert repr(deployed.echo) == "<asyncio.Function echo of kitchen>"
        calls = [deployed.echo(each) for each in range(200)]
        assert await asyncio.gather(*calls) == list(range(200))


@in_asyncio
async def test_a_failure_is_that_of_the_function(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        with pytest.raises(spear.FunctionRaised, match="no tea") as caught:
            await deployed.fail("no tea")
        assert caught.value.type_name == "ValueError"
        with pytest.raises(AttributeError, match="fial"):
            _ = deployed.fial
        with pytest.raises(AttributeError):
            _ = deployed._private
        with pytest.raises(spear.DeadlineExceeded):
            await deployed.hang(timeout=0.01)
        await when_set(kitchen.cancelled)


@in_asyncio
async def test_cancelling_the_task_cancels_the_function(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        task = asyncio.create_task(deployed.hang.call())
        await when_set(kitchen.begun)
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await when_set(kitchen.cancelled)
        assert await deployed.echo(1) == 1


@in_asyncio
async def test_a_call_may_be_cancelled_before_it_begins(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        task = asyncio.create_task(deployed.hang.call())
        await asyncio.sleep(0)  # it is submitted with the next pass of the loop
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await deployed.hang()


@in_asyncio
async def test_options_apply(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        progress: list[tuple[Result, int]] = []

        def note(value: Result) -> None:
            progress.append((value, threading.get_ident()))

        assert await deployed.cook.options(on_progress=note)(3) == "done"
        assert progress == [(each, threading.get_ident()) for each in range(3)]
        assert deployed.echo.options(timeout=7).timeout == 7
        assert deployed.echo.retry is None
        dish = await deployed.echo.options(returns=Dish)({"name": "pie"})
        assert dish == Dish("pie")
        assert (await deployed.echo.ask(4)).result == 4

        async def wrong(value: Result) -> None: ...

        with pytest.raises(spear.InvalidArguments, match="plain function"):
            deployed.cook.options(on_progress=cast("Callable[[Result], None]", wrong))


@in_asyncio
async def test_what_a_callback_raises_is_logged(
    kitchen: Kitchen, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(value: Result) -> None:
        raise ValueError("broken")

    async with deployed_in(kitchen) as deployed:
        with caplog.at_level(logging.ERROR, "spear.asyncio"):
            assert await deployed.cook.options(on_progress=broken)(1) == "done"
    assert caplog.messages == ["a callback raised"]


@in_asyncio
async def test_a_call_has_the_context_variables_of_its_task(kitchen: Kitchen) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []

    def on_call(record: CallRecord) -> None:
        seen.append(user.get())

    async def call(deployed: Deployment, name: str) -> None:
        user.set(name)
        await deployed.echo(1)

    async with open_spearlet(on_call=on_call) as spearlet:
        deployed = await spearlet.deploy(kitchen.agent)
        await asyncio.gather(call(deployed, "ann"), call(deployed, "bob"))
    assert sorted(seen) == ["ann", "bob"]


# -- submitted calls --------------------------------------------------------------------------


@in_asyncio
async def test_submitted_calls_are_awaited_as_they_end(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        slow = await deployed.hang.submit()
        quick = [await deployed.echo.submit(each) for each in range(3)]
        ended: list[str] = []
        async for execution in as_completed([slow, *quick]):
            ended.append(execution.id)
            if len(ended) == len(quick):
                slow.cancel()
        assert ended[-1] == slow.id
        assert [await each for each in quick] == [0, 1, 2]
        assert quick[0].status is spear.ExecutionStatus.COMPLETED
        assert quick[0].instance is not None
        assert "completed" in repr(quick[0])
        with pytest.raises(spear.CallCancelled):
            await slow
        assert isinstance(slow.failure, spear.CallCancelled)
        assert [each async for each in as_completed([])] == []


@in_asyncio
async def test_giving_up_waiting_for_a_submitted_call_does_not_cancel_it(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        slow = await deployed.hang.submit()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow, 0.01)
        assert slow.status in (spear.ExecutionStatus.PENDING, spear.ExecutionStatus.RUNNING)
        slow.cancel()


# -- streams ----------------------------------------------------------------------------------


@in_asyncio
async def test_a_stream_is_iterated_over(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed:
        async with deployed.count.stream(1000) as numbers:
            assert [each async for each in numbers] == list(range(1000))
            assert [each async for each in numbers] == []
            assert numbers.instance is not None
        async with deployed.count.stream(-3) as numbers:
            assert [await anext(numbers) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(spear.FunctionRaised):
                await anext(numbers)
            assert isinstance(numbers.failure, spear.FunctionRaised)
        with pytest.raises(spear.Rejected):
            async with deployed.echo.stream(1):
                pytest.fail("the block was entered")


@in_asyncio
async def test_a_task_that_gives_up_waiting_for_an_item_loses_none(kitchen: Kitchen) -> None:
    async with (
        deployed_in(kitchen) as deployed,
        deployed.double.stream(sends_items=True) as numbers,
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(numbers), 0.01)
        for each in range(3):
            await numbers.send(each)
        await numbers.send_eof()
        assert [each async for each in numbers] == [0, 2, 4]


@in_asyncio
async def test_several_tasks_share_a_stream(kitchen: Kitchen) -> None:
    taken: list[int] = []

    async with deployed_in(kitchen) as deployed, deployed.count.stream(3000) as numbers:

        async def take() -> None:
            async for each in numbers:
                taken.append(cast("int", each))
                await asyncio.sleep(0)

        await asyncio.gather(take(), take(), take())
    assert sorted(taken) == list(range(3000))


@in_asyncio
async def test_items_are_sent_to_a_function(kitchen: Kitchen) -> None:
    async with deployed_in(kitchen) as deployed, deployed.total.stream(sends_items=True) as stream:
        for each in range(100):
            await stream.send(each)
        await stream.send_eof()
        assert await stream.result() == 4950


# -- maps -------------------------------------------------------------------------------------


async def slowly(items: range) -> AsyncIterator[int]:
    for each in items:
        await asyncio.sleep(0)
        yield each


@in_asyncio
async def test_a_map_takes_any_items(kitchen: Kitchen) -> None:
    items = range(300)
    async with deployed_in(kitchen) as deployed:
        for given in (items, iter(items), slowly(items)):
            async with deployed.echo.map(given) as results:
                assert [each async for each in results] == list(items)
        async with deployed.echo.starmap([(1,), (2,)]) as results:
            assert [each async for each in results] == [1, 2]
        assert await deployed.echo.for_each(slowly(items)) == []
        failed = await deployed.fail.for_each(["a", "b"], on_error="keep")
        assert sorted(each.argument for each in failed) == ["a", "b"]
        with pytest.raises(spear.InvalidArguments, match="must be an iterable"):
            await deployed.echo.for_each(cast("list[object]", 5))


@in_asyncio
async def test_asynchronous_items_are_pulled_as_they_are_taken(kitchen: Kitchen) -> None:
    pulled, closed = 0, asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        nonlocal pulled
        try:
            while True:
                pulled += 1
                yield pulled
        finally:
            closed.set()

    async with deployed_in(kitchen) as deployed:
        async with deployed.echo.map(endless(), limit=1) as results:
            assert await anext(results) == 1
        assert closed.is_set()
    assert pulled < 100_000


@in_asyncio
async def test_a_failure_of_the_items_is_raised_after_their_results(kitchen: Kitchen) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("the disk is gone")

    def broken_too() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    async with deployed_in(kitchen) as deployed:
        for items in (broken(), broken_too()):
            async with deployed.echo.map(items) as results:
                assert await anext(results) == 1
                with pytest.raises(OSError, match="the disk is gone"):
                    await anext(results)


@in_asyncio
async def test_items_without_a_close_method_are_left_alone(kitchen: Kitchen) -> None:
    class Numbers:
        def __init__(self) -> None:
            self.next = 0

        def __aiter__(self) -> Numbers:
            return self

        async def __anext__(self) -> int:
            self.next += 1
            if self.next > 3:
                raise StopAsyncIteration
            return self.next

    async with deployed_in(kitchen) as deployed, deployed.echo.map(Numbers()) as results:
        assert [each async for each in results] == [1, 2, 3]


@in_asyncio
async def test_a_map_that_is_refused_takes_no_items(kitchen: Kitchen) -> None:
    items = slowly(range(3))
    async with deployed_in(kitchen) as deployed:
        with pytest.raises(spear.Rejected):
            async with deployed.count.map(items):
                pytest.fail("the block was entered")
        with pytest.raises(StopAsyncIteration):  # it was closed
            await anext(items)


# -- deployments and the spearlet -------------------------------------------------------------


@in_asyncio
async def test_a_deployment_is_looked_at_and_changed(kitchen: Kitchen) -> None:
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(kitchen.agent)
        assert "echo" in deployed.functions
        assert "echo" in dir(deployed)
        assert deployed.streams >= {"count", "double"}
        assert (await deployed.descriptions())["echo"].summary == "Return the value."
        assert (await deployed.health()).state is DeploymentState.READY
        assert (await spearlet.statistics()).deployments.keys() == {"kitchen"}
        assert spearlet.deployments["kitchen"].name == "kitchen"
        assert await spearlet.find_function("kitchen.echo")(1) == 1
        assert spearlet.state is SpearletState.RUNNING
        assert repr(spearlet) == "<asyncio.Spearlet, running>"
        assert repr(deployed) == "<asyncio.Deployment kitchen>"
        assert await deployed.logs(5) == ()
        await deployed.restart()
        with pytest.raises(spear.ConfigurationError):
            await deployed.scale(0)
        async with deployed.follow_logs() as lines:
            await deployed.stop()
            assert [each async for each in lines] == []
        async with await spearlet.deploy(kitchen.agent, name="second") as second:
            assert await second.echo(1) == 1
        assert spearlet.deployments == {}
        await spearlet.drain()
        await spearlet.stop()


@in_asyncio
async def test_the_end_of_the_block_ends_the_thread(kitchen: Kitchen) -> None:
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(kitchen.agent)
    assert "spear" not in [each.name for each in threading.enumerate()]
    with pytest.raises(spear.WorkerDied) as caught:
        await deployed.echo(1)
    assert (caught.value.code, caught.value.delivered) == ("stopped", "no")
    with pytest.raises(spear.SpearError, match="this spearlet is stopped") as refused:
        await spearlet.deploy(kitchen.agent)
    assert type(refused.value) is spear.SpearError
    await spearlet.aclose()


@in_asyncio
async def test_a_spearlet_needs_no_block(kitchen: Kitchen) -> None:
    spearlet = await open_spearlet()
    deployed = await spearlet.deploy(kitchen.agent)
    assert await deployed.echo(1) == 1
    await spearlet.aclose()
    with pytest.raises(spear.ConfigurationError, match="limits"):
        await open_spearlet(limits=cast("HostLimits", 5))
    assert "spear" not in [each.name for each in threading.enumerate()]


@in_asyncio
async def test_cancelling_the_block_kills_what_runs(kitchen: Kitchen) -> None:
    async def hang() -> None:
        async with deployed_in(kitchen) as deployed:
            await deployed.hang()

    task = asyncio.create_task(hang())
    await when_set(kitchen.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kitchen.cancelled.is_set()
    assert "spear" not in [each.name for each in threading.enumerate()]


def test_another_event_loop_is_refused(kitchen: Kitchen) -> None:
    opened: list[Deployment] = []

    async def leave_open() -> None:
        spearlet = await open_spearlet()
        opened.append(await spearlet.deploy(kitchen.agent))
        opened[0].hang.options(on_progress=print)
        asyncio.get_running_loop().create_task(opened[0].hang.call())
        await when_set(kitchen.begun)

    async def use() -> None:
        with pytest.raises(spear.ConfigurationError, match="another event loop") as caught:
            await opened[0].echo(1)
        assert caught.value.code == "other_loop"

    asyncio.run(leave_open())
    asyncio.run(use())
    opened[0]._bridge.portal.close()
