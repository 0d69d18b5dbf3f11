"""The conformance suite for channels: limits, statistics, closing and draining."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

import trio
import trio.testing

from spear._errors import ChannelClosed, DeadlineExceeded, SpearError
from spear._limits import WireLimits
from spear.channels import CommunicationChannel, InboundCall

from ._conformance import (
    OpenPair,
    case,
    caught,
    echo,
    items,
    offer,
    offer_limited,
    sleep,
    total,
    wait_idle,
    wait_until,
)


@case
async def max_calls(open_pair: OpenPair) -> None:
    """Callers beyond the peer's limit of concurrent calls queue in order, until their deadlines."""
    order: list[tuple[int, bytes]] = []
    gate = trio.Event()

    async def wait(call: InboundCall) -> bytes:
        order.append((call.id, call.payload))
        await gate.wait()
        return b""

    async with offer_limited(open_pair, WireLimits(max_calls=2), wait=wait, echo=echo) as (host, _):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(host.request, "wait", b"%d" % number)
                await wait_until(
                    lambda wanted=number + 1: (  # type: ignore[misc]  # bound now, not later
                        host.statistics().calls_in_flight + host.statistics().callers_waiting
                        == wanted
                    )
                )
            await wait_until(lambda: len(order) == 2)
            assert host.statistics().callers_waiting == 4
            error = await caught(lambda: host.request("echo", timeout=0.001))
            assert isinstance(error, DeadlineExceeded)
            assert error.delivered == "no"
            gate.set()
        # In order, except for two callers that get their slots in the same pass of the scheduler.
        places = [int(payload) for _, payload in sorted(order)]
        assert all(abs(place - number) <= 1 for number, place in enumerate(places)), places
        assert host.statistics().most_calls_in_flight == 2


@case
async def statistics(open_pair: OpenPair) -> None:
    """The statistics of both ends agree with the calls made, and with each other."""

    async def fail(call: InboundCall) -> bytes:
        raise ValueError

    async with offer(
        open_pair, echo=echo, fail=fail, items=items, total=total, sleep=sleep
    ) as pair:
        host, agent = pair
        assert host.instance_id == agent.instance_id
        assert all(channel.is_connected for channel in pair)
        for number in range(10):
            await host.request("echo", bytes(1000 * number))
            await agent.request("echo", bytes(1000 * number))
            await caught(host.request, "fail")
            await caught(host.request, "nothing")
            await host.send(b"a message")
        async with host.open_stream("items", b"5 5 5 5 5") as stream:
            assert len([item async for item in stream]) == 5
        async with host.open_stream("total", sends_items=True, timeout=inf) as stream:
            await stream.send(bytes(300_000))
            await stream.send(b"")
            await stream.send_eof()
            await stream.result()
        async with host.open_stream("fail", timeout=inf) as stream:
            await caught(stream.result)
        await caught(lambda: host.request("sleep", timeout=0.001))
        await wait_idle(*pair)
        seen = [(host.statistics(), agent.statistics())]

        def have_arrived() -> bool:
            """Return whether all bytes sent have arrived; a heartbeat may be in flight at any time."""
            ours, theirs = seen[0] = host.statistics(), agent.statistics()
            return (ours.messages_sent, ours.bytes_sent, theirs.messages_sent, theirs.bytes_sent) == (
                theirs.messages_received, theirs.bytes_received,
                ours.messages_received, ours.bytes_received,
            )  # fmt: skip

        await wait_until(have_arrived)
        ours, theirs = seen[0]
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            assert receiver.bytes_received > 0
            assert (sender.unsent_bytes, sender.buffered_bytes) == (0, 0)
            assert (sender.calls_in_flight, sender.handlers_running) == (0, 0)
            assert sender.uptime_seconds >= 0
            assert sender.unknown_frames == sender.heartbeats_missed == 0
        assert ours.failures == {"FunctionRaised": 11, "NotFound": 10, "DeadlineExceeded": 1}
        assert theirs.failures == {}
        assert ours.latency.count == 12
        assert theirs.latency.count == 10
        assert 0 <= theirs.latency.mean_seconds <= theirs.latency.quantile_seconds(1)
        assert theirs.calls_refused == 10


