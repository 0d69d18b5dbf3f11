"""Large payloads by descriptor, over real sockets: arrival, lifetime, and peers that break the rules."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import resource
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio
import trio.testing
from attrs import evolve

from spear import (
    CallFailed,
    ChannelBroken,
    DeadlineExceeded,
    LocalProtocolError,
    Overloaded,
    Rejected,
    SharedBuffer,
    WireLimits,
)
from spear.channels import CommunicationChannel, connect_channel
from spear.channels.segments import LEAST_SHARED_BYTES, MOST_AT_ONCE, WORTH_KEEPING
from spear.channels.segments._memory_files import Descriptor, make_memory_file
from spear.testing import Functions, RawPeer, cancel_sweep
from spear.transports import SocketStream
from spear.wire import NO_DEADLINE, SEGMENTS, SHARED, TYPES, FrameType, HeadValue

from .helpers import INSTANCE, echo, open_in_memory, open_served, park, sleep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from spear.channels import InboundCall
    from spear.testing import OpenPair

    from .helpers import Carrier

KIB = 1024
MIB = 1024 * KIB
SIZE = 256 * KIB

SMALL = WireLimits(
    max_message_bytes=512 * KIB,
    max_segment_bytes=4 * MIB,
    mapped_segment_bytes=6 * MIB,
    max_segments=4,
    segment_threshold_bytes=128 * KIB,
    segment_pool_bytes=1 * MIB,
    segment_pool_seconds=0.05,
)
"""Limits that a test reaches with few bytes."""

Pair: TypeAlias = tuple[CommunicationChannel, CommunicationChannel]

REQUEST = int(FrameType.EXECUTION_REQUEST)
RESPONSE = int(FrameType.EXECUTION_RESPONSE)
FRAGMENT = 0x01


def filled(size: int, text: bytes = b"shared") -> SharedBuffer:
    buffer = SharedBuffer(size)
    buffer.view[: len(text)] = text[:size]
    buffer.view[-1] = 9
    return buffer


async def look(call: InboundCall) -> bytes:
    """Return a description of the payload, read without a copy."""
    with call.view() as view:
        return b"%d %d %s" % (view.readonly, len(view), bytes(view[:6]))


async def share(call: InboundCall) -> SharedBuffer:
    """Return as many bytes as requested, shared."""
    return filled(int(call.payload))


async def half_share(call: InboundCall) -> SharedBuffer:
    """Return as many bytes as requested, shared, but keep a view of them."""
    buffer = filled(int(call.payload))
    kept.append(buffer.view[:3])
    return buffer


async def keep(call: InboundCall) -> bytes:
    """Keep a view of the payload."""
    kept.append(call.view())
    return b""


kept: list[memoryview] = []


@pytest.fixture(autouse=True)
def nothing_is_kept(no_descriptor_is_left: None) -> Iterator[None]:
    yield
    kept.clear()


FUNCTIONS = Functions(
    {
        "echo": echo,
        "look": look,
        "share": share,
        "half_share": half_share,
        "keep": keep,
        "sleep": sleep,
    }
)


def opened(open_pair: OpenPair, limits: WireLimits = SMALL) -> AbstractAsyncContextManager[Pair]:
    return open_served(open_pair, FUNCTIONS, limits)


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # often a condition of threads and timers
        await trio.sleep(0.001)


# -- what arrives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, LEAST_SHARED_BYTES - 1, LEAST_SHARED_BYTES, 500 * KIB])
async def test_the_same_arrives_over_every_transport(open_pair: OpenPair, size: int) -> None:
    async with opened(open_pair) as pair:
        for channel in pair:
            buffer = filled(size)
            expected = b"1 %d %s" % (size, b"shared"[:size])
            if size == 1:
                expected = b"1 1 \x09"
            assert (await channel.request("look", buffer)).payload == expected
            response = await channel.request("share", b"%d" % size)
            assert isinstance(response.payload, memoryview)
            assert response.payload.readonly
            assert len(response.payload) == size
            assert response.payload[-1] == 9
            assert response.payload is response.payload
            given = bytes(range(256)) * (size // 256) + bytes(size % 256)
            echoed = (await channel.request("echo", given)).payload
            assert type(echoed) is bytes
            assert echoed == given
            assert bytes((await channel.request("echo", filled(size))).payload)[-1] == 9


async def test_more_than_a_message_goes_by_descriptor_only(open_pair: OpenPair) -> None:
    async with opened(open_pair) as (host, agent):
        large = 2 * MIB
        if open_pair is not open_in_memory and not _by_descriptor(host):
            with pytest.raises(
                LocalProtocolError, match=f"{large} bytes; the peer accepts at most 524288"
            ):
                await host.request("look", filled(large))
            with pytest.raises(
                Rejected, match="the result has 2097152 bytes; the peer accepts at most 524288"
            ):
                await host.request("share", b"%d" % large)
            return
        for channel in (host, agent):
            expected = b"1 %d shared" % large
            assert (await channel.request("look", filled(large))).payload == expected
            assert len((await channel.request("share", b"%d" % large)).payload) == large


def _by_descriptor(channel: CommunicationChannel) -> bool:
    return channel._pipe.segments.lender is not None


async def test_in_memory_the_object_itself_is_handed_over() -> None:
    async with opened(open_in_memory) as (host, _):
        buffer = filled(64 * MIB)
        assert (await host.request("look", buffer)).payload == b"1 67108864 shared"
        assert (await host.request("share", b"1000000")).payload[-1] == 9


async def test_no_byte_of_it_crosses_the_socket(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        await host.request("look", filled(4 * MIB))
        await host.request("share", b"4000000")
        for channel in (host, agent):
            assert channel.statistics().bytes_sent < 2 * KIB


async def test_an_end_that_does_not_want_it_gets_bytes(unix: Carrier) -> None:
    """An older end, which does not know the feature, gets bytes as well."""
    async with opened(unix.open_pair, evolve(SMALL, max_segment_bytes=0)) as pair:
        for channel in pair:
            assert not _by_descriptor(channel)
            assert (await channel.request("look", filled(SIZE))).payload == b"1 262144 shared"
            assert (await channel.request("share", b"%d" % SIZE)).payload[-1] == 9
            assert channel.statistics().bytes_sent > SIZE


@pytest.mark.parametrize("who", ["host", "agent"])
async def test_both_ends_must_want_it(unix: Carrier, who: str) -> None:
    without = evolve(SMALL, max_segment_bytes=0)
    host_limits, agent_limits = (without, SMALL) if who == "agent" else (SMALL, without)
    async with (
        unix.open_host(service=FUNCTIONS, limits=host_limits) as (_, endpoint),
        connect_channel(
            await unix.connect(endpoint.address),
            INSTANCE,
            endpoint.secret,
            service=FUNCTIONS,
            functions=FUNCTIONS.names,
            limits=agent_limits,
        ) as (agent, _),
    ):
        host = await endpoint.wait_connected()
        for channel in (host, agent):
            assert not _by_descriptor(channel)
            assert (await channel.request("look", filled(SIZE))).payload == b"1 262144 shared"
            assert isinstance((await channel.request("share", b"9")).payload, memoryview)


async def test_a_host_may_write_again_and_a_function_may_not(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        buffer = filled(SIZE)
        for text in (b"first!", b"second"):
            buffer.view[:6] = text
            assert (await host.request("look", buffer)).payload == b"1 262144 " + text
        buffer = filled(SIZE)
        for _ in range(2):
            assert (await agent.request("look", buffer)).payload == b"1 262144 shared"
            assert buffer.view.readonly


async def test_what_a_function_still_writes_to_is_sent_as_bytes(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        assert (await host.request("half_share", b"%d" % SIZE)).payload[-1] == 9
        assert agent.statistics().bytes_sent > SIZE
        with pytest.raises(Rejected, match="1048576 bytes while views of it exist: release"):
            await host.request("half_share", b"1048576")


async def test_a_view_outlives_its_channel(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        view = (await host.request("share", b"%d" % SIZE)).payload
    assert view[-1] == 9


async def test_what_is_passed_on_is_not_copied(unix: Carrier) -> None:
    """A host that calls one function for another passes the payload on."""
    async with opened(unix.open_pair) as (host, agent):
        response = await host.request("share", b"2000000")
        assert (await host.request("look", response.body)).payload == b"1 2000000 shared"
        seen = (await host.request("share", b"200000")).payload
        assert seen[-1] == 9
        assert host.statistics().bytes_sent < 2 * KIB
        assert agent.statistics().bytes_sent < 2 * KIB
        plain = await host.request("echo", b"plain")
        assert plain.body == b"plain"


# -- bytes that are copied into segments ---------------------------------------------------------------


async def test_bytes_take_to_segments_when_it_pays(unix: Carrier) -> None:
    payload = os.urandom(SIZE)
    async with opened(unix.open_pair) as (host, agent):
        for _ in range(WORTH_KEEPING + 1):  # the last call sends LEND
            assert (await host.request("echo", payload)).payload == payload
        before = host.statistics().bytes_sent
        assert before > WORTH_KEEPING * SIZE
        for _ in range(20):
            echoed = (await host.request("echo", payload)).payload
            assert type(echoed) is bytes
            assert echoed == payload
        for channel in (host, agent):
            found = channel.statistics()
            assert found.kept_bytes in (SIZE, 2 * SIZE)
            assert found.lent_bytes <= found.kept_bytes
        assert host.statistics().bytes_sent - before < 8 * KIB


async def test_longer_bytes_take_to_segments_towards_an_agent(unix: Carrier) -> None:
    payload = bytes(MOST_AT_ONCE + 1)
    limits = WireLimits(segment_pool_bytes=2 * len(payload))
    async with opened(unix.open_pair, limits) as (host, agent):
        for _ in range(WORTH_KEEPING):
            await host.request("look", payload)
        assert host.statistics().bytes_sent > WORTH_KEEPING * len(payload)
        assert host.statistics().kept_bytes == 0
        before = host.statistics().bytes_sent
        for _ in range(3):
            assert (await host.request("look", payload)).payload == b"1 %d %s" % (
                len(payload),
                bytes(6),
            )
        assert host.statistics().bytes_sent - before < 8 * KIB
        assert len(payload) <= host.statistics().kept_bytes < 2 * len(payload)
        async with trio.open_nursery() as nursery:  # a second segment would be more than is kept
            for _ in range(3):
                nursery.start_soon(host.request, "look", payload)
        assert host.statistics().kept_bytes < 2 * len(payload)
        assert host.statistics().bytes_sent - before > 2 * len(payload)
        before = agent.statistics().bytes_sent
        for _ in range(WORTH_KEEPING + 2):  # a host copies what an agent sends
            await agent.request("look", payload)
        assert agent.statistics().bytes_sent - before > (WORTH_KEEPING + 2) * len(payload)


async def test_longer_bytes_stay_in_the_socket_below_the_threshold(unix: Carrier) -> None:
    payload = bytes(MOST_AT_ONCE + 1)
    limits = WireLimits(segment_threshold_bytes=8 * MIB)
    async with opened(unix.open_pair, limits) as (host, _):
        for _ in range(WORTH_KEEPING + 2):
            await host.request("look", payload)
        assert host.statistics().bytes_sent > (WORTH_KEEPING + 2) * len(payload)


async def test_no_more_is_kept_than_the_limit(unix: Carrier) -> None:
    async with opened(unix.open_pair, evolve(SMALL, max_segments=8)) as (host, _):
        for _ in range(2 * WORTH_KEEPING):
            await host.request("look", bytes(SIZE))
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(host.request, "look", bytes(SIZE))
            for size in (130 * KIB, 500 * KIB, 511 * KIB):
                nursery.start_soon(host.request, "look", bytes(size))
        for size in (130 * KIB, 300 * KIB, 511 * KIB):
            for _ in range(2 * WORTH_KEEPING):
                await host.request("look", bytes(size))
            assert host.statistics().kept_bytes <= SMALL.segment_pool_bytes
        for number in range(5):  # all segments in use at once, and one more
            await host.request("keep", bytes(SIZE + number))
        assert SIZE < host.statistics().kept_bytes <= SMALL.segment_pool_bytes


async def test_what_is_not_used_is_freed_after_a_while(
    unix: Carrier, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(unix.open_pair) as (host, _):
        for _ in range(WORTH_KEEPING + 2):
            await host.request("look", bytes(SIZE))
        assert host.statistics().kept_bytes == SIZE
        await wait_until(lambda: host.statistics().kept_bytes == 0)


@pytest.mark.slow
async def test_what_a_function_keeps_is_told_when_it_lets_go(unix: Carrier) -> None:
    """No other frame is sent meanwhile, and the function may release the view in any thread."""
    async with opened(unix.open_pair) as (host, agent):
        await host.request("keep", filled(SIZE))
        await park()
        assert host.statistics().lent_bytes == agent.statistics().borrowed_bytes == SIZE
        await trio.to_thread.run_sync(kept.clear)
        await wait_until(lambda: host.statistics().lent_bytes == 0)
        assert agent.statistics().borrowed_bytes == 0


async def test_a_host_that_has_nothing_to_say_says_what_it_does_not_use(
    unix: Carrier, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(unix.open_pair) as (host, agent):
        response = await host.request("share", b"%d" % SIZE)
        assert len(response.payload) == SIZE
        assert agent.statistics().lent_bytes == SIZE
        sent = host.statistics().messages_sent
        await trio.sleep(5)
        assert agent.statistics().lent_bytes == SIZE
        del response
        await wait_until(lambda: agent.statistics().lent_bytes == 0)
        assert host.statistics().messages_sent == sent


async def test_a_segment_that_nobody_can_write_to_is_handed_on_by_functions(unix: Carrier) -> None:
    async def hand_on(call: InboundCall) -> bytes:
        return bytes((await call.channel.request("look", call.body)).payload)

    handing_on = Functions({"hand_on": hand_on})
    async with unix.open_pair(
        host_service=FUNCTIONS, agent_service=handing_on, functions=handing_on.names, limits=SMALL
    ) as (host, agent):
        buffer = filled(2 * MIB)
        buffer.seal()
        assert (await host.request("hand_on", buffer)).payload == b"1 2097152 shared"
        assert agent.statistics().bytes_sent < 2 * KIB
        # The host may write to such a buffer again, so it is copied into a segment of the function's own.
        assert (await host.request("hand_on", filled(SIZE))).payload == b"1 262144 shared"
        assert agent.statistics().bytes_sent < 2 * KIB
        assert agent.statistics().kept_bytes == SIZE


async def test_a_call_that_cannot_be_sent_lends_nothing(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        await host.request("look", filled(SIZE))
        metadata: dict[str, HeadValue] = {"too": object()}  # type: ignore[dict-item]  # the test
        with pytest.raises(LocalProtocolError, match="the head cannot be encoded"):
            await host.request("look", filled(SIZE), metadata=metadata)
        await wait_until(lambda: host.statistics().lent_bytes == 0)


async def test_without_memory_for_a_segment_the_socket_will_do(
    unix: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError("no more")

    async with opened(unix.open_pair) as (host, _):
        monkeypatch.setattr(os, "memfd_create", refuse)
        for _ in range(2 * WORTH_KEEPING):
            assert (await host.request("echo", bytes(SIZE))).payload == bytes(SIZE)
        assert host.statistics().kept_bytes == 0


async def test_who_keeps_too_much_gets_no_more(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        for _ in range(3):
            await host.request("keep", filled(2 * MIB))
        with pytest.raises(Overloaded, match=r"6291456 bytes in 3 shared buffers; at most 6291"):
            await host.request("keep", filled(1 * MIB))
        before = host.statistics().bytes_sent
        await host.request("keep", filled(SIZE))  # can be sent as bytes
        assert host.statistics().bytes_sent - before > SIZE
        kept.clear()
        await host.request("look", b"")  # its answer brings the release
        await host.request("keep", filled(1 * MIB))


# -- calls that do not go well -------------------------------------------------------------------------


async def test_refused_calls_leave_nothing(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        for _ in range(3 * SMALL.max_segments):
            with pytest.raises(CallFailed, match="no function 'nobody'"):
                await host.request("nobody", filled(SIZE))
        await wait_until(lambda: host.statistics().lent_bytes == 0)


async def test_arguments_nobody_looks_at_leave_nothing(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.request, "sleep", filled(2 * MIB))
                await wait_until(lambda: agent.statistics().handlers_running == 1)
                nursery.cancel_scope.cancel()
            await wait_until(lambda: not agent.statistics().handlers_running)
        await wait_until(lambda: host.statistics().lent_bytes == 0)


async def test_segments_and_small_calls_do_not_mix(unix: Carrier) -> None:
    """The socket takes a few bytes at a time, so that frames are sent in pieces."""
    async with opened(unix.open_pair) as (host, agent):
        for channel in (host, agent):
            stream = channel._pipe._stream  # type: ignore[attr-defined]  # of a socket's
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

        async def small(channel: CommunicationChannel, number: int) -> None:
            payload = b"%d" % number * (1 + number * 97 % 5000)
            assert (await channel.request("echo", payload)).payload == payload

        async def large(channel: CommunicationChannel, number: int) -> None:
            text = b"%06d" % number
            expected = b"1 %d %s" % (SIZE + number, text)
            given = filled(SIZE + number, text)
            assert (await channel.request("look", given)).payload == expected

        for channel in (host, agent):
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(small, channel, number)
                    if number % 10 < SMALL.max_segments:
                        nursery.start_soon(large, channel, number)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["look", "share"])
async def test_r4_cancelled_at_any_step_nothing_is_left(unix: Carrier, function: str) -> None:
    buffer = filled(SIZE)

    async def operation(pair: Pair) -> None:
        given = buffer if function == "look" else b"%d" % SIZE
        await pair[0].request(function, given)

    async def check(pair: Pair) -> None:
        host, agent = pair
        gc.collect()  # the exception may hold the cancelled payload in a cycle
        assert (await host.request("look", buffer)).payload == b"1 262144 shared"
        await wait_until(
            lambda: (
                not any(
                    (each.lent_bytes or each.borrowed_bytes or each.handlers_running)
                    for each in (host.statistics(), agent.statistics())
                )
            )
        )

    sweep = await cancel_sweep(lambda: opened(unix.open_pair), operation, check)
    assert sweep.runs >= 5
    buffer.close()


# -- peers that break the rules --------------------------------------------------------------------------


@asynccontextmanager
async def hostile(
    unix: Carrier, *features: str
) -> AsyncIterator[tuple[CommunicationChannel, RawPeer]]:
    """Open a host's channel, and an instance that may pass descriptors."""
    async with unix.open_raw(
        service=FUNCTIONS, limits=SMALL, peer_limits=SMALL, features=[SEGMENTS, *features]
    ) as (host, peer):
        await peer.send(FrameType.LEND)
        assert (await peer.receive(FrameType.LEND))[3] == 1
        yield host, peer


