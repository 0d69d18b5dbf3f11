"""Large arrays and large bytes between a host and an agent: segments that are reused, and their life."""

from __future__ import annotations

import gc
import os
import struct
from typing import TYPE_CHECKING, TypeAlias, cast

import pytest
import trio
from attrs import evolve

from spear import Array, LocalProtocolError, Overloaded, Rejected, WireLimits
from spear._segments import Segment, SharedBytes, UnsharedBytes
from spear.channels import CommunicationChannel
from spear.testing import Functions, cancel_sweep
from spear.wire import Payload, decode_value_untrusted, encode_sendable

from .helpers import open_in_memory, open_served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from spear.channels import InboundCall
    from spear.testing import OpenPair

    from .helpers import Carrier

KIB = 1024
MIB = 1024 * KIB

SMALL = WireLimits(
    max_message_bytes=512 * KIB,
    max_segment_bytes=4 * MIB,
    mapped_segment_bytes=12 * MIB,
    max_segments=4,
    segment_threshold_bytes=128 * KIB,
    segment_pool_bytes=4 * MIB,
    segment_pool_seconds=1000.0,
)
"""Limits that a test reaches with few bytes."""

Pair: TypeAlias = tuple[CommunicationChannel, CommunicationChannel]
kept: list[object] = []


@pytest.fixture(autouse=True)
def nothing_is_kept(no_descriptor_is_left: None) -> Iterator[None]:
    yield
    kept.clear()


def bundle(count: int, first: float = 1) -> Payload:
    """Return the payload of a list with an array of so many MiB."""
    return encode_sendable([numbers(count, first)])[0]


def numbers(count: int, first: float = 1) -> Array:
    return Array(struct.pack("<d", first) + bytes(count * MIB - 8), "<f8")


def array_in(payload: bytes | memoryview) -> Array:
    return cast("list[Array]", decode_value_untrusted(payload))[0]


def first_of(payload: bytes | memoryview) -> float:
    """Return the first number of the array in a payload."""
    (number,) = struct.unpack("<d", array_in(payload).data[:8])
    return cast("float", number)