@case
async def close_wakes_everybody(open_pair: OpenPair) -> None:
    """Closing either end wakes all tasks that wait at both ends, with the reason."""
    for closer in (0, 1):
        async with offer_limited(open_pair, WireLimits(max_calls=4), sleep=sleep) as pair:
            woken: list[SpearError] = []
            async with trio.open_nursery() as nursery:
                for channel in pair:
                    await _start_waiters(nursery, channel, woken)
                await _start_messages(nursery, pair[0], woken)
                await trio.testing.wait_all_tasks_blocked(0.01)
                await pair[closer].aclose("we have had enough")
                await pair[1 - closer].closed.wait()
            assert len(woken) == 2 * 6 + 2
            for error in woken:
                assert isinstance(error, ChannelClosed), repr(error)
                assert "we have had enough" in str(error)
            for channel in pair:
                assert not channel.is_connected
                assert isinstance(channel.closed_by, ChannelClosed)
                found = channel.statistics()
                assert (found.calls_in_flight, found.callers_waiting) == (0, 0)
                for late in (partial(channel.request, "sleep"), partial(channel.send, b"")):
                    refusal = await caught(late)
                    assert isinstance(refusal, ChannelClosed)
                    assert refusal.delivered == "no"
                assert isinstance(await caught(_receive_all, channel), ChannelClosed)
                await channel.aclose()


async def _receive_all(channel: CommunicationChannel) -> None:
    """Receive messages that arrived before the channel closed, until ``receive`` raises."""
    while True:
        await channel.receive()


async def _start_waiters(
    nursery: trio.Nursery, channel: CommunicationChannel, woken: list[SpearError]
) -> None:
    """Start six tasks that wait on ``channel`` for calls and streams."""

    async def stream(use: Callable[[trio.Event], Awaitable[None]]) -> None:
        started = trio.Event()
        nursery.start_soon(_wait_for, woken, lambda: use(started))
        await started.wait()

    async def receive_items(started: trio.Event) -> None:
        async with channel.open_stream("sleep", timeout=inf) as found:
            started.set()
            await found.receive()

    async def send_items(started: trio.Event) -> None:
        async with channel.open_stream("sleep", sends_items=True) as found:
            started.set()
            while True:
                await found.send(bytes(100_000))

    async def wait_for_result(started: trio.Event) -> None:
        async with channel.open_stream("sleep") as found:
            started.set()
            await found.result()

    for use in (receive_items, send_items, wait_for_result):
        await stream(use)
    nursery.start_soon(_wait_for, woken, lambda: channel.request("sleep", timeout=inf))
    await wait_until(lambda: channel.statistics().calls_in_flight == 4)
    for _ in range(2):
        nursery.start_soon(_wait_for, woken, lambda: channel.request("sleep"))


async def _start_messages(
    nursery: trio.Nursery, channel: CommunicationChannel, woken: list[SpearError]
) -> None:
    """Start two tasks that wait on ``channel``: for a message, and for room to send one."""

    async def flood() -> None:
        while True:
            await channel.send(bytes(100_000))

    nursery.start_soon(_wait_for, woken, channel.receive)
    nursery.start_soon(_wait_for, woken, flood)


async def _wait_for(woken: list[SpearError], function: Callable[[], Awaitable[object]]) -> None:
    error = await caught(function)
    assert isinstance(error, SpearError)
    woken.append(error)


@case
async def drain(open_pair: OpenPair) -> None:
    """After one side drains, calls in flight finish, and both sides refuse new ones."""
    for drainer in (0, 1):
        gate = trio.Event()
        begun: list[InboundCall] = []

        async def wait(
            call: InboundCall, gate: trio.Event = gate, begun: list[InboundCall] = begun
        ) -> bytes:
            begun.append(call)
            await gate.wait()
            return b"finished"

        async def finish(channel: CommunicationChannel) -> None:
            assert (await channel.request("wait")).payload == b"finished"

        async with offer(open_pair, wait=wait) as pair:
            async with trio.open_nursery() as nursery:
                for channel in pair:
                    nursery.start_soon(finish, channel)
                # Wait for both handlers: a request that arrives after the drain began may be refused.
                await wait_until(lambda begun=begun: len(begun) == 2)  # type: ignore[misc]  # bound now
                nursery.start_soon(pair[drainer].drain, 10)
                await pair[1 - drainer].peer_draining.wait()
                for channel in pair:
                    error = await caught(channel.request, "wait")
                    assert isinstance(error, ChannelClosed)
                    assert error.delivered == "no"
                gate.set()
            await wait_idle(*pair)
