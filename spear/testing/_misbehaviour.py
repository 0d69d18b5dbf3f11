"""The conformance suite for channels: peers that misbehave, and how a host must react.

The cases are adapted from gRPC's "negative" interoperability tests. Each case plays the instance by hand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias

import trio

from spear._errors import ChannelBroken, ChannelClosed
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits
from spear.channels import CommunicationChannel, ExecutionResponse, Service
from spear.wire import FrameType

from ._conformance import HANG_SECONDS, caught, pattern, wait_until
from ._raw import FRAGMENT, MORE, RawPeer

UNKNOWN_TYPE: Final = 0x55
UNKNOWN_MANDATORY_TYPE: Final = 0xD5


class OpenRaw(Protocol):
    """A function that opens a host's channel, and the instance at its other end."""

    def __call__(
        self,
        *,
        service: Service | None = None,
        limits: WireLimits = DEFAULT_WIRE_LIMITS,
        peer_limits: WireLimits = DEFAULT_WIRE_LIMITS,
        functions: Sequence[str] = ("f",),
    ) -> AbstractAsyncContextManager[tuple[CommunicationChannel, RawPeer]]:
        """Open the channel and the instance, logged in and its functions announced."""


PeerCase: TypeAlias = Callable[[OpenRaw], Awaitable[None]]

PEER_CASES: Final[dict[str, PeerCase]] = {}
"""All cases by name, for running them one by one."""


async def check_channel_with_bad_peers(open_raw: OpenRaw) -> None:
    """Run all of :data:`PEER_CASES` against channels whose peers break the protocol.

    Raises:
        AssertionError: the channel fails a case; a note on the exception names it.
        trio.TooSlowError: a case hangs.
    """
    for name, case in PEER_CASES.items():
        try:
            await case(open_raw)
        except BaseException as error:
            error.add_note(f"in the case {name!r}")
            raise


def _case(function: PeerCase) -> PeerCase:
    async def limited(open_raw: OpenRaw) -> None:
        with trio.fail_after(HANG_SECONDS):
            await function(open_raw)

    PEER_CASES[function.__name__] = limited
    return limited


class _Calls:
    """Calls that a case starts in a nursery, and their outcomes by number."""

    def __init__(self, nursery: trio.Nursery, channel: CommunicationChannel) -> None:
        self._nursery = nursery
        self._channel = channel
        self.results: dict[int, ExecutionResponse | Exception] = {}

    async def start(self, peer: RawPeer) -> int:
        """Begin a call, wait until the peer has received it, and return its id."""
        number = len(self.results)
        self._nursery.start_soon(self._call, number)
        call_id = (await peer.receive(FrameType.EXECUTION_REQUEST))[2]
        assert call_id % 2 == 1  # the id of a host's call
        return call_id

    async def _call(self, number: int) -> None:
        try:
            self.results[number] = await self._channel.request("f")
        except Exception as error:
            self.results[number] = error

    async def wait(self, count: int) -> list[ExecutionResponse | Exception]:
        """Wait until ``count`` calls have ended, and return their outcomes in order of their start."""
        await wait_until(lambda: len(self.results) == count)
        return [result for _, result in sorted(self.results.items())]


async def _answer(peer: RawPeer, call_id: int, payload: bytes = b"") -> None:
    await peer.send(FrameType.EXECUTION_RESPONSE, call_id=call_id, payload=payload)


@_case
async def goaway(open_raw: OpenRaw) -> None:
    """After the peer's CLOSE, calls up to ``last`` may finish; later calls fail, new ones are refused."""
    async with open_raw() as (channel, peer), trio.open_nursery() as nursery:
        calls = [_Calls(nursery, channel) for _ in range(3)]
        ids = [await each.start(peer) for each in calls]
        reason = "main\x1b[2Jtenance"  # an escape sequence, which must not reach a terminal
        await peer.send(FrameType.CLOSE, head={"reason": reason, "last": ids[1]})
        await channel.peer_draining.wait()
        assert not channel.is_connected
        refused = await caught(channel.request, "f")
        assert isinstance(refused, ChannelClosed)
        assert refused.delivered == "no"
        assert str(refused).endswith("main[2Jtenance")
        await _answer(peer, ids[0], b"done")
        (first,) = await calls[0].wait(1)
        assert isinstance(first, ExecutionResponse)
        assert first.payload == b"done"
        assert not channel.closed.is_set()
        await peer.reset()
        for each, delivered in zip(calls[1:], ("maybe", "no"), strict=True):
            (lost,) = await each.wait(1)
            assert isinstance(lost, ChannelClosed)
            assert lost.delivered == delivered
            assert "main[2Jtenance" in str(lost)