async def again(call: InboundCall) -> Payload:
    """Return an array of the same size, whose first number is larger by one."""
    arrived = array_in(call.view())
    return bundle(arrived.nbytes // MIB, first_of_array(arrived) + 1)


def first_of_array(array: Array) -> float:
    return cast("float", struct.unpack("<d", array.data[:8])[0])


async def keep(call: InboundCall) -> bytes:
    kept.append(array_in(call.view()))
    return b""


async def measure(call: InboundCall) -> bytes:
    return b"%d" % len(call.payload)


async def make(call: InboundCall) -> bytes:
    return b"x" * int(call.payload)


async def unshare(call: InboundCall) -> Payload:
    """Return the argument as a host forwards it."""
    return UnsharedBytes(SharedBytes(call.payload))


async def sleep(call: InboundCall) -> Payload:
    """Hold the arguments until cancelled."""
    view = call.view()
    await trio.sleep_forever()
    return view


FUNCTIONS = Functions(
    {
        "again": again, "keep": keep, "measure": measure, "make": make, "sleep": sleep,
        "unshare": unshare,
    }
)  # fmt: skip


def opened(open_pair: OpenPair, limits: WireLimits = SMALL) -> AbstractAsyncContextManager[Pair]:
    return open_served(open_pair, FUNCTIONS, limits)


async def ask(channel: CommunicationChannel, size: int, first: float = 1) -> memoryview | bytes:
    """Call ``again`` with an array of so many MiB; return the settled result."""
    response = await channel.request("again", bundle(size, first), is_cbor=True)
    await response.settle()
    return response.payload


async def test_arrays_larger_than_a_message_come_and_go(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        for caller in host, agent:
            for first in range(3):
                assert first_of(await ask(caller, 3, first)) == first + 1
        before = host.statistics().bytes_sent
        await ask(host, 3)
        assert host.statistics().bytes_sent - before < KIB


async def test_in_memory_they_come_as_bytes() -> None:
    async with opened(open_in_memory, evolve(SMALL, max_message_bytes=8 * MIB)) as (host, _):
        assert first_of(await ask(host, 3)) == 2


async def test_over_another_transport_they_are_too_large(tcp: Carrier) -> None:
    async with opened(tcp.open_pair) as (host, _):
        with pytest.raises(LocalProtocolError, match="the peer accepts at most 524288") as caught:
            await ask(host, 3)
        assert caught.value.code == "payload_too_large"
        with pytest.raises(Rejected, match="send the result in parts, as a stream"):
            await host.request("make", b"3000000")


async def test_a_segment_is_used_again_and_a_result_stays_as_it_was(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        first = await ask(host, 1, 5)
        made = host.statistics().kept_bytes
        assert MIB <= made <= 2 * MIB
        second = await ask(host, 1, 7)
        # The result of the first call is a copy: the agent writes the next result to the same segment.
        assert (first_of(first), first_of(second)) == (6, 8)
        for number in range(5):
            await ask(host, 1, number)
        assert host.statistics().kept_bytes == made
        assert agent.statistics().kept_bytes <= 2 * made


async def test_what_a_function_keeps_is_not_written_to_again(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        for first in 3, 4:
            await host.request("keep", bundle(1, first), is_cbor=True)
        assert [first_of_array(cast("Array", each)) for each in kept] == [3, 4]
        assert host.statistics().lent_bytes >= 2 * MIB
        kept.clear()
        gc.collect()
        await ask(host, 1)
        assert host.statistics().lent_bytes == 0


async def test_arrays_wait_until_the_peer_has_released_others(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        async with trio.open_nursery() as nursery:
            for _ in range(20):  # four segments, 12 MiB
                nursery.start_soon(ask, host, 3)
        assert host.statistics().lent_bytes == 0


async def test_when_the_peer_keeps_all_it_may_the_error_says_so(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        for _ in range(4):
            await host.request("keep", bundle(1), is_cbor=True)
        with pytest.raises(Overloaded, match=r"still uses \d+ bytes in 4 shared buffers"):
            await host.request("again", bundle(1), is_cbor=True, timeout=0.2)
        kept.clear()
        gc.collect()
        await host.request("measure", b"")  # the release comes with the response
        await ask(host, 1)


async def test_what_nobody_uses_is_freed_after_a_while(unix: Carrier) -> None:
    async with opened(unix.open_pair, evolve(SMALL, segment_pool_seconds=0.05)) as (host, agent):
        await ask(host, 3)
        while kept_bytes := host.statistics().kept_bytes + agent.statistics().kept_bytes:
            await trio.sleep(0.01)
        assert kept_bytes == 0


async def test_no_more_is_kept_than_the_limit(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, host, 3)
        await host.request("measure", b"")
        for channel in host, agent:
            assert channel.statistics().kept_bytes <= SMALL.segment_pool_bytes


@pytest.mark.slow
async def test_r4_cancelled_at_any_step_nothing_is_left(unix: Carrier) -> None:
    async def operation(pair: Pair) -> None:
        await ask(pair[0], 2)

    async def check(pair: Pair) -> None:
        host, agent = pair
        gc.collect()  # the exception may hold the cancelled payload in a cycle
        assert first_of(await ask(host, 2)) == 2
        while any(
            each.lent_bytes or each.borrowed_bytes or each.handlers_running
            for each in (host.statistics(), agent.statistics())
        ):
            await host.request("measure", b"")  # each call tells of released segments

    sweep = await cancel_sweep(lambda: opened(unix.open_pair), operation, check)
    assert sweep.runs >= 5


async def test_a_function_that_is_cancelled_releases_its_arguments(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        with trio.move_on_after(0.1):
            await host.request("sleep", bundle(1), is_cbor=True)
        while host.calls_in_flight or host.statistics().lent_bytes:
            gc.collect()
            await host.request("measure", b"")
        assert first_of(await ask(host, 1)) == 2


async def test_a_result_outlives_its_channel(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, _):
        result = await ask(host, 3, 8)
        await host.request("keep", bundle(1, 4), is_cbor=True)
    assert first_of(result) == 9
    assert first_of_array(cast("Array", kept[0])) == 4


async def test_bytes_larger_than_a_message_come_and_go_as_bytes(unix: Carrier) -> None:
    async with opened(unix.open_pair) as (host, agent):
        assert (await host.request("measure", bytes(3 * MIB))).payload == b"%d" % (3 * MIB)
        for caller in host, agent:
            response = await caller.request("make", b"%d" % (3 * MIB))
            await response.settle()
            payload = response.payload
            assert type(payload) is bytes
            assert payload == b"x" * (3 * MIB)
        with pytest.raises(Rejected, match="3145728 bytes; at most 524288 can be copied"):
            await agent.request("measure", bytes(3 * MIB))
        with pytest.raises(LocalProtocolError, match="at most 4194304 in shared memory"):
            await host.request("measure", bytes(5 * MIB))
        with pytest.raises(
            Rejected, match="at most 4194304 in shared memory; send the result in parts"
        ):
            await host.request("make", b"5000000")


async def test_bytes_that_are_forwarded_stay_bytes(unix: Carrier, tcp: Carrier) -> None:
    for open_pair in open_in_memory, unix.open_pair, tcp.open_pair:
        async with opened(open_pair) as (host, agent):
            for caller in host, agent:
                for payload in b"", b"abc", bytes(100 * KIB):
                    response = await caller.request("unshare", UnsharedBytes(SharedBytes(payload)))
                    await response.settle()
                    assert type(response.payload) is bytes
                    assert response.payload == payload


async def test_a_segment_that_must_travel_as_bytes_is_not_copied_if_it_is_too_large(
    tcp: Carrier,
) -> None:
    unread: Segment = type("Unread", (Segment,), {"__len__": lambda _: 3 * MIB})()
    async with opened(tcp.open_pair) as (host, _):
        for payload in UnsharedBytes(unread), unread:
            with pytest.raises(LocalProtocolError, match=r"3145728 bytes; .* 524288") as caught:
                await host.request("measure", payload)
            assert caught.value.code == "payload_too_large"


async def test_without_memory_for_a_segment_the_error_names_the_limits(
    unix: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fileno: int, start: int, size: int) -> None:
        raise OSError("no memory")

    async with opened(unix.open_pair) as (host, _):
        monkeypatch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(LocalProtocolError, match="the peer accepts at most 524288"):
            await ask(host, 1)
        assert host.statistics().kept_bytes == host.statistics().lent_bytes == 0