def announcing(
    size: int, number: int = 0, call_id: int = 2, *, flags: int = SHARED, name: str = "look"
) -> bytes:
    return RawPeer.encode(
        REQUEST,
        flags=flags | FRAGMENT,
        call_id=call_id,
        b=NO_DEADLINE,
        head={"function": name, "size": size, "segment": number},
    )


def pass_along(peer: RawPeer, data: bytes, *passed: Descriptor) -> None:
    assert isinstance(peer.stream, SocketStream)
    filenos = [each.fileno for each in passed]
    assert socket.send_fds(peer.stream.socket, [data], filenos) == len(data)


def sealed(size: int, seals: int, *, whole: int | None = None, beyond_end: int = 0) -> Descriptor:
    """Return a memory file with memory for ``size`` bytes, and for more beyond its end."""
    made = Descriptor(os.memfd_create("hostile", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC))
    os.ftruncate(made.fileno, size)
    if whole != 0:
        os.posix_fallocate(made.fileno, 0, size if whole is None else whole)
    if beyond_end:
        place = (ctypes.c_long(size), ctypes.c_long(beyond_end))
        assert LIBC.fallocate(made.fileno, KEEP_SIZE, *place) == 0
        assert os.fstat(made.fileno).st_size == size
    fcntl.fcntl(made.fileno, fcntl.F_ADD_SEALS, seals)
    return made