@_case
async def rst_after_header(open_raw: OpenRaw) -> None:
    """A call fails when the connection is reset after the first fragment of its answer."""
    async with open_raw() as (channel, peer), trio.open_nursery() as nursery:
        calls = _Calls(nursery, channel)
        await _send_parts(peer, await calls.start(peer), parts=1)
        await _reset_when_read(channel, peer)
        (lost,) = await calls.wait(1)
        assert isinstance(lost, ChannelBroken)
        assert lost.delivered == "maybe"
        await _expect_broken(channel)


@_case
async def rst_during_data(open_raw: OpenRaw) -> None:
    """A call fails when the connection is reset after four fragments, in the middle of a frame."""
    async with open_raw() as (channel, peer), trio.open_nursery() as nursery:
        calls = _Calls(nursery, channel)
        call_id = await calls.start(peer)
        await _send_parts(peer, call_id, parts=4)
        part = peer.encode(
            FrameType.BODY, flags=FRAGMENT | MORE, call_id=call_id, payload=bytes(50_000)
        )
        await peer.stream.send_all(part[:-20_000])
        await _reset_when_read(channel, peer)
        (lost,) = await calls.wait(1)
        assert isinstance(lost, ChannelBroken)
        assert lost.delivered == "maybe"
        await _expect_broken(channel)
        assert channel.statistics().calls_in_flight == 0


@_case
async def rst_after_data(open_raw: OpenRaw) -> None:
    """A call whose whole answer arrived before the reset succeeds; the next call is not delivered."""
    async with open_raw() as (channel, peer), trio.open_nursery() as nursery:
        calls = _Calls(nursery, channel)
        call_id = await calls.start(peer)
        await _send_parts(peer, call_id, parts=19)
        last = FrameType.BODY
        await peer.send(last, flags=FRAGMENT, call_id=call_id, payload=bytes(50_000))
        (result,) = await calls.wait(1)
        assert isinstance(result, ExecutionResponse)
        assert result.payload == bytes(1_000_000)
        await peer.reset()
        await _expect_broken(channel)


async def _send_parts(peer: RawPeer, call_id: int, parts: int) -> None:
    """Send the first ``parts`` of the twenty fragments of an answer of a million bytes."""
    await peer.send(
        FrameType.EXECUTION_RESPONSE,
        flags=FRAGMENT | MORE,
        call_id=call_id,
        head={"size": 1_000_000},
        payload=bytes(50_000),
    )
    for _ in range(parts - 1):
        await peer.send(
            FrameType.BODY, flags=FRAGMENT | MORE, call_id=call_id, payload=bytes(50_000)
        )


async def _reset_when_read(channel: CommunicationChannel, peer: RawPeer) -> None:
    await wait_until(lambda: channel.statistics().buffered_bytes > 0)
    await peer.reset()


async def _expect_broken(channel: CommunicationChannel) -> None:
    await channel.closed.wait()
    assert isinstance(channel.closed_by, ChannelBroken)
    assert not channel.is_connected
    late = await caught(channel.request, "f")
    assert isinstance(late, ChannelBroken)
    assert late.delivered == "no"


@_case
async def ping(open_raw: OpenRaw) -> None:
    """Heartbeats between the frames of a call do no harm; at least the newest one is answered."""
    async with open_raw() as (channel, peer), trio.open_nursery() as nursery:
        calls = _Calls(nursery, channel)
        call_id = await calls.start(peer)
        for number in range(1, 51):
            await peer.send(FrameType.HEALTH_CHECK, a=number)
        await _answer(peer, call_id, pattern(100))
        (result,) = await calls.wait(1)
        assert isinstance(result, ExecutionResponse)
        answered = 0
        while answered < 50:
            _, _, about, answered, running, _, _ = await peer.receive(FrameType.HEALTH_RESPONSE)
            assert (about, running) == (0, 0)
        assert channel.is_connected


