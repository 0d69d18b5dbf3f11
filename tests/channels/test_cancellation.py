"""Cancelled calls: no half frames (R5), no handler runs on (R9), no free work for a peer (S8)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from spear import CallCancelled, ChannelBroken, WireLimits
from spear.channels import CommunicationChannel, ExecutionResponse
from spear.testing import Functions, RawPeer
from spear.wire import FAILURE_NUMBERS, NO_DEADLINE, FrameType, Receiver

from .helpers import MEMORY_STREAM, echo, open_in_memory, park, sleep

if TYPE_CHECKING:
    import random

    from spear.channels import InboundCall
    from spear.testing import OpenPair

    from .helpers import Carrier

BODY = bytes(32 * 1024 * 1024)
CANCELLED = FAILURE_NUMBERS[CallCancelled]


# -- R5 ---------------------------------------------------------------------------------------------


class ExactReader:
    """A reader that reads a given number of bytes from a peer's stream, and parses them."""

    def __init__(self, peer: RawPeer) -> None:
        self._stream = peer.stream
        self.receiver = Receiver(WireLimits())
        self.receiver.open(lambda *_: True)

    async def read(self, count: int) -> None:
        while count:
            data = await self._stream.receive_some(count)
            assert data
            self._feed(bytes(data))
            count -= len(data)

    async def read_until_cancel(self, call_id: int) -> None:
        while True:
            data = await self._stream.receive_some(64 * 1024)
            assert data
            if any(frame[0] == FrameType.CANCEL for frame in self._feed(bytes(data))):
                self.receiver.abandon(call_id)
                return

    def _feed(self, data: bytes) -> list[tuple[object, ...]]:
        frames: list[tuple[object, ...]] = list(self.receiver.receive_data(data))
        while self.receiver.paused:
            frames += self.receiver.resume()
        assert self.receiver.error is None
        return frames


@pytest.mark.repetitive
@pytest.mark.slow
@pytest.mark.parametrize("transport", ["unix", "memory_stream"])
async def test_r5_a_thousand_cancels_in_a_body_of_32_mib_leave_only_whole_frames(
    transport: str, request: pytest.FixtureRequest, seed: random.Random
) -> None:
    """A thousand over both transports."""
    carrier: Carrier = request.getfixturevalue(transport)
    async with carrier.open_raw() as (channel, peer):
        reader = ExactReader(peer)
        for number in range(500):
            call_id = 2 * number + 1
            # Mostly small offsets, because errors are likely near the heads. A few are anywhere in the
            # body; with all of them there, 16 GiB would have to be moved.
            offset = int(2 ** seed.uniform(0, 21)) if number % 50 else seed.randrange(len(BODY))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.request, "f", BODY)
                await reader.read(offset)
                nursery.cancel_scope.cancel()
            assert channel.connection.outbound_open == 1
            await reader.read_until_cancel(call_id)
            await peer.send(FrameType.ERROR, call_id=call_id, a=CANCELLED)
            while channel.connection.outbound_open:
                await trio.sleep(0.001)
        assert channel.is_connected
        assert channel.statistics().unsent_bytes == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.request, "f", b"whole")
            frame = await peer.receive(FrameType.EXECUTION_REQUEST)
            assert (frame[2], frame[6]) == (1001, b"whole")
            await peer.send(FrameType.EXECUTION_RESPONSE, call_id=1001)


async def test_r5_what_was_not_begun_is_not_sent_at_all() -> None:
    """A call that is cancelled before a byte was written is never sent."""
    async with MEMORY_STREAM.open_raw() as (channel, peer):
        for body in (b"small", BODY):
            with trio.CancelScope() as scope:
                scope.cancel()
                await channel.request("f", body)
            assert channel.connection.outbound_open == 0
        assert channel.statistics().messages_sent == 0
        await peer.send(FrameType.HEALTH_CHECK, a=1)
        assert (await peer.receive())[0] == FrameType.HEALTH_RESPONSE


# -- R9 ---------------------------------------------------------------------------------------------


async def brief(call: InboundCall) -> bytes:
    """Take a few passes of the scheduler."""
    for _ in range(len(call.payload)):
        await trio.lowlevel.checkpoint()
    return call.payload


async def race(channel: CommunicationChannel, name: str, steps: tuple[int, int]) -> None:
    """Start a call, and cancel it a few passes later."""
    ours, theirs = steps
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(channel.request, name, bytes(theirs)))
        for _ in range(ours):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