LIBC = ctypes.CDLL(None)
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, of fallocate(2)

FIXED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
FINAL = FIXED | fcntl.F_SEAL_WRITE


async def test_an_honest_one_is_served(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(2 * MIB), sealed(2 * MIB, FINAL))
        answer = await peer.receive(RESPONSE)
        assert answer[6] == b"1 2097152 " + bytes(6)
        assert host.is_connected


@pytest.mark.parametrize(
    ("size", "seals", "whole", "why"),
    [
        (SIZE, 0, True, "not sealed against shrinking and growing"),
        (SIZE, fcntl.F_SEAL_GROW, True, "not sealed against shrinking and growing"),
        (SIZE - 1, FINAL, True, "the file has 262143 bytes, not 262144"),
        (1 * MIB, FIXED, True, "1048576 bytes can change, or is not fully allocated"),
        (1 * MIB, FINAL, False, "1048576 bytes can change, or is not fully allocated"),
        (8 * MIB, FINAL, True, "8388608 bytes; at most 4194304 are allowed"),
    ],
)
async def test_what_is_not_as_it_should_be_ends_the_connection(
    unix: Carrier, size: int, seals: int, whole: bool, why: str
) -> None:
    async with hostile(unix) as (host, peer):
        claimed = max(size, SIZE)
        pass_along(peer, announcing(claimed), sealed(size, seals, whole=None if whole else 0))
        await expect_expelled(host, why)


