"""R4: cancelled at any step, every operation leaves its channel clean.

The first tests check the sweep itself, with operations that are known to leak.
"""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio

from spear import ChannelBroken, ChannelClosed, DeadlineExceeded, SpearError, WireLimits
from spear.channels import (
    CommunicationChannel,
    CommunicationFactory,
    ConnectionManager,
    Endpoint,
    connect_channel,
    open_communication_factory,
)
from spear.testing import Functions, Resources, cancel_sweep
from spear.transports import connect
from spear.wire import ITEM_OVERHEAD_BYTES

from .helpers import INSTANCE, MEMORY_STREAM, echo, open_in_memory, sleep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from spear.channels import InboundCall
    from spear.testing import OpenPair

    from .helpers import Carrier

pytestmark = pytest.mark.slow

Pair: TypeAlias = tuple[CommunicationChannel, CommunicationChannel]
Open: TypeAlias = "Callable[[], AbstractAsyncContextManager[Pair]]"

# Small limits, so that large payloads, and more items than a window holds, take few steps.
LIMITS = WireLimits(
    fragment_bytes=32 * 1024, stream_window_bytes=32 * 1024, connection_window_bytes=64 * 1024
)
LARGE = bytes(150_000)


# -- the sweep --------------------------------------------------------------------------------------


class Desk:
    """A queue of waiting tasks, with a careful and a careless way of waiting."""

    def __init__(self) -> None:
        self.waiting: list[trio.Event] = []

    async def wait_careless(self) -> None:
        event = trio.Event()
        self.waiting.append(event)
        await event.wait()
        self.waiting.remove(event)

    async def wait_careful(self) -> None:
        event = trio.Event()
        self.waiting.append(event)
        try:
            await event.wait()
        finally:
            self.waiting.remove(event)

    async def serve(self) -> None:
        while True:
            await trio.sleep(0.001)
            for event in self.waiting:
                event.set()


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.serve)
        yield desk
        nursery.cancel_scope.cancel()


async def nobody_waits(desk: Desk) -> None:
    assert not desk.waiting


async def test_r4_a_sweep_finds_the_waiter_that_is_left_behind() -> None:
    @asynccontextmanager
    async def open_desk_without_server() -> AsyncIterator[Desk]:
        yield Desk()

    with pytest.raises(AssertionError, match="the operation did not end within"):
        await cancel_sweep(open_desk_without_server, Desk.wait_careful, hang_seconds=0.01)


async def test_r4_a_sweep_of_a_careful_operation_comes_to_its_end() -> None:
    async def two_steps(_: None) -> None:
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    nothing: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    sweep = await cancel_sweep(nothing, two_steps)
    assert sweep.runs >= 4  # uncancelled, before each of two steps, after the last one
    assert sweep.survived <= sweep.runs
    with pytest.raises(AssertionError, match="the operation was still cancelled in run 3"):
        await cancel_sweep(nothing, two_steps, max_runs=3)


async def test_r4_a_sweep_counts_the_steps_of_other_tasks() -> None:
    """The operation only waits: it takes one step itself, and is cancelled at each of many steps."""
    cancelled = 0

    async def check(seen: list[int]) -> None:
        nonlocal cancelled
        cancelled += seen[0] != 3

    @asynccontextmanager
    async def open_steps() -> AsyncIterator[list[int]]:
        yield [0]

    async def wait(steps: list[int]) -> None:
        async def work() -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                steps[0] += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)

    await cancel_sweep(open_steps, wait, check)
    assert cancelled >= 3


async def test_r4_a_sweep_finds_tasks_and_descriptors() -> None:
    async with trio.open_nursery() as outer:

        async def leak_a_task(_: None) -> None:
            await trio.lowlevel.checkpoint()
            outer.start_soon(trio.sleep_forever)

        nothing: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        with pytest.raises(AssertionError, match=r"before: .*after: ") as caught:
            await cancel_sweep(nothing, leak_a_task)
        assert "sleep_forever" in str(caught.value)
        outer.cancel_scope.cancel()