@_case
async def max_streams(open_raw: OpenRaw) -> None:
    """A peer with ``max_calls=1`` gets one call at a time."""
    async with (
        open_raw(peer_limits=WireLimits(max_calls=1)) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        calls = [_Calls(nursery, channel) for _ in range(3)]
        call_id = await calls[0].start(peer)
        for waiting in calls[1:]:
            nursery.start_soon(waiting._call, 0)
        await wait_until(lambda: channel.statistics().callers_waiting == 2)
        for left in (1, 0):
            await peer.send(FrameType.HEALTH_CHECK, a=1)
            await peer.receive(FrameType.HEALTH_RESPONSE)  # no request may precede it
            await _answer(peer, call_id)
            call_id = (await peer.receive(FrameType.EXECUTION_REQUEST))[2]
            assert channel.statistics().callers_waiting == left
            assert channel.statistics().calls_in_flight == 1
        await _answer(peer, call_id)
        for each in calls:
            (result,) = await each.wait(1)
            assert isinstance(result, ExecutionResponse)


@_case
async def data_frame_padding(open_raw: OpenRaw) -> None:
    """Frames of unknown types are ignored and counted, between any other frames."""
    async with open_raw() as (channel, peer), trio.open_nursery() as nursery:
        calls = _Calls(nursery, channel)
        call_id = await calls.start(peer)
        for size in (0, 1, 300, 70_000):
            await peer.send(UNKNOWN_TYPE, payload=bytes(size))
            await peer.send(UNKNOWN_TYPE, call_id=call_id, head={"a": [1, {}]}, payload=bytes(size))
        await _answer(peer, call_id, b"x")
        (result,) = await calls.wait(1)
        assert isinstance(result, ExecutionResponse)
        assert channel.statistics().unknown_frames == 8
        assert channel.is_connected


@_case
async def unknown_mandatory_frame(open_raw: OpenRaw) -> None:
    """A frame of an unknown type that is marked as mandatory ends the connection."""
    await _expect_expulsion(open_raw, RawPeer.encode(UNKNOWN_MANDATORY_TYPE))


@_case
async def garbage(open_raw: OpenRaw) -> None:
    """Bytes that are no frame end the connection."""
    await _expect_expulsion(open_raw, b"GET / HTTP/1.1\r\nHost: spear\r\n\r\n" * 10)


@_case
async def answer_to_nobody(open_raw: OpenRaw) -> None:
    """An answer to a call that was never made ends the connection."""
    await _expect_expulsion(open_raw, RawPeer.encode(FrameType.EXECUTION_RESPONSE, call_id=1001))


@_case
async def huge_claim(open_raw: OpenRaw) -> None:
    """A frame that announces more than the limit ends the connection, before its payload arrives."""
    size = DEFAULT_WIRE_LIMITS.fragment_bytes + DEFAULT_WIRE_LIMITS.max_head_bytes + 1
    claim = RawPeer.encode(FrameType.EXECUTION_RESPONSE, call_id=1, payload=bytes(size))
    await _expect_expulsion(open_raw, claim[:60])


async def _expect_expulsion(open_raw: OpenRaw, data: bytes) -> None:
    """Send bad bytes: the peer must get CLOSE with a reason, and waiting callers ChannelBroken."""
    async with open_raw() as (channel, peer), trio.open_nursery() as nursery:
        calls = _Calls(nursery, channel)
        await calls.start(peer)
        await peer.stream.send_all(data)
        said = await peer.receive(FrameType.CLOSE)
        head = said[5]
        assert head is not None
        reason = head["reason"]
        assert isinstance(reason, str)
        assert reason.startswith("protocol error: ")
        await peer.wait_closed()
        (lost,) = await calls.wait(1)
        assert isinstance(lost, ChannelBroken)
        assert lost.delivered == "maybe"
        await _expect_broken(channel)
