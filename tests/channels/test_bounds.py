"""The worst that a peer can do: R18, and those parts of S8 to S10 that need a real channel."""

from __future__ import annotations

import gc
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import trio

from spear import ChannelBroken, ChannelClosed, FunctionRaised, WireLimits
from spear.channels import CommunicationChannel, connect_channel
from spear.testing import Functions, RawPeer
from spear.wire import FAILURE_NUMBERS, NO_DEADLINE, FrameType

from .helpers import INSTANCE, MEMORY_STREAM, echo, open_in_memory, park, sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from spear.channels import InboundCall
    from spear.wire import Head

    from .helpers import Carrier

KIB = 1024
MIB = 1024 * KIB
CONTROL_BACKLOG_BYTES = 64 * KIB  # most bytes of unsent answers; the figure of S9

REQUEST = int(FrameType.EXECUTION_REQUEST)
STREAM = 0x08
REPLY_STREAM = 0x10
FRAGMENT_MORE = 0x03


def _request(call_id: int, name: str = "f", flags: int = 0) -> bytes:
    """Return a request's bytes."""
    return RawPeer.encode(
        REQUEST, flags=flags, call_id=call_id, b=NO_DEADLINE, head={"function": name}
    )


async def send_until_cut(peer: RawPeer, make: Callable[[int], bytes], most: int) -> int:
    """Send ``make(1)``, ``make(2)`` ... until the host cuts the connection; return the number sent."""
    for number in range(1, most):
        try:
            await peer.stream.send_all(make(number))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return number
    return most


async def expect_expelled(channel: CommunicationChannel, why: str) -> None:
    await channel.closed.wait()
    assert isinstance(channel.closed_by, ChannelBroken)
    assert why in str(channel.closed_by)


async def test_s9_a_flood_of_progress_reports_is_cut(unix: Carrier) -> None:
    async def call() -> None:
        with pytest.raises(ChannelBroken):
            await host.request("f")

    async with unix.open_raw() as (host, peer), trio.open_nursery() as nursery:
        nursery.start_soon(call)
        call_id = (await peer.receive(REQUEST))[2]
        report = RawPeer.encode(FrameType.SIGNAL, call_id=call_id, payload=b"1 %")
        with pytest.raises(trio.BrokenResourceError):
            await peer.stream.send_all(report * 1_000_000)
        await expect_expelled(host, "too many control frames")
    assert host.statistics().bytes_received < 20_000 * len(report)


async def test_a_function_that_reports_all_the_time_is_not_cut_and_its_newest_report_arrives(
    autojump_clock: MockClock,
) -> None:
    async def report(call: InboundCall) -> bytes:
        for number in range(50_000):
            call.report_progress(b"%d" % number)
            if number % 10 == 0:
                await trio.lowlevel.checkpoint()
        await trio.sleep(10)
        assert reports[-1] == b"49999"  # without any further frame
        for number in range(5_000):
            call.report_progress(b"again %d" % number)
            await trio.lowlevel.checkpoint()
        return b"done"

    reports: list[bytes] = []
    functions = Functions({"report": report})
    async with MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names) as (
        host,
        _,
    ):
        response = await host.request("report", on_progress=lambda text, _: reports.append(text))
        assert response.payload == b"done"
        assert reports[-1] == b"again 4999"
        assert host.is_connected
        assert len(reports) < 3_000


async def test_reports_of_many_calls_that_are_held_back_all_arrive(
    autojump_clock: MockClock,
) -> None:
    async def report(call: InboundCall) -> bytes:
        for number in range(200):
            call.report_progress(b"%d" % number)
            await trio.lowlevel.checkpoint()
        await trio.sleep(1)
        return b""

    newest: dict[int, bytes] = {}

    async def ask(caller: int) -> None:
        def on_progress(text: bytes | memoryview, _: bool) -> None:
            newest[caller] = bytes(text)

        await host.request("report", on_progress=on_progress)

    functions = Functions({"report": report})
    async with (
        MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names) as (host, _),
        trio.open_nursery() as nursery,
    ):
        for caller in range(20):
            nursery.start_soon(ask, caller)
        await trio.sleep(0.9)  # 20 reports take 40 ms
        assert newest == dict.fromkeys(range(20), b"199")