@pytest.mark.slow
async def test_r4_a_sweep_waits_for_what_was_left_to_a_thread() -> None:
    """A name resolution, for example, keeps files open in its thread, which is no leak of its caller."""
    nothing: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    may_end = threading.Event()

    def look_up(has_begun: trio.Event, token: trio.lowlevel.TrioToken) -> None:
        with open(os.devnull):
            token.run_sync_soon(has_begun.set)
            may_end.wait()

    async def resolve(_: None) -> None:
        may_end.clear()
        has_begun, token = trio.Event(), trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(trio.to_thread.run_sync, look_up, has_begun, token, abandon_on_cancel=True)
            )
            await has_begun.wait()
            await trio.lowlevel.checkpoint()
            may_end.set()

    async def end_soon(_: None) -> None:
        may_end.set()

    try:
        assert (await cancel_sweep(nothing, resolve, end_soon)).runs > 3
        with pytest.raises(AssertionError, match="work in a thread did not end within"):
            await cancel_sweep(nothing, resolve, hang_seconds=1)
    finally:
        may_end.set()


async def test_r4_a_sweep_says_at_which_step_it_failed() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await cancel_sweep(open_desk, Desk.wait_careless, nobody_waits)
    assert caught.group_contains(AssertionError)
    assert "cancelled at step" in "".join(_notes(caught.value))
    assert (await cancel_sweep(open_desk, Desk.wait_careful, nobody_waits)).runs > 3


def _notes(error: BaseException) -> list[str]:
    notes = list(getattr(error, "__notes__", []))
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            notes += _notes(each)
    return notes


# -- channels over three kinds of pipe -------------------------------------------------------------


@pytest.fixture(params=["unix", pytest.param("memory_stream", marks=pytest.mark.soak), "in_memory"])
def open_pair(request: pytest.FixtureRequest) -> OpenPair:
    if request.param == "in_memory":
        return open_in_memory
    found: Carrier = request.getfixturevalue(request.param)
    return found.open_pair


# -- calls ------------------------------------------------------------------------------------------


async def count(call: InboundCall) -> bytes:
    """Send three items, and return the number of items received."""
    received = 0
    async for _ in call:
        received += 1
    for _ in range(3):
        await call.send(b"an item")
    return b"%d" % received


async def pour(call: InboundCall) -> bytes:
    """Send more than any window holds."""
    for _ in range(6):
        await call.send(bytes(20_000))
    return b""


def offering(open_pair: OpenPair, limits: WireLimits | None = None) -> Open:
    functions = Functions({"echo": echo, "sleep": sleep, "count": count, "pour": pour})
    return partial(
        open_pair,
        host_service=functions,
        agent_service=functions,
        functions=functions.names,
        limits=limits or LIMITS,
    )


async def expect_clean(pair: Pair) -> None:
    """Assert that no task waits, no slot or credit is held, and the next call works."""
    for caller in pair:
        assert (await caller.request("echo", b"fresh", timeout=5)).payload == b"fresh"
    for channel in pair:
        await _until_idle(channel)
        connection = channel.connection
        assert list(connection.calls.values()) == [connection.messages]
        assert not connection.incomplete
        assert (connection.outbound_open, connection.inbound_open) == (0, 0)
        assert connection.request_bytes == 0
        assert not channel.outlet.waiters
        found = channel.statistics()
        assert (found.callers_waiting, found.unsent_bytes, found.buffered_bytes) == (0, 0, 0)
        window = connection.windows.receive
        assert window.available + window.consumed + unread(channel) == window.size
        assert connection.windows.send.available * 2 >= connection.windows.send.size


def unread(channel: CommunicationChannel) -> int:
    """Return the credit of one-way messages that was not given back yet."""
    queue = channel._queue
    if queue is None:
        return 0
    return queue._cost + sum(len(item) + ITEM_OVERHEAD_BYTES for item, _ in queue._items)


async def _until_idle(channel: CommunicationChannel) -> None:
    while channel.connection.inbound_open or channel.connection.outbound_open:
        await trio.sleep(0.001)


async def expect_clean_or_closed(pair: Pair) -> None:
    """Assert that the channel is clean, or that both ends are closed and say so."""
    if all(channel.is_connected for channel in pair):
        await expect_clean(pair)
        return
    for channel in pair:
        with pytest.raises(SpearError) as caught:
            await channel.request("echo", timeout=5)
        assert isinstance(caught.value, ChannelClosed | ChannelBroken)
        assert caught.value.delivered == "no"
        assert channel.connection.outbound_open == channel.connection.inbound_open == 0


