"""The conformance suite for channels: items in one or both directions, and one-way messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from spear._errors import CallCancelled, CallFailed, LocalProtocolError, SpearError
from spear._limits import DEFAULT_WIRE_LIMITS
from spear.channels import CommunicationChannel, InboundCall

from ._conformance import (
    REQUEST_SIZES,
    RESPONSE_SIZES,
    OpenPair,
    answers,
    case,
    caught,
    echo,
    items,
    offer,
    pattern,
    total,
    wait_idle,
    wait_until,
)
from ._services import Functions


@case
async def client_streaming(open_pair: OpenPair) -> None:
    """A stream of items to a function gets one answer."""
    async with offer(open_pair, total=total) as pair:
        for channel in pair:
            async with channel.open_stream("total", sends_items=True) as stream:
                for size in REQUEST_SIZES:
                    await stream.send(bytes(size))
                await stream.send_eof()
                assert (await stream.result()).payload == b"74922"


@case
async def server_streaming(open_pair: OpenPair) -> None:
    """Items that a function sends arrive unchanged and in order."""
    wanted = b" ".join(b"%d" % size for size in RESPONSE_SIZES)
    async with offer(open_pair, items=items) as pair:
        for channel in pair:
            async with channel.open_stream("items", wanted) as stream:
                received = [item async for item in stream]
                assert received == [pattern(size) for size in RESPONSE_SIZES]
                assert (await stream.result()).payload == b""
                assert stream.is_done


@case
async def ping_pong(open_pair: OpenPair) -> None:
    """Items go in both directions, each in answer to the one before."""
    async with offer(open_pair, answers=answers) as pair:
        for channel in pair:
            async with channel.open_stream("answers", sends_items=True) as stream:
                for given, wanted in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
                    await stream.send((b"%d\n" % wanted).ljust(given, b"."))
                    assert await stream.receive() == pattern(wanted)
                await stream.send_eof()
                assert (await stream.result()).payload == b"end"


@case
async def empty_stream(open_pair: OpenPair) -> None:
    """A stream may have no items in either direction, and an empty item is an item."""
    async with offer(open_pair, answers=answers, items=items) as (host, _):
        async with host.open_stream("answers", sends_items=True) as stream:
            await stream.send_eof()
            await stream.send_eof()
            assert [item async for item in stream] == []
            assert (await stream.result()).payload == b"end"
        async with host.open_stream("items", b"0 0 0") as stream:
            assert [item async for item in stream] == [b"", b"", b""]


@case
async def many_items(open_pair: OpenPair) -> None:
    """Small and large items, more than any window holds, all arrive in order."""
    sizes = [size for _ in range(40) for size in (1, 100, 9_000, 70_000, 0)] + [600_000, 2]

    async def repeat(call: InboundCall) -> bytes:
        async for item in call:
            await call.send(item)
        return b""

    async def feed() -> None:
        for size in sizes:
            await stream.send(pattern(size))
        await stream.send_eof()

    async with (
        offer(open_pair, repeat=repeat) as (host, agent),
        host.open_stream("repeat", sends_items=True) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(feed)
        received = [len(item) async for item in stream]
        assert received == sizes
        assert (await stream.result()).payload == b""
        await wait_idle(host, agent)


@case
async def cancel_after_first_response(open_pair: OpenPair) -> None:
    """Leaving a stream before its end cancels the function, and returns the stream's credit."""
    functions = Functions({"answers": answers, "items": items, "echo": echo})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        async with host.open_stream("answers", sends_items=True) as stream:
            await stream.send(b"31415\n")
            assert await stream.receive() == pattern(31_415)
        await wait_idle(host, agent)
        assert functions.running == 0
        assert isinstance(await caught(stream.receive), CallCancelled)
        # More than the windows hold, unless the credit of dropped items is returned.
        for _ in range(10):
            async with host.open_stream("items", b"200000 " * 10) as stream:
                assert len(await stream.receive()) == 200_000
        await wait_idle(host, agent)
        assert (await host.request("echo", b"alive")).payload == b"alive"


@case
async def slow_consumer(open_pair: OpenPair) -> None:
    """A consumer that takes no items blocks their sender, and no other call."""
    sent = 0

    async def pour(call: InboundCall) -> bytes:
        nonlocal sent
        for _ in range(1000):
            await call.send(bytes(10_000))
            sent += 1
        return b""

    async with (
        offer(open_pair, pour=pour, echo=echo) as (host, _),
        host.open_stream("pour") as stream,
    ):
        window = DEFAULT_WIRE_LIMITS.stream_window_bytes
        await wait_until(lambda: sent * 10_000 >= window - 20_000)
        for _ in range(20):
            assert (await host.request("echo", b"alive")).payload == b"alive"
        assert sent * 10_000 <= window + 10_000
        assert len([item async for item in stream]) == 1000


@case
async def wrong_use_of_streams(open_pair: OpenPair) -> None:
    """Misuse of a stream raises an exception at once, and harms no other call."""
    gate = trio.Event()

    async def wait(call: InboundCall) -> bytes:
        await gate.wait()
        return b""

    async with offer(open_pair, items=items, wait=wait, echo=echo, total=total) as (host, _):
        # a stream function that is called without a stream
        assert isinstance(await caught(host.request, "items", b"1 2 3"), CallFailed)
        async with host.open_stream("wait") as stream:
            # items for a stream that was opened without ``sends_items``
            assert isinstance(await caught(stream.send, b""), LocalProtocolError)
            # two tasks that receive at the same end
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(_expect_one_of, stream.receive)
                await trio.testing.wait_all_tasks_blocked()
                gate.set()
        async with host.open_stream("total", sends_items=True) as stream:
            await stream.send_eof()
            assert isinstance(await caught(stream.send, b"late"), SpearError)
            assert (await stream.result()).payload == b"0"
            assert isinstance(await caught(stream.send, b"later"), SpearError)
        assert (await host.request("echo", b"alive")).payload == b"alive"


async def _expect_one_of(receive: Callable[[], Awaitable[object]]) -> None:
    error = await caught(receive)
    assert isinstance(error, trio.BusyResourceError | trio.EndOfChannel)


# -- messages ---------------------------------------------------------------------------------------


@case
async def one_way_messages(open_pair: OpenPair) -> None:
    """Messages without an answer arrive in order, in both directions at once."""
    count = 300

    async def send(channel: CommunicationChannel, name: bytes) -> None:
        for number in range(count):
            await channel.send(name + b"%d" % number + bytes(number * 20))

    async def receive(channel: CommunicationChannel, name: bytes) -> None:
        for number in range(count):
            assert await channel.receive() == name + b"%d" % number + bytes(number * 20)

    async with open_pair() as (host, agent), trio.open_nursery() as nursery:
        nursery.start_soon(send, host, b"from host ")
        nursery.start_soon(send, agent, b"from agent ")
        nursery.start_soon(receive, agent, b"from host ")
        nursery.start_soon(receive, host, b"from agent ")