@pytest.mark.parametrize("before_end", [0, 2 * MIB - 4096])
async def test_memory_beyond_the_end_does_not_pass_for_what_is_missing(
    unix: Carrier, before_end: int
) -> None:
    """Reading a hole would allocate memory in the reader's process."""
    made = sealed(2 * MIB, FINAL, whole=before_end, beyond_end=2 * MIB)
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(2 * MIB), made)
        await expect_expelled(host, "2097152 bytes can change, or is not fully allocated")
    assert allocated(made) == before_end


async def test_r18_memory_beyond_the_end_is_freed_and_not_kept_with_a_view(unix: Carrier) -> None:
    made = sealed(SIZE, FINAL, beyond_end=100 * MIB)
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(SIZE, name="keep"), made)
        await peer.receive(RESPONSE)
        assert host.statistics().borrowed_bytes == allocated(made) == SIZE


async def test_r18_a_view_keeps_no_more_than_its_bytes_when_the_peer_is_gone(unix: Carrier) -> None:
    """A small payload in a large file is copied, so that the file can be freed."""
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(1000, name="keep"), sealed(4 * MIB, FINAL, beyond_end=MIB))
        await peer.receive(RESPONSE)
        await peer.reset()
        await host.closed.wait()
    assert len(kept[0]) == 1000
    assert "memfd:hostile" not in Path("/proc/self/maps").read_text()