async def test_s14_an_error_of_sixty_thousand_characters_is_cut_by_the_host(unix: Carrier) -> None:
    texts: list[str] = []

    async def call() -> None:
        with pytest.raises(FunctionRaised) as caught:
            await host.request("f")
        texts.append(caught.value.remote_message)

    async with unix.open_raw() as (host, peer), trio.open_nursery() as nursery:
        nursery.start_soon(call)
        call_id = (await peer.receive(REQUEST))[2]
        head: Head = {"type": "T", "message": "x" * 60_003}
        await peer.send(
            FrameType.ERROR, call_id=call_id, a=FAILURE_NUMBERS[FunctionRaised], head=head
        )
    assert [len(text) for text in texts] == [WireLimits().error_message_bytes]


# -- memory -----------------------------------------------------------------------------------------

TIGHT = WireLimits(
    max_calls=20,
    stream_window_bytes=64 * KIB,
    connection_window_bytes=256 * KIB,
    assembly_bytes=512 * KIB,
    fragment_bytes=32 * KIB,
    max_message_bytes=1 * MIB,
    request_bytes_in_flight=1 * MIB,
)
"""Limits that a misbehaving peer reaches quickly."""

SOAK_SECONDS = 600
PER_CONNECTION_BYTES = 4 * MIB
"""Memory that R18 grants the worst peer."""


async def pour(call: InboundCall) -> bytes:
    while True:
        await call.send(bytes(10_000))


