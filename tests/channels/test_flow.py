"""Backpressure instead of loss (R19), and no head-of-line blocking (R20)."""

from __future__ import annotations

import gc
import tracemalloc
from functools import partial
from itertools import chain
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import pytest
import trio

from spear import CallCancelled, ChannelClosed, LocalProtocolError, WireLimits
from spear.channels import CallStream, CommunicationChannel
from spear.testing import Functions
from spear.wire import ITEM_OVERHEAD_BYTES, FrameType

from .helpers import MEMORY_STREAM, echo, open_in_memory, park, sleep

if TYPE_CHECKING:
    from trio.testing import MockClock

    from spear.channels import InboundCall
    from spear.testing import OpenPair

    from .helpers import Carrier

KIB = 1024
MIB = 1024 * KIB
LIMITS = WireLimits()


def windows_are_whole(*channels: CommunicationChannel) -> bool:
    """Return whether all credit is spendable, or about to be given back."""
    one, other = channels
    return all(
        sender.connection.windows.send.available + receiver.connection.windows.receive.consumed
        == sender.connection.windows.send.size
        for sender, receiver in ((one, other), (other, one))
    )


# -- R19 --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("direction", ["to the caller", "to the function"])
async def test_r19_64_mib_through_a_slow_consumer(
    direction: str, autojump_clock: MockClock
) -> None:
    await pass_through_a_slow_consumer(direction, 1024)


@pytest.mark.soak
@pytest.mark.parametrize("direction", ["to the caller", "to the function"])
async def test_r19_a_gibibyte_through_a_slow_consumer(
    direction: str, autojump_clock: MockClock
) -> None:
    await pass_through_a_slow_consumer(direction, 16 * 1024)


async def pass_through_a_slow_consumer(direction: str, count: int) -> None:
    """1 MiB per second in virtual time: the sender is blocked, memory stays flat, no credit is lost."""
    item = bytes(64 * KIB)
    sent = taken = 0
    furthest = 0

    async def push(stream: CallStream | InboundCall) -> None:
        nonlocal sent
        for _ in range(count):
            await stream.send(item)
            sent += 1

    async def pull(stream: CallStream | InboundCall) -> None:
        nonlocal taken, furthest
        async for received in stream:
            assert received == item
            taken += 1
            furthest = max(furthest, sent - taken)
            await trio.sleep(1 / 16)

    async def give(call: InboundCall) -> bytes:
        await push(call)
        return b""

    async def take(call: InboundCall) -> bytes:
        await pull(call)
        return b""

    functions = Functions({"give": give, "take": take, "echo": echo})
    async with MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names) as (
        host,
        agent,
    ):
        await host.request("echo", item)  # creates objects that are kept, before memory is measured
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            if direction == "to the caller":
                async with host.open_stream("give", timeout=count) as stream:
                    await pull(stream)
            else:
                async with host.open_stream("take", sends_items=True, timeout=count) as stream:
                    await push(stream)
                    await stream.send_eof()
                    await stream.result()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (sent, taken) == (count, count)
        assert trio.current_time() >= count / 16 - 1
        # One window is in flight or unread, and one item more.
        assert furthest * 64 * KIB <= LIMITS.stream_window_bytes + 2 * len(item)
        assert peak - before <= 8 * MIB
        await park()
        assert windows_are_whole(host, agent)
        assert host.is_connected


async def test_r19_a_connection_window_is_shared_and_comes_back(open_pair: OpenPair) -> None:
    """Unread streams use the window up; reading or leaving them gives it back."""

    async def pour(call: InboundCall) -> bytes:
        for _ in range(5):
            await call.send(bytes(60_000))
        return b""

    functions = Functions({"pour": pour, "echo": echo})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        async with trio.open_nursery() as nursery:
            opened: list[CallStream] = []

            async def hold() -> None:
                async with host.open_stream("pour") as stream:
                    opened.append(stream)
                    await trio.sleep_forever()

            for _ in range(6):
                nursery.start_soon(hold)
            while agent.connection.windows.send.available > 0:
                await trio.sleep(0.001)
            assert (await host.request("echo", b"alive")).payload == b"alive"
            nursery.cancel_scope.cancel()
        while host.connection.outbound_open or agent.connection.inbound_open:
            await trio.sleep(0.001)
        async with host.open_stream("pour") as stream:
            assert len([item async for item in stream]) == 5
        while not windows_are_whole(host, agent):
            await trio.sleep(0.001)


