"""A conformance suite for byte streams over any transport.

The suite is Trio's (``trio.testing.check_two_way_stream``), and further properties that channels rely on:
payloads of any size, any type of buffer, short reads, cancellation, backpressure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Final, TypeAlias

import trio
import trio.testing

from spear.channels import open_private_nursery

from ._conformance import HANG_SECONDS, pattern

StreamPair: TypeAlias = tuple[trio.abc.Stream, trio.abc.Stream]
OpenStreams: TypeAlias = Callable[[], AbstractAsyncContextManager[StreamPair]]
"""A function that opens two connected streams for a block: (the connecting end, the accepting end)."""

StreamCase: TypeAlias = Callable[[OpenStreams], Awaitable[None]]

STREAM_CASES: Final[dict[str, StreamCase]] = {}
"""All cases by name, for running them one by one."""

LARGE: Final = (1 << 20) + 7
"""Bytes of a large payload: more than a socket takes at once, and not a multiple of a buffer size."""

ENDLESS: Final = 64 << 20
"""Bytes of a payload that exceeds all buffers between the two ends."""


def _case(function: StreamCase) -> StreamCase:
    async def limited(open_streams: OpenStreams) -> None:
        with trio.fail_after(HANG_SECONDS):
            await function(open_streams)

    STREAM_CASES[function.__name__] = limited
    return limited


async def check_streams(open_streams: OpenStreams) -> None:
    """Run all of :data:`STREAM_CASES` with pairs that ``open_streams`` opens.

    Raises:
        AssertionError: the streams fail a case; a note on the exception names it.
        trio.TooSlowError: a case hangs.
    """
    for name, case in STREAM_CASES.items():
        try:
            await case(open_streams)
        except BaseException as error:
            error.add_note(f"in the case {name!r}")
            raise


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int, most: int = 65536) -> bytes:
    """Receive ``size`` bytes, at most ``most`` per read. Raises AssertionError if the stream ends."""
    received = bytearray()
    while len(received) < size:
        some = await stream.receive_some(min(most, size - len(received)))
        assert some, f"the stream ended after {len(received)} of {size} bytes"
        assert len(some) <= min(most, size - len(received)), (
            "receive_some() returned too many bytes"
        )
        received += some
    return bytes(received)


@_case
async def keeps_trios_contract(open_streams: OpenStreams) -> None:
    """The streams pass Trio's own suite; half-closeable streams pass the suite for those."""
    async with AsyncExitStack() as stack:

        async def make() -> StreamPair:
            return await stack.enter_async_context(open_streams())

        one, other = await make()
        if isinstance(one, trio.abc.HalfCloseableStream) and isinstance(
            other, trio.abc.HalfCloseableStream
        ):
            await trio.testing.check_half_closeable_stream(make, None)  # type: ignore[arg-type]  # as was looked
        else:
            await trio.testing.check_two_way_stream(make, None)


@_case
async def carries_any_size_in_both_directions_at_once(open_streams: OpenStreams) -> None:
    """Large payloads arrive whole and in order, although each side sends before it reads."""
    payload = pattern(LARGE)
    async with open_streams() as (one, other), open_private_nursery() as nursery:
        nursery.start_soon(one.send_all, payload)
        nursery.start_soon(other.send_all, payload[::-1])
        assert await receive_exactly(other, LARGE) == payload
        assert await receive_exactly(one, LARGE) == payload[::-1]


@_case
async def loses_nothing_in_short_reads(open_streams: OpenStreams) -> None:
    """Short reads of any size lose no bytes: the next reads return the rest."""
    payload = pattern(5000)
    async with open_streams() as (one, other):
        await one.send_all(payload)
        await one.send_all(payload)
        await one.aclose()  # ends the read of a stream that has lost bytes
        assert await receive_exactly(other, 100, most=1) == payload[:100]
        assert await receive_exactly(other, 9900, most=997) == payload[100:] + payload


@_case
async def takes_any_buffer_and_nothing(open_streams: OpenStreams) -> None:
    """``send_all`` takes bytes, bytearrays and views; an empty buffer does not end the stream."""
    async with open_streams() as (one, other):
        await one.send_all(b"")
        await one.send_all(bytearray(b"ab"))
        await one.send_all(memoryview(b""))
        await one.send_all(memoryview(b"xcdx")[1:3])
        assert await receive_exactly(other, 4) == b"abcd"


@_case
async def keeps_what_a_cancelled_read_would_have_read(open_streams: OpenStreams) -> None:
    """A cancelled ``receive_some`` takes no bytes from the stream."""
    async with open_streams() as (one, other):
        with trio.CancelScope() as scope:
            scope.cancel()
            await other.receive_some(1)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.receive_some, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await one.send_all(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await other.receive_some(1)
        await one.aclose()
        assert await receive_exactly(other, 4) == b"kept"


@_case
async def delivers_what_was_sent_before_the_end(open_streams: OpenStreams) -> None:
    """Bytes sent before the sender closed the stream still arrive."""
    async with open_streams() as (one, other):
        await one.send_all(b"the last words")
        await one.aclose()
        assert await receive_exactly(other, 14) == b"the last words"
        with suppress(trio.BrokenResourceError):
            assert await other.receive_some(1) == b""


@_case
async def goes_on_in_the_other_direction(open_streams: OpenStreams) -> None:
    """After ``send_eof`` the peer reads the end of the stream, and may go on sending."""
    async with open_streams() as (one, other):
        if not isinstance(one, trio.abc.HalfCloseableStream):
            return
        await one.send_all(b"question")
        await one.send_eof()
        assert await receive_exactly(other, 8) == b"question"
        assert await other.receive_some(1) == b""
        await other.send_all(b"answer")
        assert await receive_exactly(one, 6) == b"answer"


@_case
async def wakes_a_reader_when_it_is_closed(open_streams: OpenStreams) -> None:
    """A task that is blocked on the stream gets ``trio.ClosedResourceError``."""
    async with open_streams() as (one, _):
        raised: list[Exception] = []

        async def read() -> None:
            try:
                await one.receive_some(1)
            except trio.ClosedResourceError as error:
                raised.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(one)
        assert raised, "the blocked reader got no ClosedResourceError"
        await trio.aclose_forcefully(one)  # raises nothing


@_case
async def holds_a_sender_up_whose_peer_does_not_read(open_streams: OpenStreams) -> None:
    """A sender whose peer does not read blocks: all buffers between the two ends are bounded."""
    async with open_streams() as (one, _), open_private_nursery() as nursery:
        sent = trio.Event()

        async def send() -> None:
            await one.send_all(bytes(ENDLESS))
            sent.set()

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not sent.is_set(), f"send_all() returned before any of {ENDLESS} bytes was read"