@pytest.mark.slow
async def test_r18_the_worst_peer_takes_no_more_memory_than_the_limits_say(unix: Carrier) -> None:
    """The peer opens streams without taking items, sends items for functions that take none, leaves
    payloads incomplete, claims more than it sends, and reads nothing."""
    functions = Functions({"pour": pour, "sleep": sleep, "echo": echo})
    async with unix.open_raw(service=functions, limits=TIGHT, peer_limits=TIGHT) as (
        channel,
        peer,
    ):
        await _misbehave(peer)  # a warm-up, for objects that are created once and kept
        await park()
        await peer.reset()
        await channel.closed.wait()
    async with unix.open_raw(service=functions, limits=TIGHT, peer_limits=TIGHT) as (
        channel,
        peer,
    ):
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await _misbehave(peer)
            await trio.testing.wait_all_tasks_blocked(0.01)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert channel.is_connected
        found = channel.statistics()
        # each bound was reached, and held
        assert TIGHT.assembly_bytes - 100 * KIB <= found.buffered_bytes <= TIGHT.assembly_bytes
        assert found.handlers_running == TIGHT.max_calls
        assert found.calls_refused > 0
        assert channel.connection.windows.send.available <= 0
        assert channel.connection.messages.windows is not None
        assert 0 < channel.connection.messages.windows.receive.available <= 8 * KIB
        bound = (
            TIGHT.assembly_bytes + 2 * TIGHT.connection_window_bytes + TIGHT.request_bytes_in_flight
        )
        assert peak - before <= bound + 1 * MIB
        # everything is freed when the peer is gone
        await peer.reset()
        await channel.closed.wait()
        assert channel.statistics().handlers_running == 0


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
async def test_r18_the_worst_peers_for_ten_minutes(unix: Carrier) -> None:
    """Peers that misbehave in every way, one after the other, at full speed."""
    functions = Functions({"pour": pour, "sleep": sleep, "echo": echo})
    end = trio.current_time() + SOAK_SECONDS
    most: list[int] = []
    while trio.current_time() < end:
        async with unix.open_raw(service=functions, limits=TIGHT, peer_limits=TIGHT) as (
            channel,
            peer,
        ):
            await _misbehave(peer)
            await trio.testing.wait_all_tasks_blocked(0.001)
            most.append(resident_bytes())
            await peer.reset()
            await channel.closed.wait()
    warm = most[len(most) // 10]
    assert max(most[len(most) // 10 :]) <= warm + PER_CONNECTION_BYTES


async def _misbehave(peer: RawPeer) -> None:
    send = peer.stream.send_all
    call_id = 2
    for _ in range(8):  # streams of the host whose items the peer does not take
        await send(_request(call_id, "pour", flags=REPLY_STREAM))
        call_id += 2
    stream = call_id
    await send(_request(stream, "sleep", flags=STREAM))
    item = RawPeer.encode(FrameType.STREAM_DATA, call_id=stream, a=1, payload=bytes(8 * KIB))
    for _ in range(8):  # items that the host's function does not take
        await send(item)
    for _ in range(7):  # messages that the host does not take
        await send(
            RawPeer.encode(FrameType.STREAM_DATA, call_id=2**64 - 1, a=1, payload=bytes(8 * KIB))
        )
    for _ in range(5):  # unfinished payloads; each claims a hundred times the bytes sent
        call_id += 2
        await send(
            RawPeer.encode(
                REQUEST,
                flags=FRAGMENT_MORE,
                call_id=call_id,
                b=NO_DEADLINE,
                head={"function": "echo", "size": 100 * KIB},
                payload=bytes(1 * KIB),
            )
        )
    for _ in range(60):  # more calls than are allowed, with arguments
        call_id += 2
        await send(
            RawPeer.encode(
                REQUEST, call_id=call_id, b=NO_DEADLINE, head={"function": "sleep"},
                payload=bytes(16 * KIB),
            )
        )  # fmt: skip


@pytest.mark.parametrize("transport", ["unix", "memory_stream"])
async def test_r18_credit_is_no_promise_that_anything_was_read(
    transport: str, request: pytest.FixtureRequest
) -> None:
    """A peer has windows of gigabytes, or returns credit for items still in the host's outbox."""
    carrier: Carrier = request.getfixturevalue(transport)
    functions = Functions({"pour": pour})
    huge = WireLimits(stream_window_bytes=2**31, connection_window_bytes=2**31)
    ours = WireLimits(connection_window_bytes=128 * KIB)
    for peer_limits in (huge, WireLimits()):
        async with carrier.open_raw(service=functions, limits=ours, peer_limits=peer_limits) as (
            channel,
            peer,
        ):
            for number in range(1, 5):
                await peer.stream.send_all(_request(2 * number, "pour", REPLY_STREAM))
            for _ in range(20):
                await park()
                spent = peer_limits.connection_window_bytes - (
                    channel.connection.windows.send.available
                )
                await peer.send(FrameType.CREDIT, a=spent)
                for number in range(1, 5):
                    call = channel.connection.calls[2 * number]
                    assert call.windows is not None
                    back = peer_limits.stream_window_bytes - call.windows.send.available
                    await peer.send(FrameType.CREDIT, call_id=2 * number, a=back)
            await park()
            # Each of the four streams may send more between two looks.
            assert 128 * KIB <= channel.statistics().unsent_bytes <= (128 + 4 * 80) * KIB
            # More credit lets them go on.
            sent = channel.statistics().messages_sent
            while channel.statistics().messages_sent == sent:
                await peer.receive(FrameType.STREAM_DATA)
                await park()


async def test_r18_an_item_without_credit_is_the_last() -> None:
    functions = Functions({"f": sleep})
    limits = WireLimits(stream_window_bytes=64 * KIB)
    async with MEMORY_STREAM.open_raw(service=functions, limits=limits) as (channel, peer):
        await peer.stream.send_all(_request(2, flags=STREAM))
        item = RawPeer.encode(FrameType.STREAM_DATA, call_id=2, a=1, payload=bytes(10_000))
        assert await send_until_cut(peer, lambda _: item, 100) < 20
        await expect_expelled(channel, "an item without credit")


async def test_r18_calls_above_the_limit_are_refused_and_counted() -> None:
    functions = Functions({"f": sleep})
    limits = WireLimits(max_calls=5)
    async with MEMORY_STREAM.open_raw(service=functions, limits=limits) as (channel, peer):
        for number in range(1, 9):
            await peer.stream.send_all(_request(2 * number))
        for _ in range(3):
            frame = await peer.receive(FrameType.ERROR)
            assert frame[3] == 5  # Overloaded
            assert frame[4] > 0  # retry-after
        await park()
        found = channel.statistics()
        assert (found.handlers_running, found.calls_refused) == (5, 3)
        assert functions.running == 5


async def test_r18_requests_that_hold_too_many_bytes_are_refused() -> None:
    functions = Functions({"f": sleep})
    limits = WireLimits(request_bytes_in_flight=100_000)
    async with MEMORY_STREAM.open_raw(service=functions, limits=limits) as (channel, peer):
        for number in range(1, 5):
            await peer.send(
                REQUEST, call_id=2 * number, b=NO_DEADLINE, head={"function": "f"},
                payload=bytes(40_000),
            )  # fmt: skip
        for _ in range(2):
            frame = await peer.receive(FrameType.ERROR)
            assert frame[3] == 5
        assert channel.statistics().handlers_running == 2
        assert channel.connection.request_bytes == 80_000


async def test_r18_answers_that_are_not_read_end_the_connection(
    autojump_clock: MockClock,
) -> None:
    """The connection is cut long before the write deadline, because memory would run out first."""
    functions = Functions({"f": echo})
    async with MEMORY_STREAM.open_raw(service=functions) as (channel, peer):
        sent = await send_until_cut(peer, lambda number: _request(2 * number), 100_000)
        assert sent < 5_000
        await expect_expelled(channel, "does not read the responses")


async def test_r18_refusals_that_are_not_read_end_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with MEMORY_STREAM.open_raw() as (channel, peer):
        sent = await send_until_cut(peer, lambda number: _request(2 * number), 100_000)
        assert sent < 5_000
        await expect_expelled(channel, "does not read the responses")


# -- S9: floods of small frames ---------------------------------------------------------------------


FLOODS: dict[str, Callable[[int], bytes]] = {
    "heartbeats": lambda number: RawPeer.encode(FrameType.HEALTH_CHECK, a=number),
    "answers to heartbeats": lambda number: RawPeer.encode(FrameType.HEALTH_RESPONSE),
    "unknown frames": lambda number: RawPeer.encode(0x55),
    "cancels of calls that are over": lambda number: RawPeer.encode(FrameType.CANCEL, call_id=2),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_s9_a_flood_of_small_frames_is_stopped(what: str, autojump_clock: MockClock) -> None:
    """The peer gets two strikes and a CLOSE with the reason, and no memory grows meanwhile."""
    functions = Functions({"f": echo})
    limits = WireLimits(
        control_frame_burst=1000,
        control_frames_per_second=100,
        cancel_burst=1000,
        cancels_per_second=100,
    )
    async with MEMORY_STREAM.open_raw(service=functions, limits=limits) as (channel, peer):
        await peer.send(REQUEST, call_id=2, b=NO_DEADLINE, head={"function": "f"})
        await peer.receive(FrameType.EXECUTION_RESPONSE)
        frame = FLOODS[what]
        most = 0

        async def flood() -> None:
            nonlocal most
            for number in range(1, 10_000):
                try:
                    await peer.stream.send_all(frame(number))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                most = max(most, channel.statistics().unsent_bytes)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            frames = await peer.wait_closed()
        close = [each[5] for each in frames if each[0] == FrameType.CLOSE]
        assert close[0] is not None
        assert "too many" in str(close[0]["reason"])
        await expect_expelled(channel, "too many")
        assert most < CONTROL_BACKLOG_BYTES


ANNOUNCEMENTS: dict[str, tuple[str, Callable[[int], Head]]] = {
    "ever more names": (
        "the peer has more than 10 functions",
        lambda number: {"functions": [f"f{number}"]},
    ),
    "one name for ever": ("too many", lambda number: {"functions": ["f"]}),
    "a long name": (
        "a function's name has 1000 characters",
        lambda number: {"functions": ["f" * 1000]},
    ),
    "more after the last": ("after the last", lambda number: {"functions": ["f"], "last": True}),
    "more streams": ("too many", lambda number: {"streams": [f"f{number}"]}),
    "policies of unknown functions": ("too many", lambda number: {"retry": {f"f{number}": {}}}),
    "a policy with many names": (
        "must be at most 16 names of at most 128 characters",
        lambda number: {
            "functions": ["f"],
            "retry": {"f": {"on": ["E"] * 17, "idempotent": True}},
        },
    ),
    "a policy with a long name": (
        "must be at most 16 names of at most 128 characters",
        lambda number: {
            "functions": ["f"],
            "retry": {"f": {"on": ["E" * 129], "idempotent": True}},
        },
    ),
}


@pytest.mark.parametrize("what", ANNOUNCEMENTS)
async def test_r18_announcements_have_bounds(what: str, autojump_clock: MockClock) -> None:
    reason, head = ANNOUNCEMENTS[what]
    limits = WireLimits(max_functions=10, control_frame_burst=1000, control_frames_per_second=100)
    async with MEMORY_STREAM.open_host(limits=limits) as (_, endpoint):
        stream = await MEMORY_STREAM.connect(endpoint.address)
        peer = RawPeer(stream)
        request = peer.prove(await peer.receive_challenge(), INSTANCE, endpoint.secret)
        await peer.authenticate(request)
        channel = endpoint._newest
        assert channel is not None

        async def announce() -> None:
            for number in range(10_000):
                try:
                    await peer.send(FrameType.ANNOUNCE, head=head(number))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(announce)
            await peer.wait_closed()
        await expect_expelled(channel, reason)
        assert len(channel.functions) <= 10
        assert len(channel.streams) <= 10
        assert len(channel.retry_policies) <= 10


async def test_s9_answers_to_heartbeats_do_not_pile_up_for_a_peer_that_never_reads() -> None:
    limits = WireLimits(control_frame_burst=100_000)
    async with MEMORY_STREAM.open_raw(limits=limits) as (channel, peer):
        beats = b"".join(RawPeer.encode(FrameType.HEALTH_CHECK, a=n) for n in range(500))
        for _ in range(40):
            await peer.stream.send_all(beats)
            await park()
            assert channel.statistics().unsent_bytes <= CONTROL_BACKLOG_BYTES
            assert len(channel._pipe.sink._latest) <= 1  # type: ignore[attr-defined]  # an Outbox
        assert channel.is_connected


async def test_s9_an_honest_pace_of_small_frames_is_fine(autojump_clock: MockClock) -> None:
    limits = WireLimits(control_frame_burst=10, control_frames_per_second=10)
    async with MEMORY_STREAM.open_raw(limits=limits) as (channel, peer):
        for number in range(200):
            await peer.send(FrameType.HEALTH_CHECK, a=number)
            await trio.sleep(0.11)
        assert channel.is_connected


# -- S10: a peer that never reads -------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["unix", "memory_stream"])
async def test_s10_a_peer_that_never_reads_is_cut_and_nobody_else_notices(
    transport: str, request: pytest.FixtureRequest, autojump_clock: MockClock
) -> None:
    """The peer is cut after exactly write_seconds in virtual time, and other calls take no time."""
    carrier: Carrier = request.getfixturevalue(transport)
    functions = Functions({"echo": echo})
    limits = WireLimits(write_seconds=10, heartbeat_seconds=1000)
    took: list[float] = []

    async def talk(other: CommunicationChannel) -> None:
        while True:
            started = trio.current_time()
            await other.request("echo", bytes(1000))
            took.append(trio.current_time() - started)
            await trio.sleep(0.25)

    async with (
        carrier.open_raw(limits=limits) as (channel, _),
        open_in_memory(agent_service=functions, functions=functions.names, limits=limits) as (
            other,
            _,
        ),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(talk, other)
        started = trio.current_time()
        with pytest.raises(ChannelBroken, match="read no data for 10 s") as caught:
            await channel.request("f", bytes(8 * MIB))
        assert trio.current_time() - started == pytest.approx(10)
        assert caught.value.delivered == "maybe"
        assert other.is_connected
        assert len(took) >= 39
        assert set(took) == {0.0}
        nursery.cancel_scope.cancel()


async def test_s10_saying_goodbye_to_a_peer_that_never_reads_takes_a_second(
    autojump_clock: MockClock,
) -> None:
    async with MEMORY_STREAM.open_raw() as (channel, _), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ChannelClosed, match="enough"):
                await channel.request("f", bytes(8 * MIB))

        nursery.start_soon(call)
        await park()
        started = trio.current_time()
        await channel.aclose("enough")
        assert trio.current_time() - started == pytest.approx(1)


async def test_the_end_of_a_channel_frees_its_timers(autojump_clock: MockClock) -> None:
    """A long deadline must not keep a dead channel in memory."""
    functions = Functions({"echo": echo})
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        stream = await MEMORY_STREAM.connect(endpoint.address)
        async with connect_channel(
            stream, INSTANCE, endpoint.secret, service=functions, functions=functions.names
        ):
            channel = await endpoint.wait_connected()
            await channel.request("echo", timeout=1_000_000)
            entries = [entry[2] for entry in manager.timers._heap]
            assert any(
                getattr(each, "_function", None) == channel._deadlines._expire for each in entries
            )
        await channel.closed.wait()
        entries = [entry[2] for entry in manager.timers._heap]
        assert not any(
            getattr(each, "_function", None) == channel._deadlines._expire for each in entries
        )
