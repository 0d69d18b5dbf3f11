"""Handlers: tasks and scopes are reused, and no state of a call leaks into the next one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
import trio

from spear import (
    CallCancelled,
    ChannelClosed,
    DeadlineExceeded,
    FunctionRaised,
    NotFound,
    Rejected,
    WireLimits,
)
from spear.channels import CommunicationChannel, InboundCall, connect_channel
from spear.testing import Functions, Resources

from .helpers import INSTANCE, MEMORY_STREAM, echo, open_in_memory, park, sleep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from spear.testing import CallHandler
    from spear.wire import Payload

    from .helpers import Carrier

note: ContextVar[str] = ContextVar("note", default="clean")


@asynccontextmanager
async def serving(
    limits: WireLimits | None = None, **handlers: CallHandler
) -> AsyncIterator[tuple[CommunicationChannel, Functions]]:
    """Open a caller's channel, with the functions at its other end."""
    functions = Functions(handlers)
    async with open_in_memory(
        agent_service=functions, functions=functions.names, limits=limits or WireLimits()
    ) as (host, _):
        yield host, functions


async def test_context_variables_do_not_leak_from_call_to_call() -> None:
    seen: list[str] = []

    async def leave_a_note(call: InboundCall) -> bytes:
        seen.append(note.get())
        note.set("left by another call")
        await trio.lowlevel.checkpoint()
        assert note.get() == "left by another call"
        return b""

    note.set("of the opener")
    async with serving(leave=leave_a_note) as (host, _):
        for _ in range(3):
            await host.request("leave")
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(host.request, "leave")
        for _ in range(5):
            await host.request("leave")
    assert set(seen) == {"of the opener"}
    note.set("clean")


async def test_workers_are_used_again() -> None:
    tasks: set[object] = set()

    async def remember(call: InboundCall) -> bytes:
        tasks.add(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()
        return b""

    async with serving(remember=remember) as (host, _):
        for _ in range(100):
            await host.request("remember")
        assert len(tasks) == 1
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(host.request, "remember")
        assert len(tasks) <= 11


async def test_a_worker_is_used_again_after_its_call_was_cancelled() -> None:
    tasks: list[object] = []

    async def remember(call: InboundCall) -> bytes:
        tasks.append(trio.lowlevel.current_task())
        if call.payload:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return b"whole"

    async with serving(remember=remember) as (host, _):
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.request, "remember", b"wait")
                await park()
                nursery.cancel_scope.cancel()
            await park()
            assert (await host.request("remember")).payload == b"whole"
        assert len(set(tasks)) == 1


async def test_no_more_than_64_workers_are_kept() -> None:
    gate = trio.Event()

    async def wait(call: InboundCall) -> bytes:
        await gate.wait()
        if call.payload:
            await trio.sleep_forever()
        return b""

    async with serving(wait=wait) as (host, functions):
        idle = len(Resources.count().tasks)
        for payload in (b"", b"until cancelled"):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(host.request, "wait", payload)
                await park()
                assert functions.running == 100
                gate.set()
                await park()
                nursery.cancel_scope.cancel()
            await park()
            assert functions.running == 0
            assert len(Resources.count().tasks) == idle + 64
            gate = trio.Event()


async def test_a_handler_that_ignores_its_cancellation_keeps_its_slot(
    autojump_clock: MockClock,
) -> None:
    """The handler's late result is discarded."""

    async def stubborn(call: InboundCall) -> bytes:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        return bytes(1_000_000)

    async with serving(WireLimits(max_calls=1), stubborn=stubborn) as (host, functions):
        with pytest.raises(DeadlineExceeded):
            await host.request("stubborn", timeout=0.01)
        assert functions.running == host.statistics().calls_in_flight == 1
        received = host.statistics().bytes_received
        while host.statistics().calls_in_flight:
            await trio.sleep(0.01)
        assert host.statistics().bytes_received == received
        assert host.statistics().latency.count in (0, 1)


async def test_a_handler_that_finishes_when_it_is_cancelled_ends_its_call_once(
    autojump_clock: MockClock,
) -> None:
    async def finish_anyway(call: InboundCall) -> bytes:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return b"swallowed"
        raise AssertionError

    async with serving(finish=finish_anyway, echo=echo) as (host, _):
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await host.request("finish", timeout=0.01)
            while host.statistics().calls_in_flight:
                await trio.sleep(0.001)
            assert (await host.request("echo", b"next")).payload == b"next"


