"""Rare events, and events that should never happen: late answers, bugs, clocks that run for hours."""

from __future__ import annotations

import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from spear import ChannelBroken, DeadlineExceeded, LocalProtocolError, SpearError, WireLimits
from spear.channels import (
    CommunicationChannel,
    Timers,
    open_memory_channels,
    open_timers,
)
from spear.channels._memory_pipe import memory_pipes
from spear.channels._pipes import SocketPipe, _behind
from spear.testing import Functions
from spear.transports import (
    SocketStream,
)
from spear.wire import Connection, FrameType, Head, Role, encode_head, pack_prefix

from .helpers import INSTANCE, MEMORY_STREAM, echo, open_in_memory, park, sleep
from .pipes import stream_pipes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from spear.channels import InboundCall
    from spear.channels._pipes import Pipe
    from spear.testing import OpenPair


# -- answers ----------------------------------------------------------------------------------------


async def test_an_answer_that_comes_too_late_is_dropped(autojump_clock: MockClock) -> None:
    async with MEMORY_STREAM.open_raw() as (channel, peer), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(DeadlineExceeded):
                await channel.request("f", timeout=1)

        nursery.start_soon(call)
        frame = await peer.receive(FrameType.EXECUTION_REQUEST)
        await peer.receive(FrameType.CANCEL)
        await peer.send(FrameType.EXECUTION_RESPONSE, call_id=frame[2], payload=b"late")
        await park()
        assert channel.is_connected
        found = channel.statistics()
        assert (found.calls_in_flight, found.latency.count) == (0, 1)
        assert found.failures == {"DeadlineExceeded": 1}


async def test_a_report_of_progress_for_a_stream_or_nobody_is_dropped() -> None:
    async def report(call: InboundCall) -> bytes:
        call.report_progress(b"half")
        await park()
        return b"done"

    functions = Functions({"report": report})
    async with open_in_memory(agent_service=functions, functions=functions.names) as (host, _):
        async with host.open_stream("report") as stream:
            assert (await stream.result()).payload == b"done"
        response = await host.request("report")
        assert repr(response).startswith("<ExecutionResponse 4 bytes in 0.")


@pytest.mark.parametrize("open_pair", [open_in_memory, MEMORY_STREAM.open_pair])
async def test_a_channel_that_is_aborted_sends_no_last_words(open_pair: OpenPair) -> None:
    functions = Functions({"sleep": sleep})
    broken: list[ChannelBroken] = []
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(ChannelBroken) as caught:
                    await host.request("sleep")
                broken.append(caught.value)

            nursery.start_soon(call)
            await park()
            agent.abort("crashed")  # which cancels the handler, whose answer must not arrive
        assert isinstance(agent.closed_by, ChannelBroken)
    assert [each.delivered for each in broken] == ["maybe"]


async def test_a_plain_call_has_no_items() -> None:
    async def take(call: InboundCall) -> bytes:
        with pytest.raises(trio.EndOfChannel):
            await call.receive()
        assert [item async for item in call] == []
        with pytest.raises(LocalProtocolError, match="cannot send an item"):
            await call.send(b"x")
        return b"none"

    functions = Functions({"take": take})
    async with open_in_memory(agent_service=functions, functions=functions.names) as (host, _):
        assert (await host.request("take")).payload == b"none"


async def test_kinds_of_items() -> None:
    async def mirror(call: InboundCall) -> bytes:
        while True:
            try:
                item, is_cbor = await call.receive_item()
            except trio.EndOfChannel:
                return b""
            await call.send(item, is_cbor=is_cbor)

    functions = Functions({"mirror": mirror})
    async with (
        MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names) as (host, _),
        host.open_stream("mirror", metadata={"a": 1}, is_cbor=True, sends_items=True) as stream,
    ):
        given = [(b"\x01", True), (b"raw", False), (b"\x02", True), (b"\x03", True)]
        for item, is_cbor in given:
            await stream.send(item, is_cbor=is_cbor)
        await stream.send_eof()
        assert [await stream.receive_item() for _ in given] == given
        with pytest.raises(trio.EndOfChannel):
            await stream.receive_item()


@pytest.mark.slow
@pytest.mark.repetitive
async def test_a_call_of_eighty_minutes(autojump_clock: MockClock) -> None:
    """The duration is longer than a response can express."""

    async def work(call: InboundCall) -> bytes:
        await trio.sleep(80 * 60)
        return b"done"

    functions = Functions({"work": work})
    async with MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names) as (
        host,
        _,
    ):
        response = await host.request("work", timeout=100 * 60)
        assert response.payload == b"done"
        assert response.execution_seconds == pytest.approx(2**32 / 1e6)
        assert host.statistics().latency.counts[-1] == 1