async def test_a_large_payload_in_a_larger_file_is_refused(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(1 * MIB), sealed(2 * MIB, FINAL))
        await expect_expelled(host, "1048576 bytes is in a file of 2097152")


async def test_r18_what_may_still_change_is_copied_if_it_is_a_large_array(unix: Carrier) -> None:
    made = sealed(1 * MIB + 4096, FIXED)
    async with hostile(unix, TYPES) as (host, peer):
        pass_along(peer, announcing(1 * MIB), made)
        assert (await peer.receive(RESPONSE))[6] == b"1 1048576 " + bytes(6)
        assert host.statistics().borrowed_bytes == 0


@pytest.mark.parametrize("features", [(), (TYPES,)])
async def test_r18_memory_that_is_missing_is_not_copied(
    unix: Carrier, features: tuple[str, ...]
) -> None:
    async with hostile(unix, *features) as (host, peer):
        pass_along(peer, announcing(1 * MIB), sealed(1 * MIB, FIXED, whole=0))
        await expect_expelled(host, "1048576 bytes can change, or is not fully allocated")


async def test_bytes_larger_than_a_message_must_be_agreed_on(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(1 * MIB, flags=0), sealed(1 * MIB, FINAL))
        await expect_expelled(host, "1048576 bytes is too large to copy")


