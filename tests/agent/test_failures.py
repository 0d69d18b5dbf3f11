"""Errors that a caller gets when a function fails: class, message, traceback, ``delivered``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import Agent, DeadlineExceeded, FunctionRaised, Overloaded
from spear._ids import Secret
from spear.agent._failures import as_seen_by_caller

from .helpers import calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from spear.channels import InboundCall
    from spear.wire import Head, Payload

ON_PURPOSE = [
    spear.CallCancelled("mine", delivered="no"),
    spear.CallFailed("mine", delivered="no"),
    spear.ChannelBroken("mine"),
    spear.ChannelClosed("mine"),
    spear.DeadlineExceeded("mine", delivered="no"),
    spear.InvalidArguments("mine"),
    spear.LocalProtocolError("mine"),
    spear.NotFound("mine"),
    spear.Rejected("mine"),
    spear.RemoteProtocolError("mine"),
    spear.WorkerDied("mine", delivered="no"),
]


@pytest.mark.parametrize("error", ON_PURPOSE, ids=lambda error: type(error).__name__)
async def test_r14_a_failure_of_ours_that_a_function_raises_says_that_it_ran(
    error: spear.SpearError,
) -> None:
    app = Agent()

    @app.function
    async def fail() -> None:
        raise error

    @app.function
    def plain_fail() -> None:
        raise error

    @app.function
    async def fail_in_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    @app.function
    async def items() -> AsyncIterator[int]:
        yield 1
        raise error

    async with calling(app) as caller:
        for name in ("fail", "plain_fail", "fail_in_nursery"):
            with pytest.raises(FunctionRaised) as raised:
                await caller.call(name)
            assert raised.value.type_name == type(error).__name__
            assert raised.value.remote_message == "mine"
            assert raised.value.delivered == "yes"
        with pytest.raises(FunctionRaised, match=f"{type(error).__name__}: mine"):
            await caller.items("items")


async def test_r14_a_function_that_is_overloaded_says_when_to_come_again_and_that_it_ran() -> None:
    app = Agent()

    @app.function
    async def busy() -> None:
        raise Overloaded("later, please", retry_after_seconds=2, code="too_many_bytes")

    @app.function
    async def busy_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)

    async with calling(app) as caller:
        for name in ("busy", "busy_nursery"):
            with pytest.raises(Overloaded, match="later, please") as raised:
                await caller.call(name)
            assert raised.value.retry_after_seconds == 2
            assert raised.value.code == "too_many_bytes"
            assert raised.value.delivered == "yes"


async def test_what_a_function_says_of_itself_is_not_believed() -> None:
    app = Agent()

    @app.function
    async def lie() -> None:
        raise FunctionRaised("nothing", type_name="Lie", delivered="no")

    async with calling(app) as caller:
        with pytest.raises(FunctionRaised, match="Lie: nothing") as raised:
            await caller.call("lie")
    assert raised.value.delivered == "yes"


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
async def test_a_stop_iteration_of_a_plain_function_keeps_its_name(debug: bool) -> None:
    app = Agent(debug=debug)

    @app.function
    def fail(numbers: list[int]) -> int:
        return next(iter(numbers))

    @app.function
    async def fail_async() -> None:
        raise StopIteration(7)

    @app.function
    def fail_later() -> Iterator[int]:
        yield 1
        raise StopIteration(7)

    @app.batched(max_wait_seconds=0)
    def fail_together(numbers: list[int]) -> list[int]:
        raise StopIteration(numbers)

    @app.batched(max_wait_seconds=0)
    def fail_apart(numbers: list[int]) -> list[int | Exception]:
        return [StopIteration(number) for number in numbers]

    async with calling(app) as caller:
        for name, argument, message in (
            ("fail", [], ""),
            ("fail_together", 7, "[7]"),
            ("fail_apart", 7, "7"),
        ):
            with pytest.raises(FunctionRaised) as raised:
                await caller.call(name, argument)
            assert (raised.value.type_name, raised.value.remote_message) == (
                "StopIteration",
                message,
            )
            assert raised.value.delivered == "yes"
            assert ("StopIteration" in (raised.value.remote_traceback or "")) is debug
        with pytest.raises(FunctionRaised, match="RuntimeError: coroutine raised StopIteration"):
            await caller.call("fail_async")
        with pytest.raises(FunctionRaised, match="RuntimeError: generator raised StopIteration"):
            await caller.items("fail_later")


class Late:
    """A host whose functions take until their deadlines."""

    def refuse(self, function: int, head: Head | None) -> spear.CallFailed | None:
        return None

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        if call.wants_stream:
            await call.send(b"")
        await trio.sleep_forever()
        raise AssertionError  # pragma: no cover


async def test_time_that_a_function_gave_to_another_is_not_the_time_of_its_own_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = Agent()

    @app.function
    async def ask(timeout: float | None) -> None:
        await spear.call("far", timeout=timeout)

    @app.function
    async def follow(timeout: float | None) -> None:
        async with spear.context().stream("far", timeout=timeout) as items:
            async for _ in items:
                pass

    @app.function
    async def too_late() -> None:
        async with spear.context().stream("far", timeout=0):
            raise AssertionError  # pragma: no cover

    async with calling(app, host=Late()) as caller:
        for name in ("ask", "follow"):
            with pytest.raises(FunctionRaised) as raised:
                await caller.call(name, 2, timeout=9)
            assert raised.value.type_name == "DeadlineExceeded"
            assert raised.value.remote_message == "far took longer than 2 s"
            for timeout in (None, 60):
                with pytest.raises(DeadlineExceeded) as exceeded:
                    await caller.call(name, timeout, timeout=9)
                assert exceeded.value.delivered == "yes"
                assert str(exceeded.value) == "far took longer than 8.998 s"
            with pytest.raises(FunctionRaised, match="far took longer than 60 s"):
                await caller.call(name, None, timeout=float("inf"))
        with pytest.raises(FunctionRaised, match="there was no time left to call far"):
            await caller.call("too_late")


async def test_what_was_made_to_stop_says_so_whatever_it_raises_then() -> None:
    app = Agent()

    @app.function
    async def stop(reason: str) -> None:
        call = spear.context()._call
        if reason == "late":
            call.cancel(DeadlineExceeded("the call's deadline has passed", delivered="yes"))
        else:
            call.cancel(spear.CallCancelled("the channel is being closed", delivered="yes"))
        raise KeyError("while cleaning up")

    async with calling(app, debug=True) as caller:
        with pytest.raises(DeadlineExceeded) as late:
            await caller.call("stop", "late")
        assert late.value.delivered == "yes"
        with pytest.raises(spear.CallCancelled, match="being closed"):
            await caller.call("stop", "closing")


async def test_the_code_of_a_call_that_failed_inside_a_function_reaches_its_caller() -> None:
    class Host:
        def refuse(self, function: int, head: Head | None) -> spear.CallFailed | None:
            return None

        async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
            raise spear.WorkerDied("restarted too often", code="given_up", delivered="no")

    app = Agent()

    @app.function
    async def ask() -> object:
        return await spear.call("other.thing")

    @app.function
    async def ask_asker() -> None:
        raise FunctionRaised("deeper", type_name="NotFound", remote_code="ambiguous_name")

    @app.function
    async def fail() -> None:
        raise KeyError("mine")

    async with calling(app, host=Host()) as caller:
        for name, code in (("ask", "given_up"), ("ask_asker", "ambiguous_name"), ("fail", "")):
            with pytest.raises(FunctionRaised) as raised:
                await caller.call(name)
            assert (raised.value.code, raised.value.remote_code) == ("function_raised", code)


class ApiError(ConnectionError):
    """An exception of a program's own."""