async def test_a_message_that_is_too_large_is_not_sent() -> None:
    async with open_in_memory(limits=WireLimits(max_message_bytes=1000)) as (host, agent):
        with pytest.raises(LocalProtocolError, match="1001 bytes"):
            await host.send(bytes(1001))
        await host.send(bytes(1000))
        assert await agent.receive() == bytes(1000)


async def test_the_event_of_leaving_tells_those_who_come_late() -> None:
    async with open_in_memory() as (host, agent):
        assert host.peer_draining is host.peer_draining
        assert not host.peer_draining.is_set()
        await agent.aclose()
        await host.closed.wait()
        assert host.peer_draining.is_set()
        assert agent.peer_draining.is_set()
    async with open_in_memory() as (host, agent):
        await agent.drain(0)
        await park()
        assert host.peer_draining.is_set()
        assert not agent.peer_draining.is_set()


async def test_a_close_without_a_reason() -> None:
    async with MEMORY_STREAM.open_raw() as (channel, peer):
        await peer.send(FrameType.CLOSE)
        await peer.reset()
        await channel.closed.wait()
        assert str(channel.closed_by) == "the peer has closed the channel: closed"


async def test_a_long_close_reason_is_cut() -> None:
    async with MEMORY_STREAM.open_raw() as (channel, peer):
        await peer.send(FrameType.CLOSE, head={"reason": "x" * 10_000, "last": "none"})
        await peer.reset()
        await channel.closed.wait()
        assert len(str(channel.closed_by)) < 300


# -- bugs -------------------------------------------------------------------------------------------


async def test_a_bug_of_a_service_costs_its_own_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def refuse(self, function: int, head: object) -> None:
            raise ZeroDivisionError

        async def handle(self, call: InboundCall) -> tuple[bytes, bool]:
            raise AssertionError

    async with open_in_memory(agent_service=Broken(), functions=["f"]) as (host, agent):
        with caplog.at_level(logging.ERROR), pytest.raises(SpearError):
            await host.request("f")
        assert "the channel failed" in caplog.text
        await agent.closed.wait()
        assert isinstance(agent.closed_by, ChannelBroken)
        assert "ZeroDivisionError" in str(agent.closed_by)


@pytest.mark.parametrize("is_alone", [True, False])
async def test_an_interrupt_in_a_handler_ends_the_process(is_alone: bool) -> None:
    """An interrupt fails no call: it propagates to the top."""

    async def interrupt(call: InboundCall) -> bytes:
        if is_alone:
            raise KeyboardInterrupt
        raise BaseExceptionGroup("two at once", [KeyboardInterrupt(), ValueError()])

    functions = Functions({"interrupt": interrupt})
    with pytest.raises(KeyboardInterrupt) as caught:
        async with open_memory_channels(
            INSTANCE, agent_service=functions, functions=functions.names
        ) as (host, _):
            await host.request("interrupt")
    if not is_alone:
        others = caught.value.__cause__
        assert isinstance(others, ExceptionGroup)
        assert others.subgroup(ValueError) is not None


# -- a channel that is assembled by hand ----------------------------------------------------------


@asynccontextmanager
async def half_a_pair(
    timers: Timers, limits: WireLimits, ours: Pipe
) -> AsyncIterator[CommunicationChannel]:
    """Open a host's channel whose peer is connected but does nothing."""
    connection = Connection.opened(Role.HOST, limits, ours.sink)
    channel = CommunicationChannel(ours, connection, INSTANCE, limits, timers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run_alone)
        yield channel
        nursery.cancel_scope.cancel()


ANNOUNCEMENT: Head = {"functions": ["f"], "last": True}


async def test_nobody_need_listen_for_lost_heartbeats_or_announcements(
    autojump_clock: MockClock,
) -> None:
    limits = WireLimits()
    async with (
        open_timers() as timers,
        stream_pipes() as (ours, _),
        half_a_pair(timers, limits, ours) as channel,
    ):
        assert not channel.is_connected
        channel._on_event(None, FrameType.ANNOUNCE, 0, 0, 0, ANNOUNCEMENT, b"")
        assert channel.is_connected
        await channel.closed.wait()
        assert isinstance(channel.closed_by, ChannelBroken)
        assert 3 <= trio.current_time() <= 3.1


async def test_who_is_in_the_same_process_need_not_say_that_it_lives(
    autojump_clock: MockClock,
) -> None:
    limits = WireLimits()
    ours, theirs = memory_pipes()
    async with open_timers() as timers, half_a_pair(timers, limits, ours) as channel:
        channel._on_event(None, FrameType.ANNOUNCE, 0, 0, 0, ANNOUNCEMENT, b"")
        assert timers.entries == 0
        await trio.sleep(60)
        assert channel.is_connected
        theirs.close()
        await channel.closed.wait()