async def test_a_file_that_is_open_for_reading_only_counts_all_that_it_may_hold(
    unix: Carrier,
) -> None:
    made = sealed(SIZE, FINAL, beyond_end=6 * MIB)
    read_only = Descriptor(os.open(f"/proc/self/fd/{made.fileno}", os.O_RDONLY))
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(SIZE), read_only)
        await expect_expelled(host, "more than 6291456 bytes together")


def allocated(made: Descriptor) -> int:
    return os.fstat(made.fileno).st_blocks * 512


def memory_files() -> list[str]:
    """Return the names of the memory files that are open in this process."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            link = os.readlink(f"/proc/self/fd/{number}")
            if link.startswith("/memfd:"):
                found.append(link.removeprefix("/memfd:").partition(" ")[0])
    return found


async def expect_expelled(host: CommunicationChannel, why: str) -> None:
    await host.closed.wait()
    assert isinstance(host.closed_by, ChannelBroken)
    assert why in str(host.closed_by)


async def test_only_memory_files_are_taken(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        with open(__file__, "rb") as file:
            pass_along(peer, announcing(1000), Descriptor(os.dup(file.fileno())))
        await expect_expelled(host, "the file is not a memory file")


async def test_what_may_still_change_is_copied_before_it_is_looked_at(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        descriptor, mapping = make_memory_file(SIZE)
        pass_along(peer, announcing(SIZE, name="keep"), descriptor)
        await peer.receive(RESPONSE)
        mapping[:5] = b"later"
        assert bytes(kept[0][:5]) == bytes(5)
        assert host.statistics().borrowed_bytes == 0
        mapping.close()


async def test_two_descriptors_at_once_are_one_too_many(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        made = sealed(SIZE, FINAL)
        pass_along(peer, announcing(SIZE), made, made)
        await expect_expelled(host, "2 file descriptors arrived together")


async def test_a_hundred_are_not_even_taken(unix: Carrier) -> None:
    """The kernel passes as many as there is room for, and closes the others."""
    async with hostile(unix) as (host, peer):
        made = sealed(SIZE, FINAL)
        pass_along(peer, announcing(SIZE), *[made] * 100)
        error = await peer.receive(FrameType.ERROR)
        assert error[5] is not None
        assert "in shared memory" in str(error[5]["message"]) or host.closed.is_set()


async def test_descriptors_that_no_frame_speaks_of(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        made = sealed(SIZE, FINAL)
        beat = RawPeer.encode(FrameType.HEALTH_CHECK)
        for _ in range(3):
            pass_along(peer, beat, made)
        await expect_expelled(host, "file descriptors arrived without frames that use them")


async def test_a_descriptor_that_never_comes(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        await peer.stream.send_all(announcing(SIZE))
        await expect_expelled(host, "a segment without a file descriptor")


async def test_numbers_must_be_free(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        made = sealed(SIZE, FINAL)
        for call_id in (2, 4):
            pass_along(peer, announcing(SIZE, 1, call_id, name="sleep"), made)
        await expect_expelled(host, "number 1 is in use")


async def test_what_was_not_lent_cannot_be_released(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        await peer.send(FrameType.RELEASE)
        await expect_expelled(host, "RELEASE of segment 0, which was not sent to the peer")


async def test_numbers_are_few(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(SIZE, SMALL.max_segments), sealed(SIZE, FINAL))
        await expect_expelled(host, "number 4 is in use")


async def test_r18_what_a_peer_may_have_mapped_here_is_bounded(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        made = sealed(4 * MIB, FINAL)
        pass_along(peer, announcing(4 * MIB, 0, 2, name="keep"), made)
        await peer.receive(RESPONSE)
        assert host.statistics().borrowed_bytes == 4 * MIB
        # A large file counts in full, even if little of it is payload.
        pass_along(peer, announcing(1000, 1, 4, name="sleep"), made)
        await expect_expelled(host, "more than 6291456 bytes together")


async def test_what_is_too_large_for_bytes_is_not_made_into_some(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(1 * MIB, name="echo"), sealed(1 * MIB, FINAL))
        head = (await peer.receive(FrameType.ERROR))[5]
        assert head is not None
        assert (
            head["message"]
            == "the arguments in shared memory have 1048576 bytes; at most 524288 can be copied"
        )
        assert host.is_connected


async def test_descriptors_nobody_agreed_on_are_closed_unseen(unix: Carrier) -> None:
    """Holds before the answer to LEND, and on connections without the feature."""
    for features in ([SEGMENTS], []):
        async with unix.open_raw(service=FUNCTIONS, limits=SMALL, features=features) as (
            host,
            peer,
        ):
            made = sealed(SIZE, FINAL)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(50):
                pass_along(peer, RawPeer.encode(FrameType.HEALTH_CHECK), made)
            await peer.receive(FrameType.HEALTH_RESPONSE)
            assert host.is_connected
            assert len(os.listdir("/proc/self/fd")) == before


async def test_strangers_pass_nothing(unix: Carrier) -> None:
    async with (
        unix.open_host(limits=SMALL) as (_, endpoint),
        await unix.connect(endpoint.address) as stream,
    ):
        peer = RawPeer(stream)
        await peer.receive_challenge()
        made = sealed(SIZE, FINAL)
        before = len(os.listdir("/proc/self/fd"))
        pass_along(peer, b"x", made)
        await park()
        assert len(os.listdir("/proc/self/fd")) == before


async def test_whoever_asks_must_have_agreed(unix: Carrier) -> None:
    async with unix.open_raw(service=FUNCTIONS) as (host, peer):
        await peer.send(FrameType.LEND)
        await expect_expelled(host, "LEND, although the handshake did not agree on segments")


@pytest.mark.parametrize("how", ["tcp", "memory_stream"])
async def test_over_anything_but_a_unix_socket_nobody_may_ask(
    how: str, request: pytest.FixtureRequest
) -> None:
    carrier: Carrier = request.getfixturevalue(how)
    async with carrier.open_raw(service=FUNCTIONS, features=[SEGMENTS]) as (host, peer):
        await peer.send(FrameType.LEND)
        await expect_expelled(host, "LEND, although the handshake did not agree on segments")


async def test_a_peer_that_never_lets_us_pass_any(unix: Carrier) -> None:
    async with unix.open_raw(limits=SMALL, features=[SEGMENTS]) as (host, _):
        with pytest.raises(DeadlineExceeded) as caught:
            await host.request("f", filled(SIZE), timeout=0.01)
        assert caught.value.delivered == "no"
        assert host.statistics().calls_in_flight == 0


async def test_who_waits_to_pass_one_hears_of_the_end(unix: Carrier) -> None:
    async with unix.open_raw(limits=SMALL, features=[SEGMENTS]) as (host, peer):

        async def request() -> None:
            with pytest.raises(ChannelBroken):
                await host.request("f", filled(SIZE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await park()
            await peer.reset()


async def test_what_arrives_with_the_end_of_a_connection_is_closed(unix: Carrier) -> None:
    async with hostile(unix) as (host, peer):
        pass_along(peer, announcing(SIZE)[:-3], sealed(SIZE, FINAL))
        await park()
        assert memory_files() == ["hostile"]
        await peer.reset()
        await host.closed.wait()
        assert memory_files() == []  # although the test still holds the channel


# -- no descriptor is left -------------------------------------------------------------------------------


@asynccontextmanager
async def no_more_descriptors() -> AsyncIterator[None]:
    """Leave no free descriptor in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(each) for each in os.listdir("/proc/self/fd")}
    fillers = [os.dup(0) for number in range(max(used)) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 1, hard))
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