async def test_the_base_classes_of_an_exception_arrive_with_its_name() -> None:
    app = Agent()

    @app.function
    async def ask() -> None:
        raise ApiError("busy")

    @app.function
    async def ask_another() -> None:
        raise FunctionRaised("busy", type_name="ApiError", base_names=("ConnectionError",))

    @app.function
    async def fail() -> None:
        raise ConnectionResetError("of Python itself")

    bases = ("ConnectionError", "OSError", "Exception", "BaseException")
    async with calling(app) as caller:
        for name, expected in ("ask", bases), ("ask_another", bases[:1]), ("fail", ()):
            with pytest.raises(FunctionRaised) as raised:
                await caller.call(name)
            assert raised.value.base_names == expected


# -- groups -------------------------------------------------------------------------------------------


async def test_of_a_group_every_exception_is_told() -> None:
    app = Agent()

    @app.function
    async def fail(message: str) -> None:
        raise ValueError(message)

    @app.function
    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "one")
            nursery.start_soon(fail, "two")

    @app.function
    def nested() -> None:
        inner = ExceptionGroup("inner", [KeyError("b"), spear.NotFound("c"), OSError()])
        raise ExceptionGroup("outer", [TypeError("a"), inner])

    @app.function
    async def only_one() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep, 0)
            inner.start_soon(fail, "inside")

    async with calling(app) as caller:
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("both")
        assert raised.value.type_name == "ExceptionGroup"
        assert sorted(raised.value.remote_message.split("; ")) == [
            "ValueError: one",
            "ValueError: two",
        ]
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("nested")
        assert raised.value.remote_message == "TypeError: a; KeyError: 'b'; NotFound: c; OSError"
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("only_one")
        assert (raised.value.type_name, raised.value.remote_message) == ("ValueError", "inside")


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("I cannot say it")


async def test_an_exception_that_cannot_say_what_it_is_is_told_all_the_same() -> None:
    app = Agent()

    @app.function
    async def fail() -> None:
        raise SpeechlessError

    @app.function
    async def fail_twice() -> None:
        raise ExceptionGroup("both", [SpeechlessError(), KeyError("tea")])

    async with calling(app, debug=True) as caller:
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("fail")
        assert raised.value.type_name == "SpeechlessError"
        assert raised.value.remote_message == "<exception str() failed>"
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("fail_twice")
        assert raised.value.remote_message == (
            "SpeechlessError: <exception str() failed>; KeyError: 'tea'"
        )


