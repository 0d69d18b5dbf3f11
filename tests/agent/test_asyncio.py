"""asyncio coroutines as functions."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import Agent, CallFailed, FunctionRaised, InvalidArguments, NotFound, Rejected
from spear.agent import Items

from .helpers import calling, rest_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.channels import InboundCall
    from spear.wire import Head, Payload, Value


class Upper:
    """A host with a function that answers, and one that never answers."""

    def __init__(self) -> None:
        self.waiting = trio.Event()
        self.left = trio.Event()

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        known = (head or {}).get("function") in ("upper", "never")
        return None if known else NotFound("the host has only upper")

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        if (call.head or {})["function"] == "upper":
            return call.payload.upper(), False
        self.waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            self.left.set()


def wait_in_trio(event: trio.Event, token: trio.lowlevel.TrioToken) -> None:
    trio.from_thread.run(event.wait, trio_token=token)


async def test_coroutines_run_in_asyncio() -> None:
    app = Agent()
    threads: list[int] = []

    @app.function(asyncio=True)
    async def add(a: int, b: float = 1) -> float:
        await asyncio.sleep(0)
        threads.append(threading.get_ident())
        return a + b

    async with calling(app) as caller:
        assert await caller.call("add", 1) == 2
        assert await caller.call("add", 1, b=2) == 3.0
        with pytest.raises(InvalidArguments, match=r"add\(a=\.\.\.\): expected int, got str"):
            await caller.call("add", "x")
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    assert not [each for each in threading.enumerate() if each.name == "spear asyncio"]


async def test_many_run_at_the_same_time() -> None:
    app = Agent()
    arrived = 0

    @app.function(asyncio=True)
    async def meet() -> int:
        nonlocal arrived
        arrived += 1
        while arrived < 10:
            await asyncio.sleep(0)
        return arrived

    async with calling(app) as caller, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(caller.call, "meet")
    assert arrived == 10


async def test_failures_are_told() -> None:
    app = Agent()

    @app.function(asyncio=True)
    async def fail() -> None:
        raise ValueError("wrong")

    @app.function(asyncio=True)
    async def leave() -> None:
        sys.exit("enough")

    @app.function(asyncio=True)
    async def give_up() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]  # there is one
        await asyncio.sleep(0)

    @app.function(asyncio=True)
    async def fine() -> str:
        return "fine"

    async with calling(app) as caller:
        for name, message in [
            ("fail", "ValueError: wrong"),
            ("leave", "SystemExit: enough"),
            ("give_up", "CancelledError: the asyncio task was cancelled"),
        ]:
            with pytest.raises(FunctionRaised, match=message):
                await caller.call(name)
            assert await caller.call("fine") == "fine"


async def test_r9_cancelling_the_call_cancels_the_task_and_waits_for_it() -> None:
    app = Agent(concurrency=1)
    started = trio.Event()
    steps: list[str] = []
    token = trio.lowlevel.current_trio_token()

    @app.function(asyncio=True)
    async def sleep() -> None:
        token.run_sync_soon(started.set)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            steps.append("cancelled")
            for _ in range(10):
                await asyncio.sleep(0)
            steps.append("cleaned up")
            raise

    @app.function(asyncio=True)
    async def next_one() -> None:
        steps.append("next")

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "sleep")
            await started.wait()
            nursery.cancel_scope.cancel()
        await caller.call("next_one")  # the only slot is free when the task has ended
    assert steps == ["cancelled", "cleaned up", "next"]


async def test_a_coroutine_that_ignores_cancellation_may_finish() -> None:
    app = Agent(concurrency=1)
    started = trio.Event()
    steps: list[str] = []
    token = trio.lowlevel.current_trio_token()

    @app.function(asyncio=True)
    async def stubborn() -> str:
        token.run_sync_soon(started.set)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            steps.append("ignored")
        return "done"

    @app.function(asyncio=True)
    async def next_one() -> None:
        steps.append("next")

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "stubborn")
            await started.wait()
            nursery.cancel_scope.cancel()
        await caller.call("next_one")
    assert steps == ["ignored", "next"]


async def test_one_that_is_cancelled_before_it_begins_does_not_begin() -> None:
    app = Agent()
    blocked, go = threading.Event(), threading.Event()
    ran = False

    @app.function(asyncio=True)
    async def block() -> None:
        blocked.set()
        go.wait()  # blocks the event loop

    @app.function(asyncio=True)
    async def late() -> None:
        nonlocal ran
        ran = True

    async with calling(app) as caller, trio.open_nursery() as nursery:
        nursery.start_soon(caller.call, "block")
        await trio.to_thread.run_sync(blocked.wait)
        async with trio.open_nursery() as impatient:
            impatient.start_soon(caller.call, "late")
            await trio.testing.wait_all_tasks_blocked()
            impatient.cancel_scope.cancel()
        # The caller has left, but the call has not ended: asyncio does not know of the cancellation yet.
        assert caller.channel.statistics().calls_in_flight == 2
        go.set()
    assert not ran


async def test_the_context_is_that_of_the_call() -> None:
    app = Agent()
    mark: ContextVar[str] = ContextVar("mark", default="clean")
    percent = trio.Event()

    @app.function(asyncio=True)
    async def look() -> list[object]:
        found = mark.get()
        mark.set("dirty")
        context = spear.context()
        context.progress(50)
        inner = await asyncio.create_task(inside())
        in_thread = await asyncio.to_thread(lambda: spear.context().call_id)
        return [found, context.function, context.call_id, inner, in_thread]

    async def inside() -> int:
        return spear.context().call_id

    async with calling(app) as caller:
        for number in (1, 3):
            found = await caller.call("look", on_progress=lambda *_: percent.set())
            assert found == ["clean", "look", number, number, number]
        await percent.wait()


async def test_coroutines_call_back() -> None:
    app = Agent()

    @app.function(asyncio=True)
    async def shout(*words: str) -> list[Value]:
        return await asyncio.gather(*[spear.call("upper", word.encode()) for word in words])

    @app.function(asyncio=True)
    async def in_thread() -> Value:
        return await asyncio.to_thread(spear.context().call_sync, "upper", b"x")

    @app.function(asyncio=True)
    async def lost() -> Value:
        return await spear.call("nowhere")

    @app.function(asyncio=True)
    async def stream() -> None:
        async with spear.context().stream("upper"):
            raise AssertionError

    async with calling(app, host=Upper()) as caller:
        assert await caller.call("shout", "a", "b") == [b"A", b"B"]
        assert await caller.call("in_thread") == b"X"
        with pytest.raises(FunctionRaised, match="NotFound: the host has only upper"):
            await caller.call("lost")
        with pytest.raises(
            FunctionRaised, match="LocalProtocolError: asyncio functions cannot receive streams"
        ):
            await caller.call("stream")


async def test_a_call_back_is_cancelled_with_whoever_waits_for_it() -> None:
    app = Agent()
    host = Upper()

    @app.function(asyncio=True)
    async def impatient() -> str:
        waiting = asyncio.create_task(spear.call("never"))
        await asyncio.to_thread(wait_in_trio, host.waiting, token)
        waiting.cancel()
        try:
            await waiting
        except asyncio.CancelledError:
            return "cancelled"
        raise AssertionError

    token = trio.lowlevel.current_trio_token()
    async with calling(app, host=host) as caller:
        assert await caller.call("impatient") == "cancelled"
        await host.left.wait()


async def test_a_call_back_ends_with_the_function() -> None:
    app = Agent()
    host = Upper()
    token = trio.lowlevel.current_trio_token()
    late: list[asyncio.Task[Value]] = []

    @app.function(asyncio=True)
    async def leave_behind() -> None:
        late.append(asyncio.create_task(spear.call("never")))
        await asyncio.to_thread(wait_in_trio, host.waiting, token)

    @app.function(asyncio=True)
    async def look() -> list[bool]:
        for task in late:
            while not task.done():
                await asyncio.sleep(0)
        return [task.cancelled() for task in late]

    async with calling(app, host=host) as caller:
        await caller.call("leave_behind")
        await host.left.wait()
        assert await caller.call("look") == [True]


async def test_what_is_left_behind_cannot_call_back() -> None:
    app = Agent()
    go = asyncio.Event()
    late: list[asyncio.Task[Value]] = []

    @app.function(asyncio=True)
    async def leave_behind() -> None:
        async def later() -> Value:
            await go.wait()
            return await spear.call("upper", b"x")

        late.append(asyncio.create_task(later()))

    @app.function(asyncio=True)
    async def look() -> str:
        go.set()
        try:
            await late[0]
        except spear.NotInCall as error:
            return str(error)
        raise AssertionError

    async with calling(app, host=Upper()) as caller:
        await caller.call("leave_behind")
        assert await caller.call("look") == "the call in which this asyncio code started has ended"


async def test_the_loop_ends_what_is_left_in_it() -> None:
    app = Agent()
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task")

    @app.function(asyncio=True)
    async def leave_behind() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        assert not task.done()

    for _ in range(2):  # an agent may run again, with a new event loop
        async with calling(app) as caller:
            await caller.call("leave_behind")
    assert ended == ["task", "task"]


# -- streams ------------------------------------------------------------------------------------------


async def test_async_generators_of_asyncio() -> None:
    app = Agent()

    @app.function(asyncio=True)
    async def count(n: int) -> AsyncIterator[object]:
        task = asyncio.current_task()
        for number in range(n):
            await asyncio.sleep(0)
            assert asyncio.current_task() is task  # asyncio.timeout() needs that
            yield number

    async with calling(app) as caller:
        assert await caller.items("count", 0) == []
        assert await caller.items("count", 1000) == list(range(1000))
        with pytest.raises(InvalidArguments, match=r"count\(\) requires the argument 'n'"):
            await caller.items("count")
        with pytest.raises(Rejected, match=r"count\(\) returns a stream"):
            await caller.call("count", 1)


async def test_they_wait_for_a_slow_caller_and_end_when_they_are_left() -> None:
    app = Agent()
    made = 0
    ended = threading.Event()

    @app.function(asyncio=True)
    async def many() -> AsyncIterator[bytes]:
        nonlocal made
        try:
            while True:
                made += 1
                yield bytes(10_000)
        finally:
            ended.set()

    async with calling(app) as caller:
        async with caller.stream("many") as stream:
            for _ in range(100):
                assert len(await stream.receive()) == 10_000
        await trio.to_thread.run_sync(ended.wait)
    # 100 items, one window of 256 KiB, and the buffer between thread and task.
    assert made < 250


async def test_failures_come_after_the_items_in_front_of_them() -> None:
    app = Agent()

    @app.function(asyncio=True)
    async def some(kind: str) -> AsyncIterator[object]:
        yield 1
        if kind == "raise":
            raise KeyError("two")
        if kind == "exit":
            sys.exit("two")
        if kind == "odd":
            yield object()
        asyncio.current_task().cancel()  # type: ignore[union-attr]  # there is one
        await asyncio.sleep(0)

    async with calling(app) as caller:
        for kind, message in [
            ("raise", "KeyError: 'two'"),
            ("exit", "SystemExit: two"),
            ("odd", r"some\(\) yielded a value of type object, which cannot be sent"),
            ("cancel", "CancelledError: the asyncio task was cancelled"),
        ]:
            async with caller.stream("some", kind) as stream:
                assert await stream.receive() == b"\1"
                with pytest.raises(FunctionRaised, match=message):
                    await stream.receive()


async def test_they_take_the_items_of_the_caller() -> None:
    app = Agent()

    @app.function(asyncio=True)
    async def add(prices: Items[float]) -> float:
        return sum([price async for price in prices])

    @app.function(asyncio=True)
    async def echo() -> AsyncIterator[object]:
        async for item in spear.context().items:
            yield item

    async with calling(app) as caller:
        assert await caller.feed("add", [1, 2.5]) == 3.5
        with pytest.raises(InvalidArguments, match=r"add\(items\[0\]\): expected float"):
            await caller.feed("add", ["x"])
        async with caller.channel.open_stream(
            "echo", b"\x82\x80\xa0", is_cbor=True, sends_items=True
        ) as stream:
            for item in (b"a", b"b"):
                await stream.send(item)
                assert await stream.receive() == item
            await stream.send_eof()
            assert await rest_of(stream) == []