async def test_r23_without_descriptors_only_that_call_fails(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        buffer = filled(SIZE)
        await host.request("look", buffer)  # the peer has answered LEND
        await agent.request("look", filled(SIZE))
        pre_made = filled(SIZE)
        pre_made.seal()

        async with no_more_descriptors():
            with pytest.raises(
                Overloaded, match="cannot read the arguments in shared memory: Too many"
            ):
                await host.request("look", buffer)
            with pytest.raises(
                Overloaded, match="cannot read the arguments in shared memory: Too many"
            ):
                await host.request("echo", buffer)
            assert (await host.request("echo", b"unharmed")).payload == b"unharmed"
        assert (await host.request("look", buffer)).payload == b"1 262144 shared"
        await wait_until(lambda: host.statistics().lent_bytes == 0)


async def test_r23_a_result_for_which_there_is_no_descriptor(unix: Carrier) -> None:
    made = filled(SIZE)
    made.seal()

    async def give(call: InboundCall) -> SharedBuffer:
        return made

    functions = Functions({"give": give})
    async with unix.open_pair(agent_service=functions, functions=functions.names, limits=SMALL) as (
        host,
        _,
    ):
        assert (await host.request("give")).payload[-1] == 9
        async with no_more_descriptors():
            response = await host.request("give")
            with pytest.raises(
                CallFailed, match="cannot read the result in shared memory: Too many"
            ) as caught:
                _ = response.payload
            assert caught.value.delivered == "yes"
            assert "262144 bytes" in repr(response)
        del response, caught
        assert (await host.request("give")).payload[-1] == 9


def test_a_descriptor_that_the_kernel_does_not_take_is_offered_again() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.channels.crowded"]
    subprocess.run(command, cwd=root, check=True, timeout=20)