async def test_r4_request(open_pair: OpenPair) -> None:
    await cancel_sweep(
        offering(open_pair), lambda pair: pair[0].request("echo", b"some"), expect_clean
    )


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_r4_request_over_tcp(transport: str, request: pytest.FixtureRequest) -> None:
    carrier: Carrier = request.getfixturevalue(transport)
    await cancel_sweep(
        offering(carrier.open_pair), lambda pair: pair[0].request("echo", b"some"), expect_clean
    )


async def test_r4_request_from_the_agent(open_pair: OpenPair) -> None:
    await cancel_sweep(
        offering(open_pair),
        lambda pair: pair[1].request("echo", b"some", metadata={"a": 1}),
        expect_clean,
    )


async def test_r4_large_request(open_pair: OpenPair) -> None:
    await cancel_sweep(
        offering(open_pair), lambda pair: pair[0].request("echo", LARGE), expect_clean
    )


async def test_r4_request_that_waits_for_a_slot(open_pair: OpenPair) -> None:
    async def third(pair: Pair) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pair[0].request, "echo", b"one of three")

    await cancel_sweep(offering(open_pair, WireLimits(max_calls=1)), third, expect_clean)


async def test_r4_request_that_runs_out_of_time(open_pair: OpenPair) -> None:
    async def call(pair: Pair) -> None:
        with pytest.raises(DeadlineExceeded):
            await pair[0].request("sleep", timeout=0.002)

    await cancel_sweep(offering(open_pair), call, expect_clean)


# -- streams ----------------------------------------------------------------------------------------


async def test_r4_streams_both_ways(open_pair: OpenPair) -> None:
    async def talk(pair: Pair) -> None:
        async with pair[0].open_stream("count", sends_items=True) as stream:
            for _ in range(2):
                await stream.send(b"an item")
            await stream.send_eof()
            assert len([item async for item in stream]) == 3
            assert (await stream.result()).payload == b"2"

    await cancel_sweep(offering(open_pair), talk, expect_clean)


@pytest.mark.parametrize("side", [0, 1])
async def test_r4_stream_that_waits_for_credit(open_pair: OpenPair, side: int) -> None:
    async def take(pair: Pair) -> None:
        async with pair[side].open_stream("pour") as stream:
            assert len([item async for item in stream]) == 6

    await cancel_sweep(offering(open_pair), take, expect_clean)


async def test_r4_large_item(open_pair: OpenPair) -> None:
    async def talk(pair: Pair) -> None:
        async with pair[0].open_stream("count", sends_items=True) as stream:
            await stream.send(LARGE)
            await stream.send(b"another")
            await stream.send_eof()
            await stream.result()

    await cancel_sweep(offering(open_pair), talk, expect_clean)


async def test_r4_send_a_message(open_pair: OpenPair) -> None:
    """Cancelled or not, the message arrives at most once, and the next one arrives, too."""

    async def check(pair: Pair) -> None:
        await pair[0].send(b"last")
        messages = []
        while (message := await pair[1].receive()) != b"last":
            messages.append(message)
        assert messages in ([], [b"one"])
        await expect_clean(pair)

    await cancel_sweep(offering(open_pair), lambda pair: pair[0].send(b"one"), check)


async def test_r4_receive_a_message(open_pair: OpenPair) -> None:
    """No message is lost at whatever step receive() is cancelled."""
    taken: list[bytes] = []

    @asynccontextmanager
    async def open_with_message() -> AsyncIterator[Pair]:
        taken.clear()
        async with offering(open_pair)() as pair:
            await pair[0].send(b"one")
            await pair[0].send(b"two")
            yield pair

    async def receive(pair: Pair) -> None:
        taken.append(await pair[1].receive())

    async def check(pair: Pair) -> None:
        while len(taken) < 2:
            await receive(pair)
        assert taken == [b"one", b"two"]
        await expect_clean(pair)

    await cancel_sweep(open_with_message, receive, check)


# -- opening and closing ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
async def test_r4_aclose(open_pair: OpenPair, side: int) -> None:
    """The channel is closed even if aclose() is cancelled."""

    async def check(pair: Pair) -> None:
        if pair[side].closed.is_set():
            await pair[1 - side].closed.wait()
        await expect_clean_or_closed(pair)

    await cancel_sweep(offering(open_pair), lambda pair: pair[side].aclose(), check)