async def test_r19_an_item_larger_than_the_window_passes(open_pair: OpenPair) -> None:
    sizes = [3 * MIB, 10, 2 * MIB]

    async def give(call: InboundCall) -> bytes:
        for size in sizes:
            await call.send(bytes(size))
        return b""

    functions = Functions({"give": give})
    async with (
        open_pair(agent_service=functions, functions=functions.names) as (host, agent),
        host.open_stream("give") as stream,
    ):
        assert [len(item) async for item in stream] == sizes
        while not windows_are_whole(host, agent):
            await trio.sleep(0.001)


async def test_r19_messages_that_nobody_takes_stop_their_sender(open_pair: OpenPair) -> None:
    async with open_pair() as (host, agent):
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await host.send(bytes(1000))
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            while not host.outlet.waiters:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        window = LIMITS.stream_window_bytes
        assert window // (1000 + ITEM_OVERHEAD_BYTES) <= sent <= window // 1000 + 1
        for _ in range(sent):
            assert len(await agent.receive()) == 1000
        await host.send(b"again")
        assert await agent.receive() == b"again"


async def test_r19_a_function_that_ends_before_its_caller_frees_the_caller() -> None:
    """The caller waits for credit that never comes; the end of the stream wakes it."""

    async def leave(call: InboundCall) -> bytes:
        await gate.wait()
        return b"enough"

    for make in (open_in_memory, MEMORY_STREAM.open_pair):
        gate = trio.Event()
        functions = Functions({"leave": leave})
        async with (
            make(agent_service=functions, functions=functions.names) as (host, agent),
            host.open_stream("leave", sends_items=True) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_push_until_the_end, stream)
            await park()
            assert len(host.outlet.waiters) == 1
            gate.set()
            assert (await stream.result()).payload == b"enough"
        await park()
        assert not host.outlet.waiters
        assert windows_are_whole(host, agent)


async def test_a_stream_that_was_left_does_not_look_complete() -> None:
    """Unread items of the stream are dropped, so iteration must not end as if it were complete."""

    async def send_one(call: InboundCall) -> bytes:
        await call.send(b"one")
        return b""

    functions = Functions({"send_one": send_one})
    for make in (open_in_memory, MEMORY_STREAM.open_pair):
        async with make(agent_service=functions, functions=functions.names) as (host, agent):
            async with host.open_stream("send_one") as stream:
                await stream.result()
            with pytest.raises(CallCancelled, match="closed before its end"):
                await stream.receive()
            assert windows_are_whole(host, agent)


async def _push_until_the_end(stream: CallStream) -> None:
    with pytest.raises(LocalProtocolError, match="cannot send an item"):
        await _push(stream)


async def _push(stream: CallStream) -> None:
    while True:
        await stream.send(bytes(50_000))


async def test_r19_credit_waiters_can_be_cancelled() -> None:
    async def send_messages() -> None:
        while True:
            await host.send(bytes(50_000))

    functions = Functions({"sleep": sleep})
    async with open_in_memory(agent_service=functions, functions=functions.names) as (host, _):
        async with host.open_stream("sleep", sends_items=True) as stream:
            for push in (partial(_push, stream), send_messages):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(push)
                    await park()
                    assert len(host.outlet.waiters) == 1
                    nursery.cancel_scope.cancel()
                assert not host.outlet.waiters
        await host.aclose()
        with pytest.raises(ChannelClosed):
            await host.send(b"")


# -- R20 --------------------------------------------------------------------------------------------


async def count_passes(task_status: trio.TaskStatus[list[int]]) -> None:
    """Count the passes of the scheduler, in a list of one number."""
    passes = [0]
    task_status.started(passes)
    while True:
        await trio.lowlevel.checkpoint()
        passes[0] += 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory_stream", "in_memory"])