async def test_an_exit_in_a_nursery_ends_the_call_not_the_process() -> None:
    app = Agent()

    async def leave() -> None:
        sys.exit("enough")

    @app.function
    async def leave_from_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)

    async with calling(app) as caller:
        for _ in range(2):
            with pytest.raises(FunctionRaised, match="SystemExit: enough"):
                await caller.call("leave_from_nursery")


async def test_a_failure_beside_a_cancellation_is_the_cancellation() -> None:
    app = Agent()
    begun = trio.Event()

    @app.function
    async def wait() -> None:
        async def fail_at_the_end() -> None:
            try:
                begun.set()
                await trio.sleep_forever()
            finally:
                raise KeyError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "wait")
            await begun.wait()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert caller.channel.statistics().calls_in_flight == 0
    assert app.service.statistics()[0].failed == 0


# -- tracebacks ---------------------------------------------------------------------------------------


def helper() -> None:
    raise KeyError("deep down")


app = Agent()


@app.function
async def plain_async() -> None:
    helper()


@app.function
def threaded() -> None:
    helper()


@app.function
async def items() -> AsyncIterator[int]:
    yield 1
    helper()


@app.function
def threaded_items() -> Iterator[int]:
    yield 1
    helper()


@app.function(asyncio=True)
async def borrowed() -> None:
    await asyncio.sleep(0)
    helper()


@app.function(asyncio=True)
async def borrowed_items() -> AsyncIterator[int]:
    yield 1
    helper()


@pytest.mark.parametrize("name", app.functions)
async def test_tracebacks_begin_with_the_function(name: str) -> None:
    async with calling(app, debug=True) as caller:
        with pytest.raises(FunctionRaised) as raised:
            await (caller.items(name) if name in app.streams else caller.call(name))
    trace = raised.value.remote_traceback
    assert trace is not None
    first, *frames, last = [line for line in trace.splitlines() if not line.startswith("    ")]
    assert first == "Traceback (most recent call last):"
    assert [line.rpartition(" in ")[2] for line in frames] == [name, "helper"]
    assert all(__file__ in line for line in frames)
    assert last == "KeyError: 'deep down'"


async def test_so_do_those_of_groups_and_what_was_raised_before_is_shown() -> None:
    app = Agent()

    @app.function
    async def group() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plain_async)

    @app.function
    async def chained() -> None:
        try:
            helper()
        except KeyError as error:
            raise ValueError("outside") from error

    async with calling(app, debug=True) as caller:
        with pytest.raises(FunctionRaised, match="KeyError: 'deep down'") as raised:
            await caller.call("group")
        assert raised.value.remote_traceback is not None
        first = raised.value.remote_traceback.splitlines()[1]
        assert __file__ in first
        assert first.endswith("in group")
        with pytest.raises(FunctionRaised, match="direct cause") as raised:
            await caller.call("chained")
        assert raised.value.remote_traceback is not None
        assert raised.value.remote_traceback.count("Traceback (most recent") == 2
        assert "spear/agent" not in raised.value.remote_traceback


async def test_the_traceback_of_a_nested_call_is_that_of_the_function_that_failed() -> None:
    class Host:
        def refuse(self, function: int, head: Head | None) -> spear.CallFailed | None:
            return None

        async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
            raise FunctionRaised("there", type_name="KeyError", remote_traceback=self.trace)

        trace: str | None = "line 1 over there"

    app, host = Agent(), Host()

    @app.function
    async def ask() -> object:
        return await spear.call("anything")

    async with calling(app, debug=True, host=host) as caller:
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("ask")
        assert raised.value.remote_traceback == "line 1 over there"
        host.trace = None
        with pytest.raises(FunctionRaised) as raised:
            await caller.call("ask")
        assert raised.value.remote_traceback is not None
        assert 'return await spear.call("anything")' in raised.value.remote_traceback


async def test_who_runs_an_agent_again_may_ask_for_tracebacks() -> None:
    async with calling(app) as plain:
        with pytest.raises(FunctionRaised) as raised:
            await plain.call("plain_async")
        assert raised.value.remote_traceback is None
        async with calling(app, debug=True) as caller:
            with pytest.raises(FunctionRaised, match="in helper"):
                await caller.call("plain_async")
    async with calling(app) as plain:
        with pytest.raises(FunctionRaised) as raised:
            await plain.call("plain_async")
        assert raised.value.remote_traceback is None


def test_a_mistake_of_ours_keeps_all_of_its_traceback() -> None:
    with pytest.raises(ValueError, match="a secret must have 32 bytes") as caught:
        Secret(b"short")
    trace = caught.value.__traceback__
    assert trace is not None
    seen = as_seen_by_caller(caught.value.with_traceback(trace.tb_next), debug=True)
    assert isinstance(seen, FunctionRaised)
    assert "_ids.py" in str(seen.remote_traceback)