@pytest.mark.parametrize("side", [0, 1])
async def test_r4_drain(open_pair: OpenPair, side: int) -> None:
    async def drain(pair: Pair) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair[1 - side].request, "echo", b"meanwhile")
            await trio.lowlevel.checkpoint()
            nursery.start_soon(pair[side].drain, 5)

    async def check(pair: Pair) -> None:
        await _until_idle(pair[side])
        await _until_idle(pair[1 - side])
        if not pair[side].is_connected:
            await pair[1 - side].peer_draining.wait()
        await expect_clean_or_closed(pair)

    def forgiving(pair: Pair) -> Awaitable[None]:
        return _ignoring_refusal(lambda: drain(pair))

    await cancel_sweep(offering(open_pair), forgiving, check)


async def _ignoring_refusal(function: Callable[[], Awaitable[None]]) -> None:
    """Call a function; ignore the refusal of a call whose peer is already shutting down."""
    try:
        await function()
    except* SpearError:
        pass


@pytest.mark.parametrize("transport", ["unix", "memory_stream", "tls"])
async def test_r4_connect_channel(transport: str, request: pytest.FixtureRequest) -> None:
    """connect_channel owns the stream from the start, and the login can be repeated."""
    carrier = request.getfixturevalue(transport)
    functions = Functions({"echo": echo})

    async def log_in(subject: tuple[ConnectionManager, Endpoint]) -> None:
        _, endpoint = subject
        stream = await carrier.connect(endpoint.address)
        async with connect_channel(
            stream, INSTANCE, endpoint.secret, service=functions, functions=functions.names
        ) as (_, login):
            sessions.append(login.session)

    sessions: list[object] = []
    await cancel_sweep(partial(carrier.open_host, limits=WireLimits(handshake_seconds=5)), log_in)
    assert len(sessions) > 3


@asynccontextmanager
async def open_factory_with_agents() -> AsyncIterator[CommunicationFactory]:
    """Open a factory, and a process that logs in as each instance of the factory."""
    functions = Functions({"echo": echo})

    async def agent() -> None:
        while True:
            for endpoint in factory.manager.endpoints:
                if endpoint.channel is None:
                    try:
                        async with (
                            connect(endpoint.address) as stream,
                            connect_channel(
                                stream,
                                INSTANCE,
                                endpoint.secret,
                                service=functions,
                                functions=functions.names,
                            ) as (channel, _),
                        ):
                            await channel.closed.wait()
                    except SpearError:
                        pass  # the endpoint was closed again
            await trio.sleep(0.001)

    async with open_communication_factory() as factory, trio.open_nursery() as nursery:
        nursery.start_soon(agent)
        yield factory
        nursery.cancel_scope.cancel()


async def expect_usable_factory(factory: CommunicationFactory) -> None:
    channel = await factory.get_or_create(INSTANCE)
    assert (await channel.request("echo", b"fresh")).payload == b"fresh"
    await factory.close_all()
    assert factory.active_instances == ()
    assert factory.manager.endpoints == ()


async def test_r4_get_or_create() -> None:
    await cancel_sweep(
        open_factory_with_agents,
        lambda factory: factory.get_or_create(INSTANCE),
        expect_usable_factory,
    )


async def test_r4_open_endpoint() -> None:
    async def use(factory: CommunicationFactory) -> None:
        async with factory.open_endpoint(INSTANCE) as endpoint:
            channel = await endpoint.wait_connected()
            await channel.request("echo")

    await cancel_sweep(open_factory_with_agents, use, expect_usable_factory)


async def test_r4_close_all() -> None:
    async def use(factory: CommunicationFactory) -> None:
        await factory.get_or_create(INSTANCE)
        await factory.close_all()

    await cancel_sweep(open_factory_with_agents, use, expect_usable_factory)


async def test_r4_the_sweeps_would_see_a_leak() -> None:
    """The numbers that the checks above look at do change while a call runs."""
    async with offering(open_in_memory)() as pair, trio.open_nursery() as nursery:
        idle = Resources.count()
        nursery.start_soon(pair[0].request, "sleep")
        await trio.testing.wait_all_tasks_blocked()
        assert len(Resources.count().tasks) > len(idle.tasks)
        assert pair[0].connection.outbound_open == 1
        before = Resources.count().descriptors
        async with MEMORY_STREAM.open_host():
            assert Resources.count().descriptors == before
        nursery.cancel_scope.cancel()
