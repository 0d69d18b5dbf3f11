"""Functions of every kind, called over a channel."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from contextvars import ContextVar
from fractions import Fraction
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import (
    Agent,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Rejected,
    WireLimits,
)
from spear.agent import Items
from spear.wire import encode_value

from .helpers import Caller, calling, rest_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@attrs.frozen
class Line:
    item: str
    count: int = 1


app = Agent()


@app.function
async def double(x: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * x


@app.function
def thread_of(name: str = "") -> list[str]:
    return [name, threading.current_thread().name]


@app.function
async def reverse(data: bytes) -> bytes:
    return data[::-1]


@app.function
async def total(lines: list[Line]) -> int:
    return sum(line.count for line in lines)


@app.function
async def count(n: int) -> AsyncIterator[object]:
    for number in range(n):
        yield number


@app.function
def plain_count(n: int) -> Iterator[object]:
    yield from range(n)


@app.function
async def fail(message: str) -> None:
    raise ValueError(message)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling(app) as found:
        yield found


# -- one result ---------------------------------------------------------------------------------------


async def test_async_functions(caller: Caller) -> None:
    assert await caller.call("double", 4) == 8
    assert await caller.call("double", x=4) == 8
    assert await caller.call("total", [{"item": "a"}, {"item": "b", "count": 2}]) == 3


async def test_plain_functions_run_in_a_thread(caller: Caller) -> None:
    found = await caller.call("thread_of", name="x")
    assert isinstance(found, list)
    assert found[0] == "x"
    assert found[1] != threading.current_thread().name


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("any_type", b"raw"),
        ("optional", b"raw"),
        ("rest", b"raw"),
        ("union", b"raw"),
        ("text", "data=...): expected str, got bytes"),
        ("two", "two() requires the argument 'other'"),
        ("none", "none() takes no arguments by position, not 1"),
        ("by_name", "takes no arguments by position, not 1"),
    ],
)
async def test_one_raw_argument_is_bound_as_any_other(name: str, outcome: object) -> None:
    """The first call inspects the parameters; the second one takes a shortcut."""
    app = Agent()

    @app.function
    async def any_type(data) -> object:  # type: ignore[no-untyped-def]  # without annotations on purpose
        return data

    @app.function
    async def optional(data: bytes = b"", *, more: int = 1) -> object:
        return data

    @app.function
    async def rest(*data: bytes) -> object:
        return data[0]

    @app.function
    async def union(data: bytes | None) -> object:
        return data

    @app.function
    async def text(data: str) -> object:
        return data

    @app.function
    async def two(data: bytes, other: int) -> object:
        return data

    @app.function
    async def none() -> object:
        return b"raw"

    @app.function
    async def by_name(*, data: bytes = b"") -> object:
        return data

    async with calling(app) as caller:
        for _ in range(2):
            if isinstance(outcome, bytes):
                assert await caller.call(name, b"raw") == outcome
            else:
                with pytest.raises(InvalidArguments, match=re.escape(str(outcome))):
                    await caller.call(name, b"raw")


async def test_raw_bytes_are_neither_wrapped_nor_copied() -> None:
    app = Agent()
    seen: list[object] = []

    @app.function
    async def keep(data: bytes) -> bytes:
        seen.append(data)
        return data

    sent = b"\x00\xff" * 50_000
    async with calling(app) as caller:
        assert await caller.call("keep", sent) is sent
        assert seen[0] is sent
        assert await caller.call("keep", b"") == b""


async def test_results_of_any_buffer_arrive_as_bytes() -> None:
    app = Agent()

    @app.function
    async def buffer(kind: str) -> bytearray | memoryview:
        return bytearray(b"abc") if kind == "bytearray" else memoryview(b"abcdef")[::2]

    async with calling(app) as caller:
        assert await caller.call("buffer", "bytearray") == b"abc"
        assert await caller.call("buffer", "view") == b"ace"


async def test_wrong_arguments_reach_the_caller_as_such(caller: Caller) -> None:
    with pytest.raises(
        InvalidArguments, match=r"total\(lines\[1\]\.sku\): Line has no field 'sku'"
    ) as raised:
        await caller.call("total", [{"item": "a"}, {"sku": "b"}])
    assert raised.value.delivered == "no"
    with pytest.raises(InvalidArguments, match=r"double\(\) requires the argument 'x'"):
        await caller.call("double")
    with pytest.raises(
        InvalidArguments, match=r"thread_of\(name=\.\.\.\): expected str, got bytes"
    ):
        await caller.call("thread_of", b"raw")
    with pytest.raises(
        InvalidArguments, match=r"double\(\): the payload must be a list of positional"
    ):
        await caller.channel.request("double", encode_value({}), is_cbor=True)
    with pytest.raises(InvalidArguments, match=r"double\(\): not a valid value"):
        await caller.channel.request("double", b"\xff", is_cbor=True)


async def test_what_cannot_be_sent_back_is_refused_where_it_was_returned() -> None:
    app = Agent()

    @app.function
    async def parts() -> object:
        return {"parts": [{1}, Fraction(1, 2)]}

    @app.function
    def plain_parts() -> object:
        return Fraction(1, 2)

    @app.function
    async def text() -> object:
        return ["fine", "\ud800"]

    message = "{}() returned {}, which cannot be sent: return {} instead"
    advice = "text, such as str(value)"
    async with calling(app, debug=True) as caller:
        for name, what, instead in (
            ("parts", "a value of type Fraction at ['parts'][1]", advice),
            ("plain_parts", "a value of type Fraction", advice),
            ("text", "text that is not Unicode at [1]", "bytes, such as os.fsencode()"),
        ):
            said = message.format(name, what, instead)
            with pytest.raises(FunctionRaised) as raised:
                await caller.call(name)
            assert (raised.value.type_name, raised.value.remote_message) == ("TypeError", said)
            assert raised.value.delivered == "yes"
            assert raised.value.remote_traceback is None  # there is no line to show


async def test_a_plain_function_that_returns_an_awaitable_is_told_so() -> None:
    app = Agent()

    class Awaitable_:  # noqa: N801  # an awaitable that is no coroutine
        def __await__(self) -> Iterator[None]:
            raise AssertionError

    @app.function
    def sneaky() -> object:
        return Awaitable_()

    async with calling(app) as caller:
        with pytest.raises(FunctionRaised, match=r"sneaky\(\) .* make sneaky an `async def`"):
            await caller.call("sneaky")


# -- failures -----------------------------------------------------------------------------------------


async def test_s11_an_unknown_name_is_refused_before_its_arguments_are_read(caller: Caller) -> None:
    before = set(sys.modules)
    for name in ("os.system", "xml.dom.minidom", "spear.agent._main", "__import__", "doubel"):
        with pytest.raises(NotFound, match="the agent has no function") as raised:
            # Not valid CBOR: the payload was not decoded.
            await caller.channel.request(name, b"\xff" * 100, is_cbor=True)
        assert raised.value.delivered == "no"
    assert "did you mean 'double'?" in str(raised.value)
    assert set(sys.modules) - before <= {"difflib"}
    service = app.service
    for number, head in [(0, None), (0, {"function": 5}), (99, None), (99, {"function": "double"})]:
        assert "no function with the number" in str(service.refuse(number, head))
    assert service.refuse(1, None) is None


async def test_s14_no_traceback_unless_in_debug_mode() -> None:
    app = Agent()
    app.function(fail)
    for debug in (False, True):
        async with calling(app, debug=debug) as caller:
            with pytest.raises(FunctionRaised) as raised:
                await caller.call("fail", "sorry")
            assert (raised.value.type_name, raised.value.remote_message) == ("ValueError", "sorry")
            assert (raised.value.remote_traceback is not None) == debug
            assert (__file__ in str(raised.value)) == debug


async def test_a_nursery_with_one_failure_is_that_failure() -> None:
    app = Agent()

    @app.function
    async def nested() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            outer.start_soon(trio.sleep, 0)
            nursery.start_soon(fail, "inside")

    async with calling(app) as caller:
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("nested")
    assert (raised.value.type_name, raised.value.remote_message) == ("ValueError", "inside")


async def test_exit_ends_the_call_not_the_process() -> None:
    app = Agent()

    @app.function
    async def leave() -> None:
        sys.exit("enough")

    @app.function
    def plain_leave() -> None:
        sys.exit(3)

    @app.function
    def leave_between() -> Iterator[int]:
        yield 1
        sys.exit(4)

    app.function(double)
    async with calling(app) as caller:
        for name, message in [("leave", "enough"), ("plain_leave", "3")]:
            with pytest.raises(FunctionRaised, match=f"SystemExit: {message}"):
                await caller.call(name)
        with pytest.raises(FunctionRaised, match="SystemExit: 4"):
            await caller.items("leave_between")
        assert await caller.call("double", 1) == 2


class Mine(BaseException):
    pass


@pytest.mark.parametrize("error", [Mine, GeneratorExit, asyncio.CancelledError])
async def test_whatever_a_function_raises_ends_its_call_alone(error: type[BaseException]) -> None:
    app = Agent()

    @app.function
    async def task() -> None:
        raise error("enough")

    @app.function
    def thread() -> None:
        raise error("enough")

    @app.function
    async def items() -> AsyncIterator[int]:
        yield 1
        raise error("enough")

    @app.function
    def thread_items() -> Iterator[int]:
        yield 1
        raise error("enough")

    app.function(double)
    said = f"{error.__name__}: enough"
    async with calling(app) as caller:
        for name in "task", "thread":
            with pytest.raises(FunctionRaised, match=said):
                await caller.call(name)
        for name in "items", "thread_items":
            with pytest.raises(FunctionRaised, match=said):
                await caller.items(name)
        assert await caller.call("double", 1) == 2


# -- cancellation and limits --------------------------------------------------------------------------


async def test_an_async_function_is_cancelled_with_its_caller() -> None:
    app = Agent()
    started, ended = trio.Event(), trio.Event()

    @app.function
    async def sleep() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "sleep")
            await started.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()
    assert app.service.statistics()[0].failed == 0


async def test_r13_a_plain_function_keeps_its_slot_until_its_thread_has_ended() -> None:
    app = Agent(concurrency=1)
    go, running = threading.Event(), threading.Event()

    @app.function
    def block() -> str:
        running.set()
        go.wait()
        return "done"

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "block")
            await trio.to_thread.run_sync(running.wait)
            nursery.cancel_scope.cancel()
        # The caller has left, but the thread still runs and holds the slot.
        assert caller.channel.statistics().calls_in_flight == 1
        with pytest.raises(spear.DeadlineExceeded, match="no free slot"):
            await caller.call("block", timeout=0.01)
        # Trio still runs heartbeats and other tasks: the thread does not block it.
        go.set()
        assert await caller.call("block") == "done"


async def test_no_more_calls_run_at_a_time_than_the_agent_allows() -> None:
    app = Agent(concurrency=3)
    running = most = 0

    @app.function
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.testing.wait_all_tasks_blocked()
        running -= 1

    async with calling(app) as caller, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(caller.call, "work")
    assert most == 3


async def test_context_variables_do_not_leak_from_call_to_call() -> None:
    app = Agent()
    mark: ContextVar[str] = ContextVar("mark", default="clean")

    def look_and_set(value: str) -> str:
        found = mark.get()
        mark.set(value)
        return found

    @app.function
    async def in_task(value: str) -> str:
        return look_and_set(value)

    @app.function
    def in_thread(value: str) -> str:
        return look_and_set(value)

    @app.function
    async def stream_in_task(value: str) -> AsyncIterator[str]:
        yield look_and_set(value)

    @app.function
    def stream_in_thread(value: str) -> Iterator[str]:
        yield look_and_set(value)

    @app.batched(max_wait_seconds=0)
    async def batch_in_task(values: list[str]) -> list[str]:
        return [look_and_set(values[0])]

    @app.batched(max_wait_seconds=0)
    def batch_in_thread(values: list[str]) -> list[str]:
        return [look_and_set(values[0])]

    async with calling(app) as caller:
        for _ in range(3):
            for name in "in_task", "in_thread", "batch_in_task", "batch_in_thread":
                assert await caller.call(name, "dirty") == "clean"
            for name in "stream_in_task", "stream_in_thread":
                assert await caller.items(name, "dirty") == ["clean"]


# -- streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["count", "plain_count"])
@pytest.mark.parametrize("n", [0, 1, 1000])
async def test_streams(caller: Caller, name: str, n: int) -> None:
    assert await caller.items(name, n) == list(range(n))
    async with caller.stream(name, n) as stream:
        assert await rest_of(stream) == list(range(n))
        response = await stream.result()
        assert response.is_cbor
    with pytest.raises(InvalidArguments, match=rf"{name}\(n=\.\.\.\): expected int, got str"):
        await caller.items(name, "x")


@pytest.mark.parametrize("name", ["count", "plain_count"])
async def test_a_stream_is_not_one_result(caller: Caller, name: str) -> None:
    with pytest.raises(Rejected, match=rf"{name}\(\) returns a stream: use stream\(\)") as raised:
        await caller.call(name, 5)
    assert raised.value.delivered == "no"


async def test_a_function_can_be_called_as_a_stream_without_items(caller: Caller) -> None:
    async with caller.stream("double", 4) as stream:
        assert await rest_of(stream) == []
        assert (await stream.result()).payload == encode_value(8)


async def test_items_keep_their_order_and_kind() -> None:
    app = Agent()
    buffer = bytearray(3)
    items: list[object] = [b"raw", 1, None, "text", [b"in"], buffer, memoryview(b"view")]
    seen = [b"raw", 1, None, "text", [b"in"], b"\0\0\0", b"view", b"\1\1\1"]

    @app.function
    async def mixed() -> AsyncIterator[object]:
        for item in items:
            yield item
        buffer[:] = b"\1\1\1"  # the items sent were copies
        yield buffer
        buffer[:] = b"\0\0\0"

    @app.function
    def plain_mixed() -> Iterator[object]:
        yield from items
        buffer[:] = b"\1\1\1"
        yield buffer
        buffer[:] = b"\0\0\0"

    async with calling(app) as caller:
        assert await caller.items("mixed") == seen
        assert await caller.items("plain_mixed") == seen


async def test_a_failure_comes_after_the_items_in_front_of_it() -> None:
    app = Agent()

    @app.function
    async def some() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    @app.function
    def plain_some() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    async with calling(app) as caller:
        for name in ("some", "plain_some"):
            async with caller.stream(name) as stream:
                assert [await stream.receive(), await stream.receive()] == [b"\1", b"\2"]
                with pytest.raises(FunctionRaised, match="KeyError: 'three'"):
                    await stream.receive()


async def test_an_item_that_cannot_be_sent_ends_the_stream() -> None:
    app = Agent()
    closed: list[str] = []

    @app.function
    async def odd() -> AsyncIterator[object]:
        try:
            yield object()
        finally:
            closed.append("odd")

    @app.function
    def plain_odd() -> Iterator[object]:
        try:
            yield object()
        finally:
            closed.append("plain_odd")

    async with calling(app) as caller:
        for name in ("odd", "plain_odd"):
            with pytest.raises(FunctionRaised, match=rf"{name}\(\) yielded a value of type object"):
                await caller.items(name)
    assert closed == ["odd", "plain_odd"]


async def test_a_stream_waits_for_a_slow_caller() -> None:
    app = Agent()
    sent = 0

    @app.function
    async def many() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield bytes(1000)
            sent += 1

    async with (
        calling(app, limits=WireLimits(stream_window_bytes=10_000)) as caller,
        caller.stream("many") as stream,
    ):
        await stream.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert sent <= 11


async def test_a_plain_stream_waits_for_a_slow_caller_and_ends_when_it_is_left() -> None:
    app = Agent()
    made = 0
    ended = threading.Event()

    @app.function
    def many() -> Iterator[bytes]:
        nonlocal made
        try:
            while True:
                made += 1
                yield bytes(10_000)
        finally:
            ended.set()

    async with calling(app, limits=WireLimits(stream_window_bytes=10_000)) as caller:
        for _ in range(10):
            ended.clear()
            made = 0
            async with caller.stream("many") as stream:
                for _ in range(3):
                    assert len(await stream.receive()) == 10_000
            # The generator was closed in its thread, and the slot is free.
            await trio.to_thread.run_sync(ended.wait)
            # Runs ahead by the buffer between thread and task (256 KiB, twice) and the wire, not more.
            assert made < 70
            while caller.channel.statistics().calls_in_flight:
                await trio.lowlevel.checkpoint()


async def test_a_slow_generator_has_each_item_sent_at_once() -> None:
    app = Agent()
    gate = threading.Semaphore(0)

    @app.function
    def slowly() -> Iterator[int]:
        for number in range(3):
            gate.acquire()
            yield number

    async with calling(app) as caller, caller.stream("slowly") as stream:
        for number in range(3):
            gate.release()
            assert await stream.receive() == bytes([number])


async def test_a_plain_stream_is_cancelled_while_it_waits_for_an_item() -> None:
    app = Agent(concurrency=1)
    gate = threading.Event()

    @app.function
    def stuck() -> Iterator[int]:
        yield 1
        gate.wait()
        yield 2
        raise AssertionError

    async with calling(app) as caller:
        async with caller.stream("stuck") as stream:
            await stream.receive()
            await trio.testing.wait_all_tasks_blocked()
        # As with plain functions, the slot is free only when the thread has ended.
        assert caller.channel.statistics().calls_in_flight == 1
        gate.set()
        assert await caller.call("spear.describe") == app.describe()


async def test_an_item_that_is_too_large_ends_the_stream() -> None:
    app = Agent()

    @app.function
    async def large() -> AsyncIterator[bytes]:
        yield bytes(2000)

    @app.function
    def plain_large() -> Iterator[bytes]:
        yield bytes(2000)

    async with calling(app, limits=WireLimits(max_message_bytes=1000)) as caller:
        for name in ("large", "plain_large"):
            with pytest.raises(
                FunctionRaised, match="the item has 2000 bytes; the peer accepts at most 1000"
            ):
                await caller.items(name)


async def test_an_async_generator_is_closed_when_the_stream_is_left() -> None:
    app = Agent()
    ended = trio.Event()

    @app.function
    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await trio.lowlevel.checkpoint()
        finally:
            ended.set()

    async with calling(app) as caller:
        async with caller.stream("endless") as stream:
            await stream.receive()
        await ended.wait()


# -- streams of the caller ----------------------------------------------------------------------------


async def test_functions_take_the_items_of_the_caller() -> None:
    app = Agent()

    @app.function
    async def add(prices: Items[float], factor: int = 1) -> float:
        return factor * sum([price async for price in prices])

    @app.function
    def plain_add(factor: int, prices: Items[float]) -> float:
        return factor * sum(prices)

    @app.function
    async def by_name(*, factor: int = 1, prices: Items[Line]) -> list[str]:
        return [line.item async for line in prices] * factor

    @app.function
    async def echo(items: AsyncIterator) -> AsyncIterator[object]:  # type: ignore[type-arg]  # any item
        async for item in items:
            yield item

    @app.function
    async def through_context() -> list[object]:
        return [item async for item in spear.context().items]

    async with calling(app) as caller:
        assert await caller.feed("add", [1, 2.5]) == 3.5
        assert await caller.feed("add", [1, 2.5], 2) == 7.0
        assert await caller.feed("add", [1, 2.5], factor=2) == 7.0
        assert await caller.feed("plain_add", [1, 2.5], 2) == 7.0
        assert await caller.feed("plain_add", [1, 2.5], factor=2) == 7.0
        assert await caller.feed("by_name", [{"item": "tea"}], factor=2) == ["tea", "tea"]
        assert await caller.feed("through_context", [b"raw", 1]) == [b"raw", 1]
        # A caller that sends no items.
        assert await caller.call("add") == 0
        assert await caller.call("plain_add", 1) == 0
        async with caller.channel.open_stream(
            "echo", b"\x82\x80\xa0", is_cbor=True, sends_items=True
        ) as s:
            for item in (b"a", b"b"):
                await s.send(item)
                assert await s.receive() == item
            await s.send_eof()
            assert await rest_of(s) == []


async def test_items_of_the_wrong_kind_are_named() -> None:
    app = Agent()

    @app.function
    async def add(prices: Items[Line]) -> int:
        return sum([line.count async for line in prices])

    async with calling(app) as caller:
        with pytest.raises(
            InvalidArguments, match=r"add\(items\[1\]\.item\): expected str, got int"
        ) as raised:
            await caller.feed("add", [{"item": "tea"}, {"item": 5}])
        assert raised.value.delivered == "yes"
        with pytest.raises(InvalidArguments, match=r"add\(\) takes no arguments by position"):
            await caller.feed("add", [], [])


async def test_an_item_that_is_no_cbor_fails_the_call() -> None:
    app = Agent()

    @app.function
    async def take(items: Items[object]) -> None:
        async for _ in items:
            pass

    async with (
        calling(app) as caller,
        caller.channel.open_stream(
            "take", b"\x82\x80\xa0", is_cbor=True, sends_items=True
        ) as stream,
    ):
        await stream.send(b"\xff", is_cbor=True)
        with pytest.raises(
            InvalidArguments, match=r"take\(items\[0\]\): not a valid value"
        ) as raised:
            await stream.result()
        assert raised.value.delivered == "yes"