async def test_r20_a_stalled_call_costs_the_others_no_pass_of_the_scheduler(kind: str) -> None:
    """A thousand small calls beside a stream without credit take as many passes as a thousand alone."""

    async def pour(call: InboundCall) -> bytes:
        while True:
            await call.send(bytes(10_000))

    open_pair = open_in_memory if kind == "in_memory" else MEMORY_STREAM.open_pair
    functions = Functions({"pour": pour, "echo": echo})
    async with (
        open_pair(agent_service=functions, functions=functions.names) as (host, agent),
        trio.open_nursery() as nursery,
    ):
        passes: list[int] = await nursery.start(count_passes)

        async def measure() -> list[int]:
            took = []
            for _ in range(1000):
                before = passes[0]
                await host.request("echo", b"x" * 100)
                took.append(passes[0] - before)
            return sorted(took)

        alone = await measure()
        async with host.open_stream("pour", timeout=60):
            await measure()  # until the items within the window have been sent
            assert agent.outlet.waiters
            stalled = await measure()
        assert stalled[989] <= 1.2 * alone[989]
        assert stalled[-1] <= alone[-1] + 2
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_r20_a_stalled_call_does_not_slow_the_others_down(unix: Carrier) -> None:
    """The slowest tenth of the calls is compared, in real time, with a margin for a busy machine.

    If other processes interrupt this one for milliseconds, the slowest hundredth are the interrupted
    calls, and their number is chance.
    """
    rounds = await time_beside_a_stall(unix, rounds=10, calls=100)
    alone, beside = (sorted(chain(*each)) for each in zip(*rounds, strict=True))
    assert beside[899] <= 3 * alone[899] + 0.002


@pytest.mark.soak
async def test_r20_a_stalled_call_costs_the_others_a_fifth_at_most(unix: Carrier) -> None:
    """The slowest hundredth of the calls is compared, as a median of many rounds of a thousand calls."""
    rounds = await time_beside_a_stall(unix, rounds=40, calls=1000)
    assert median(beside[989] / alone[989] for alone, beside in rounds) <= 1.2


async def time_beside_a_stall(
    carrier: Carrier, rounds: int, calls: int
) -> list[tuple[list[float], list[float]]]:
    """Return the sorted durations of small calls: alone, and beside a stream without credit, by turns."""

    async def pour(call: InboundCall) -> bytes:
        while True:
            await call.send(bytes(10_000))

    functions = Functions({"pour": pour, "echo": echo})
    async with carrier.open_pair(agent_service=functions, functions=functions.names) as (
        host,
        agent,
    ):

        async def measure() -> list[float]:
            took = []
            for _ in range(calls):
                started = perf_counter()
                await host.request("echo", b"x" * 100)
                took.append(perf_counter() - started)
            return sorted(took)

        found = []
        for _ in range(rounds):
            alone = await measure()
            async with host.open_stream("pour", timeout=60):
                while not agent.outlet.waiters:
                    await trio.sleep(0.001)
                found.append((alone, await measure()))
        return found


@pytest.mark.parametrize("size", [8 * MIB, 31 * MIB])
async def test_r20_what_is_small_waits_for_two_fragments_at_most(size: int) -> None:
    """At most two fragments of a large body are in front of a small one, counted in bytes received."""
    async with MEMORY_STREAM.open_raw() as (channel, peer), trio.open_nursery() as nursery:
        nursery.start_soon(channel.request, "f", bytes(size))
        bulk = 0
        waits: list[int] = []
        asked_at: int | None = None
        while bulk < size:
            if asked_at is None and bulk < size // 2:
                nursery.start_soon(partial(channel.request, "f", b"small"))
                await peer.send(FrameType.HEALTH_CHECK, a=1)
                asked_at, missing = bulk, 2
            frame = await peer.receive()
            if frame[0] == FrameType.HEALTH_RESPONSE or frame[6] == b"small":
                missing -= 1
                if not missing:
                    assert asked_at is not None
                    waits.append(bulk - asked_at)
                    asked_at = None
            else:
                bulk = channel._pipe.bytes_sent  # approximately the bytes written so far
            if frame[0] == FrameType.EXECUTION_REQUEST and len(frame[6]) == size:
                break
        nursery.cancel_scope.cancel()
    assert waits
    assert max(waits) <= 2 * LIMITS.fragment_bytes + 1 * MIB


async def test_r20_large_bodies_take_turns(open_pair: OpenPair) -> None:
    """A shorter body is not behind a longer one that began before it."""
    order: list[int] = []

    async def call(size: int) -> None:
        await host.request("measure", bytes(size), timeout=30)
        order.append(size)

    async def measure(call: InboundCall) -> bytes:
        return b"%d" % len(call.payload)

    functions = Functions({"measure": measure})
    limits = WireLimits(assembly_bytes=64 * MIB)
    async with open_pair(agent_service=functions, functions=functions.names, limits=limits) as (
        host,
        _,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 24 * MIB)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(call, 3 * MIB)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(call, 100)
        # Payloads in memory are not cut into fragments, so they do not take turns.
        assert order == sorted(order) or host._pipe.receiver is None
