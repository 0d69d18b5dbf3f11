"""A channel whose two ends do anything at any time, compared with a model of the results.

The model: every call ends exactly once, with its own result or a typed error. Items come back in order,
each at most once. A cancelled operation has sent or taken either all or nothing. At the end no slot, no
handler and no credit is held.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, precondition, rule

from spear import (
    CallCancelled,
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    FunctionRaised,
    SpearError,
    WireLimits,
)
from spear.channels import CallStream, CommunicationChannel, InboundCall
from spear.testing import Functions, TrioStateMachine, in_trio

from .helpers import MEMORY_STREAM, echo, open_in_memory

if TYPE_CHECKING:
    from spear.testing import OpenPair

LIMITS = WireLimits(
    max_calls=4,
    fragment_bytes=32 * 1024,
    stream_window_bytes=16 * 1024,
    connection_window_bytes=48 * 1024,
    heartbeat_seconds=5,
)
ENDS = (ChannelClosed, ChannelBroken)

sides = st.integers(0, 1)
sizes = st.sampled_from([0, 10, 5_000, 20_000, 100_000])
timeouts = st.sampled_from([0.5, 3.0, 1000.0])


@attrs.define(eq=False)
class Call:
    """A call, and its outcome."""

    side: int
    function: str
    body: bytes
    timeout: float
    begun: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    gate: trio.Event = attrs.field(factory=trio.Event)
    ended: list[object] = attrs.field(factory=list)


@attrs.define(eq=False)
class Stream:
    """A stream that echoes its items, with the items sent and received."""

    side: int
    channel: CommunicationChannel
    stream: CallStream
    leave: trio.Event
    sent: list[bytes] = attrs.field(factory=list)
    received: list[bytes] = attrs.field(factory=list)
    is_complete: bool = False  # whether no further item will be sent


class ChannelMachine(TrioStateMachine):
    """Rules for both ends of a channel."""

    open_pair: OpenPair

    calls = Bundle("calls")
    streams = Bundle("streams")

    async def run_example(self, rules: Callable[[], Awaitable[None]]) -> None:
        self.all_calls: list[Call] = []
        self.all_streams: list[Stream] = []
        self.messages: tuple[list[bytes], list[bytes]] = ([], [])
        self.is_closed = False
        self.functions = Functions(
            {"echo": echo, "hold": self.hold, "fail": self.fail, "mirror": self.mirror}
        )
        async with type(self).open_pair(
            host_service=self.functions,
            agent_service=self.functions,
            functions=self.functions.names,
            limits=LIMITS,
        ) as self.pair:
            await rules()
            await self.come_to_rest()

    # -- handlers -----------------------------------------------------------------------------

    async def hold(self, call: InboundCall) -> bytes:
        number = int(call.payload.partition(b" ")[0])
        await self.all_calls[number].gate.wait()
        return call.payload

    async def fail(self, call: InboundCall) -> bytes:
        raise ValueError("as asked")

    async def mirror(self, call: InboundCall) -> bytes:
        async for item in call:
            await call.send(item)
        return b"end"

    # -- calls --------------------------------------------------------------------------------

    @rule(
        target=calls,
        side=sides,
        function=st.sampled_from(["echo", "hold", "fail"]),
        size=sizes,
        timeout=timeouts,
    )
    @in_trio
    async def call(self, side: int, function: str, size: int, timeout: float) -> Call:
        body = b"%d " % len(self.all_calls) + bytes(size)
        call = Call(side, function, body, timeout, trio.current_time())
        self.all_calls.append(call)
        self.nursery.start_soon(self.perform_call, call)
        return call

    async def perform_call(self, call: Call) -> None:
        channel = self.pair[call.side]
        with call.scope:
            try:
                response = await channel.request(call.function, call.body, timeout=call.timeout)
            except SpearError as error:
                call.ended.append(error)
            else:
                call.ended.append(response.payload)
        if call.scope.cancelled_caught:
            call.ended.append("cancelled")
        self.judge(call)

    def judge(self, call: Call) -> None:
        """Assert that a call has ended once, with an outcome that is allowed for it."""
        (end,) = call.ended
        late = trio.current_time() - call.begun >= call.timeout - 1e-9
        if end == "cancelled":
            assert call.scope.cancel_called
        elif isinstance(end, DeadlineExceeded):
            assert late
        elif isinstance(end, ENDS):
            assert self.is_closed
        elif call.function == "fail":
            assert isinstance(end, FunctionRaised)
            assert end.remote_message == "as asked"
        else:
            assert end == call.body
            assert call.function == "echo" or call.gate.is_set()

    @rule(call=calls)
    @in_trio
    async def release(self, call: Call) -> None:
        call.gate.set()

    @rule(call=calls)
    @in_trio
    async def cancel(self, call: Call) -> None:
        call.scope.cancel()

    @rule(first=calls, second=calls)
    @in_trio
    async def release_and_cancel_at_once(self, first: Call, second: Call) -> None:
        first.gate.set()
        second.scope.cancel()
        first.scope.cancel()

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0]))
    @in_trio
    async def let_time_pass(self, seconds: float) -> None:
        await trio.sleep(seconds)

    # -- streams ------------------------------------------------------------------------------

    @precondition(lambda self: len(self.open_streams) < 3)
    @rule(target=streams, side=sides)
    @in_trio
    async def open_stream(self, side: int) -> Stream | None:
        with trio.move_on_after(0.001):
            opened: Stream | None = await self.nursery.start(self.keep_stream, side)
            return opened
        return None

    async def keep_stream(self, side: int, task_status: trio.TaskStatus[Stream | None]) -> None:
        channel = self.pair[side]
        try:
            async with channel.open_stream("mirror", sends_items=True, timeout=1000) as opened:
                stream = Stream(side, channel, opened, trio.Event())
                self.all_streams.append(stream)
                task_status.started(stream)
                await stream.leave.wait()
        except ENDS:
            assert self.is_closed
            task_status.started(None)

    @property
    def open_streams(self) -> list[Stream]:
        return [each for each in self.all_streams if not each.leave.is_set()]

    @rule(stream=streams, size=st.sampled_from([0, 10, 3_000, 20_000, 50_000]))
    @in_trio
    async def send_item(self, stream: Stream | None, size: int) -> None:
        if stream is None:
            return
        item = b"%d " % len(stream.sent) + bytes(size)
        try:
            with trio.move_on_after(0.001):  # without credit nothing is sent
                await stream.stream.send(item)
                stream.sent.append(item)
        except SpearError as error:
            self.may_have_ended(stream, error)

    @rule(stream=streams)
    @in_trio
    async def receive_items(self, stream: Stream | None) -> None:
        if stream is None:
            return
        try:
            with trio.move_on_after(0.001):
                while True:
                    stream.received.append(await stream.stream.receive())
        except trio.EndOfChannel:
            assert stream.is_complete
            assert stream.received == stream.sent
        except SpearError as error:
            self.may_have_ended(stream, error)
        assert stream.received == stream.sent[: len(stream.received)]

    def may_have_ended(self, stream: Stream, error: SpearError) -> None:
        if isinstance(error, ENDS):
            assert self.is_closed
        elif isinstance(error, DeadlineExceeded):
            assert trio.current_time() >= 1000
        elif isinstance(error, CallCancelled):
            assert stream.leave.is_set()
        else:
            assert stream.is_complete or stream.leave.is_set(), error

    @rule(stream=streams)
    @in_trio
    async def end_items(self, stream: Stream | None) -> None:
        if stream is not None:
            await stream.stream.send_eof()
            stream.is_complete = True

    @rule(stream=streams)
    @in_trio
    async def leave_stream(self, stream: Stream | None) -> None:
        if stream is not None:
            stream.leave.set()

    # -- messages -----------------------------------------------------------------------------

    @rule(side=sides, size=st.sampled_from([0, 1_000, 10_000, 40_000]))
    @in_trio
    async def send_message(self, side: int, size: int) -> None:
        message = b"%d " % len(self.messages[side]) + bytes(size)
        try:
            with trio.move_on_after(0.001):
                await self.pair[side].send(message)
                self.messages[side].append(message)
        except ENDS:
            assert self.is_closed

    @rule(side=sides)
    @in_trio
    async def receive_message(self, side: int) -> None:
        try:
            with trio.move_on_after(0.001):
                while True:
                    message = await self.pair[side].receive()
                    assert message == self.messages[1 - side].pop(0)
        except ENDS:
            assert self.is_closed

    # -- the end ------------------------------------------------------------------------------

    @precondition(lambda self: not self.is_closed)
    @rule(side=sides, is_sudden=st.booleans())
    @in_trio
    async def close(self, side: int, is_sudden: bool) -> None:
        self.is_closed = True
        if is_sudden:
            with trio.CancelScope() as scope:
                scope.cancel()
                await self.pair[side].aclose()
        else:
            await self.pair[side].aclose()
        await self.pair[1 - side].closed.wait()

    @invariant()
    @in_trio
    async def the_numbers_agree(self) -> None:
        found = [channel.statistics() for channel in self.pair]
        for side, (ours, theirs) in enumerate(zip(found, reversed(found), strict=True)):
            if self.is_closed:
                assert ours.calls_in_flight == ours.handlers_running == ours.callers_waiting == 0
                assert all(call.ended for call in self.all_calls)
                continue
            assert ours.calls_in_flight == theirs.handlers_running <= LIMITS.max_calls
            waiting = [call for call in self.all_calls if call.side == side and not call.ended]
            streaming = [
                each for each in self.open_streams if each.side == side and not each.stream.is_done
            ]
            assert ours.calls_in_flight + ours.callers_waiting == len(waiting) + len(streaming)
        if not self.is_closed:
            assert self.functions.running == sum(each.handlers_running for each in found)
        assert all(len(call.ended) <= 1 for call in self.all_calls)

    async def come_to_rest(self) -> None:
        """Let all tasks finish after the last rule, then check for leftovers."""
        for call in self.all_calls:
            call.gate.set()
        for stream in self.all_streams:
            stream.leave.set()
        await trio.testing.wait_all_tasks_blocked()
        assert all(len(call.ended) == 1 for call in self.all_calls)
        assert self.functions.running == 0
        if self.is_closed:
            return
        for side, channel in enumerate(self.pair):
            while self.messages[1 - side]:
                assert await channel.receive() == self.messages[1 - side].pop(0)
            assert (await channel.request("echo", b"alive")).payload == b"alive"
        await trio.testing.wait_all_tasks_blocked()
        for one, other in (self.pair, reversed(self.pair)):
            assert not one.outlet.waiters
            assert list(one.connection.calls.values()) == [one.connection.messages]
            unread = other._queue._cost if other._queue else 0
            assert (
                one.connection.windows.send.available
                + other.connection.windows.receive.consumed
                + unread
                == one.connection.windows.send.size
            )


class MemoryMachine(ChannelMachine):
    """The machine with a channel in memory, without bytes."""

    open_pair = staticmethod(open_in_memory)


class StreamMachine(ChannelMachine):
    """The machine with a channel over a byte stream."""

    open_pair = staticmethod(MEMORY_STREAM.open_pair)


MemoryMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
StreamMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40)


TestMemory = pytest.mark.slow(pytest.mark.repetitive(MemoryMachine.TestCase))
TestStream = pytest.mark.slow(pytest.mark.repetitive(StreamMachine.TestCase))