# -- what handlers raise ----------------------------------------------------------------------------


async def raise_group(call: InboundCall) -> bytes:
    raise ExceptionGroup("two at once", [ValueError("one"), KeyError("two")])


async def raise_in_nursery(call: InboundCall) -> bytes:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(_raise_value_error)
    raise AssertionError


async def _raise_value_error() -> None:
    raise ValueError("in a task")


async def test_a_group_of_exceptions_is_reported_as_one() -> None:
    async with serving(group=raise_group, nursery=raise_in_nursery) as (host, functions):
        for name in ("group", "nursery"):
            with pytest.raises(FunctionRaised) as caught:
                await host.request(name)
            assert caught.value.type_name == "ExceptionGroup"
            assert caught.value.delivered == "yes"
        assert functions.running == 0


async def test_a_group_with_a_cancellation_in_it() -> None:
    """A nursery raises such a group when one of its tasks fails while the call is being cancelled."""

    async def fail_while_cancelled(call: InboundCall) -> bytes:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if call.payload:
                    raise ValueError("in the clean-up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)
        raise AssertionError

    async with serving(fail=fail_while_cancelled, echo=echo) as (host, functions):
        for payload in (b"x", b""):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.request, "fail", payload)
                await park()
                nursery.cancel_scope.cancel()
            await park()
            assert functions.running == 0
            assert host.statistics().calls_in_flight == 0
        assert (await host.request("echo", b"alive")).payload == b"alive"


async def test_a_group_that_the_host_cancels_says_what_went_wrong_in_it() -> None:
    """The channel's own nursery, or a scope of the handler, was cancelled, not the call."""

    async def cancel_itself(call: InboundCall) -> bytes:
        raise BaseExceptionGroup(
            "made by hand", [ValueError("one"), *([_cancelled()] if call.payload else [])]
        )

    async with serving(cancel=cancel_itself) as (host, _):
        with pytest.raises(FunctionRaised):
            await host.request("cancel")


def _cancelled() -> BaseException:
    return trio.Cancelled._create(source="explicit")


async def test_closing_the_channel_tells_the_caller_that_its_function_was_cancelled() -> None:
    """The function ends because its side is closing, not because the caller cancelled the call."""
    functions = Functions({"sleep": sleep})
    pair = MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names)
    async with pair as (host, agent), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(CallCancelled) as caught:
                await host.request("sleep")
            assert "the channel is being closed" in str(caught.value)
            assert caught.value.delivered == "yes"

        nursery.start_soon(call)
        await park()
        (scope,) = [
            each.scope for each in agent.connection.calls.values() if isinstance(each, InboundCall)
        ]
        assert scope is not None
        scope.cancel()


async def test_a_handler_that_returns_what_cannot_be_sent_fails_its_call_alone() -> None:
    """A service may be foreign code."""

    class Odd:
        names = ("odd",)

        def refuse(self, function: int, head: object) -> None:
            return None

        async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
            if call.payload == b"text":
                return "text", False  # type: ignore[return-value]  # that is the point
            if call.payload == b"nothing":
                return None, False  # type: ignore[return-value]  # that is the point
            if call.payload == b"half":
                return b"half"  # type: ignore[return-value]  # that is the point
            return b"fine", False

    for open_pair in (open_in_memory, MEMORY_STREAM.open_pair):
        async with open_pair(agent_service=Odd(), functions=Odd.names) as (host, agent):
            for kind in (b"text", b"nothing", b"half"):
                with pytest.raises(FunctionRaised) as caught:
                    await host.request("odd", kind, timeout=5)
                assert caught.value.type_name in ("TypeError", "ValueError")
            assert (await host.request("odd")).payload == b"fine"
            assert agent.statistics().handlers_running == 0