async def test_a_channel_that_ended_before_it_ran() -> None:
    limits = WireLimits()
    async with open_timers() as timers:
        ours, _ = memory_pipes()
        channel = CommunicationChannel(
            ours, Connection.opened(Role.HOST, limits, ours), INSTANCE, limits, timers
        )
        await channel.aclose("never mind")
        await channel.run_alone()
        assert "never mind" in str(channel.closed_by)


async def test_a_channel_that_is_cancelled_is_closed_without_a_word() -> None:
    functions = Functions({"echo": echo})
    async with (
        MEMORY_STREAM.open_raw(service=functions) as (_, peer),
        open_timers() as timers,
    ):
        ours, _ = memory_pipes()
        async with half_a_pair(timers, WireLimits(), ours) as channel:
            await park()
        assert channel.closed.is_set()
        assert not peer.received


# -- sockets that are not ready though the kernel said so -----------------------------------------


class Thief(trio.abc.Instrument):
    """An instrument that takes a socket's bytes at the moment when a task wakes up to read them."""

    def __init__(self, task: trio.lowlevel.Task, sock: socket.socket) -> None:
        self._task = task
        self._socket = sock
        self.stolen = b""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task and not self.stolen:
            try:
                self.stolen = self._socket.recv(1_000_000)
            except BlockingIOError:
                return


@pytest.mark.parametrize("is_direct", [False, True])
async def test_a_read_in_vain_is_repeated(is_direct: bool) -> None:
    left, right = (SocketStream(each) for each in socket.socketpair())
    payload = bytes(range(256)) * 400
    data = pack_prefix(FrameType.EXECUTION_REQUEST, 0, 1, 0, 0, None, len(payload)) + payload
    beginning = data[:50_000] if is_direct else b""
    received: list[bytes] = []
    async with trio.open_nursery() as nursery:
        pipe = SocketPipe(left, WireLimits(), nursery)
        pipe.receiver.open(lambda *_: True)

        async def read(task_status: trio.TaskStatus[trio.lowlevel.Task]) -> None:
            task_status.started(trio.lowlevel.current_task())
            received.extend(bytes(frame[6]) for frame in await pipe.receive())

        task = await nursery.start(read)
        if beginning:
            right.socket.send(beginning)
        await park()
        await trio.sleep(0.001)
        await park()
        assert (pipe.receiver.direct is not None) == is_direct
        thief = Thief(task, left.socket)
        trio.lowlevel.add_instrument(thief)
        right.socket.send(data[len(beginning) : 60_000])
        while not thief.stolen:
            await trio.sleep(0.001)
        trio.lowlevel.remove_instrument(thief)
        right.socket.send(thief.stolen)
        right.socket.send(data[60_000:])
        while not received:
            await trio.sleep(0.001)
        pipe.close()
        right.close()
    assert received == [payload]


async def test_a_payload_whose_memory_grows_exactly_when_nothing_is_there() -> None:
    """Memory is allocated in steps of 4 MiB; the socket runs dry at the end of the first step."""
    left, right = (SocketStream(each) for each in socket.socketpair())
    size = 5 * 1024 * 1024
    step = 4 * 1024 * 1024
    head = encode_head({"size": size})
    opening = pack_prefix(FrameType.EXECUTION_REQUEST, 3, 1, 0, 0, head, 1) + b"x"
    rest = pack_prefix(FrameType.BODY, 1, 1, 0, 0, None, size - 1)
    limits = WireLimits(fragment_bytes=8 * 1024 * 1024)
    received: list[int] = []
    async with trio.open_nursery() as nursery:
        pipe = SocketPipe(left, limits, nursery)
        pipe.receiver.open(lambda *_: True)

        async def read() -> None:
            received.extend(len(frame[6]) for frame in await pipe.receive())

        nursery.start_soon(read)
        await right.send_all(opening + rest)
        await right.send_all(bytes(step - 1))
        while pipe.bytes_received < step:
            await trio.sleep(0.001)
        await park()
        assert not received
        await right.send_all(bytes(size - step))
        while not received:
            await trio.sleep(0.001)
        pipe.close()
        right.close()
    assert received == [size]


def test_what_is_left_of_buffers_that_were_sent_in_part() -> None:
    buffers = [b"ab", b"", b"cde"]
    assert _behind([*buffers], 0) == buffers
    assert _behind([*buffers], 1) == [b"b", b"", b"cde"]
    assert _behind([*buffers], 2) == [b"cde"]
    assert _behind([*buffers], 4) == [b"e"]
    assert _behind([*buffers], 5) == []