@pytest.mark.repetitive
@pytest.mark.slow
@pytest.mark.parametrize(
    ("transport", "races"), [("unix", 4000), ("memory_stream", 3000), ("in_memory", 3000)]
)
async def test_r9_after_ten_thousand_races_no_handler_runs(
    transport: str, races: int, request: pytest.FixtureRequest, seed: random.Random
) -> None:
    """Ten thousand over all transports."""
    open_pair: OpenPair = open_in_memory
    if transport != "in_memory":
        carrier: Carrier = request.getfixturevalue(transport)
        open_pair = carrier.open_pair
    functions = Functions({"brief": brief, "sleep": sleep, "echo": echo})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        for _ in range(races // 100):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    steps = seed.randrange(12), seed.randrange(8)
                    nursery.start_soon(race, host, seed.choice(["brief", "sleep", "echo"]), steps)
        while host.connection.outbound_open or agent.connection.inbound_open:
            await trio.sleep(0.001)
        await park()
        assert functions.running == 0
        assert functions.started > races // 10
        assert functions.cancelled > races // 100
        for channel in (host, agent):
            found = channel.statistics()
            assert (found.calls_in_flight, found.handlers_running) == (0, 0)
            assert found.callers_waiting == 0
        assert (await host.request("echo", b"alive")).payload == b"alive"


async def test_r9_cancelling_a_caller_cancels_the_handler_and_then_frees_the_slot() -> None:
    """The slot is free only after the handler has ended."""
    let_go = trio.Event()

    async def stubborn(call: InboundCall) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await let_go.wait()
        raise AssertionError

    functions = Functions({"stubborn": stubborn, "echo": echo})
    async with (
        open_in_memory(
            agent_service=functions, functions=functions.names, limits=WireLimits(max_calls=1)
        ) as (host, agent),
        trio.open_nursery() as nursery,
    ):
        async with trio.open_nursery() as caller:
            caller.start_soon(host.request, "stubborn")
            await park()
            caller.cancel_scope.cancel()
        await park()
        assert functions.running == 1
        assert host.statistics().calls_in_flight == agent.statistics().handlers_running == 1
        nursery.start_soon(host.request, "echo")
        await park()
        assert host.statistics().callers_waiting == 1
        let_go.set()
        await park()
        assert functions.running == 0
        assert host.statistics().callers_waiting == 0


async def test_r9_a_call_that_is_cancelled_before_its_handler_starts_is_not_handled() -> None:
    functions = Functions({"f": sleep})
    async with MEMORY_STREAM.open_raw(service=functions) as (channel, peer):
        await peer.stream.send_all(
            peer.encode(FrameType.EXECUTION_REQUEST, call_id=2, b=1000, head={"function": "f"})
            + peer.encode(FrameType.CANCEL, call_id=2)
        )
        frame = await peer.receive(FrameType.ERROR)
        assert (frame[2], frame[3]) == (2, CANCELLED)
        assert functions.started == 0
        assert channel.statistics().handlers_running == 0


async def test_r9_the_handler_hears_why_it_should_stop() -> None:
    reasons: list[object] = []

    async def listen(call: InboundCall) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            reasons.append(call.cancelled)
        raise AssertionError

    functions = Functions({"listen": listen})
    async with open_in_memory(agent_service=functions, functions=functions.names) as (host, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.request, "listen")
            await park()
            nursery.cancel_scope.cancel()
        await park()
    assert isinstance(reasons[0], CallCancelled)
    assert reasons[0].delivered == "yes"


# -- S8 ---------------------------------------------------------------------------------------------


async def test_s8_a_peer_that_only_opens_and_cancels_is_expelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Rapid reset: handlers stay within the limit, and after a burst the peer is disconnected."""
    most = 0

    async def stubborn(call: InboundCall) -> bytes:
        nonlocal most
        most = max(most, functions.running)
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)
        return b""

    functions = Functions({"f": stubborn})
    limits = WireLimits(max_calls=10, cancel_burst=100, cancels_per_second=10)
    async with MEMORY_STREAM.open_raw(service=functions, limits=limits) as (channel, peer):

        async def flood() -> None:
            for number in range(1, 100_000):
                try:
                    await peer.send(
                        FrameType.EXECUTION_REQUEST,
                        call_id=2 * number,
                        b=NO_DEADLINE,
                        head={"function": "f"},
                    )
                    await park()  # without this no handler would ever begin
                    await peer.send(FrameType.CANCEL, call_id=2 * number)
                except trio.BrokenResourceError:
                    return
            raise AssertionError("the connection survived 100,000 cancelled calls")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            frames = await peer.wait_closed()
        (close,) = [frame[5] for frame in frames if frame[0] == FrameType.CLOSE]
        assert close is not None
        assert "too many cancelled calls" in str(close["reason"])
        await channel.closed.wait()
        assert isinstance(channel.closed_by, ChannelBroken)
        assert "too many cancelled calls" in str(channel.closed_by)
        assert 0 < most <= limits.max_calls
        await trio.sleep(1)
        assert functions.running == 0


async def test_s8_an_honest_peer_may_cancel_now_and_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    functions = Functions({"sleep": sleep, "echo": echo})
    limits = WireLimits(cancel_burst=5, cancels_per_second=10)
    async with MEMORY_STREAM.open_pair(host_service=functions, limits=limits) as (_, agent):
        for _ in range(50):
            with trio.move_on_after(0.11):
                await agent.request("sleep")
        response = await agent.request("echo", b"alive")
        assert isinstance(response, ExecutionResponse)


async def test_an_item_of_a_cancelled_call_is_cancelled_and_no_mistake_of_its_handler() -> None:
    outcomes: list[str] = []

    async def items(call: InboundCall) -> bytes:
        await call.send(b"first")
        while call.cancelled is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        try:
            await call.send(b"second")
        except BaseException as error:
            outcomes.append(type(error).__name__)
            raise
        return b""

    functions = Functions({"items": items})
    async with open_in_memory(agent_service=functions, functions=functions.names) as (host, _):
        async with host.open_stream("items") as stream:
            assert await stream.receive() == b"first"
        await park()
        assert outcomes == ["Cancelled"]