async def test_a_local_mistake_of_a_handler_is_not_a_refusal_of_its_caller() -> None:
    async def call_too_much(call: InboundCall) -> bytes:
        await call.channel.request("echo", bytes(2001))
        raise AssertionError

    functions = Functions({"call": call_too_much, "echo": echo})
    async with open_in_memory(
        host_service=functions,
        agent_service=functions,
        functions=functions.names,
        limits=WireLimits(max_message_bytes=2000),
    ) as (host, _):
        with pytest.raises(FunctionRaised) as caught:
            await host.request("call")
        assert caught.value.type_name == "LocalProtocolError"

        async def too_much(call: InboundCall) -> bytes:
            return bytes(2001)

        functions._handlers["call"] = too_much
        with pytest.raises(Rejected, match="2001 bytes") as refused:
            await host.request("call")
        assert refused.value.delivered == "yes"


async def test_a_traceback_travels_only_in_debug_mode() -> None:
    functions = Functions({"fail": raise_group})
    for debug in (False, True):
        async with MEMORY_STREAM.open_host() as (_, endpoint):
            stream = await MEMORY_STREAM.connect(endpoint.address)
            async with connect_channel(
                stream,
                INSTANCE,
                endpoint.secret,
                service=functions,
                functions=functions.names,
                debug=debug,
            ):
                host = await endpoint.wait_connected()
                with pytest.raises(FunctionRaised) as caught:
                    await host.request("fail")
                trace = caught.value.remote_traceback
                assert (trace is not None) == debug
                assert ("raise_group" in str(caught.value)) == debug


async def test_a_progress_callback_that_fails_fails_its_call_alone() -> None:
    async def report(call: InboundCall) -> bytes:
        for number in range(3):
            call.report_progress(b"%d" % number)
            await park()
        return b"done"

    def fail(payload: bytes, is_cbor: bool) -> None:
        raise ZeroDivisionError("in the callback")

    async with serving(report=report) as (host, functions):
        with pytest.raises(ZeroDivisionError, match="in the callback"):
            await host.request("report", on_progress=fail)
        assert (await host.request("report")).payload == b"done"
        await park()
        assert functions.running == host.statistics().calls_in_flight == 0
        assert host.statistics().failures == {}


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_a_progress_callback_that_wants_to_end_the_program_harms_no_channel(
    unix: Carrier, error: type[BaseException]
) -> None:
    """The callback's exception is raised by its own call."""

    async def report(call: InboundCall) -> bytes:
        call.report_progress(b"1")
        await park()
        return b"done"

    def fail(payload: bytes, is_cbor: bool) -> None:
        raise error("in the callback")

    functions = Functions({"report": report})
    async with unix.open_pair(agent_service=functions, functions=functions.names) as (host, _):
        with pytest.raises(error, match="in the callback"):
            await host.request("report", on_progress=fail)
        assert (await host.request("report")).payload == b"done"


async def test_a_progress_callback_may_fail_when_the_answer_is_there_already() -> None:
    """Report and answer arrive together: the call has ended before it is cancelled."""

    async def report(call: InboundCall) -> bytes:
        call.report_progress(b"done soon")
        return b"done"

    def fail(payload: bytes, is_cbor: bool) -> None:
        raise ZeroDivisionError("in the callback")

    async with serving(WireLimits(max_calls=1), report=report) as (host, _):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await host.request("report", on_progress=fail)
        assert (await host.request("report")).payload == b"done"
        found = host.statistics()
        assert (found.calls_in_flight, found.messages_sent) == (0, 4)


async def test_a_report_after_the_caller_has_gone_is_dropped() -> None:
    gate = trio.Event()

    async def report_late(call: InboundCall) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            call.report_progress(b"too late")
            gate.set()
        raise AssertionError

    async with serving(report=report_late) as (host, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.request, "report")
            await park()
            nursery.cancel_scope.cancel()
        await gate.wait()
        await park()
        assert host.is_connected


async def test_a_function_without_name_is_not_there() -> None:
    async with serving(echo=echo) as (host, _):
        with pytest.raises(NotFound):
            await host.request("")


async def test_a_call_that_arrives_as_the_workers_are_cancelled_wakes_none_of_them() -> None:
    async def fail(host: CommunicationChannel) -> None:
        with pytest.raises(ChannelClosed):
            await host.request("echo")

    for _ in range(50):  # the scheduler draws a new order in each pass
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with serving(echo=echo) as (host, _):
                    await host.request("echo")  # its worker is idle now
                    nursery.start_soon(fail, host)
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
