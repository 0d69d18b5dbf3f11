"""Large bytes and arrays from one function to another, through the host and over sockets."""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear import Array, HostLimits, InvalidArguments, Overloaded, WireLimits
from spear._segments import Segment
from spear.channels import CommunicationStrategy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KIB = 1024
MIB = 1024 * KIB

SMALL = WireLimits(
    max_message_bytes=256 * KIB,
    max_segment_bytes=2 * MIB,
    mapped_segment_bytes=4 * MIB,
    max_segments=8,
    segment_threshold_bytes=64 * KIB,
    segment_pool_bytes=1 * MIB,
    request_bytes_in_flight=512 * KIB,
)
"""Limits that a test reaches with few bytes."""

SIZES = [100, 128 * KIB, 1 * MIB]
"""Sent as bytes; after some calls in a segment; more than a message, and than all requests may hold."""


def filled(size: int) -> bytes:
    return b"ab" + bytes(size - 3) + b"\x09"


class Relay:
    """Functions that send large data to each other."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.agent = spear.Agent("relay")
        for each in (
            self.measure, self.back, self.pass_on, self.pass_once, self.pass_stream, self.items,
            self.hold,
        ):  # fmt: skip
            self.agent.function(each)
        policy = spear.RetryPolicy(on=("ConnectionError",), idempotent=True, initial_seconds=0)
        self.agent.function(retry=policy)(self.unsteady)

    async def measure(self, data: bytes) -> list[object]:
        self.begun.append(len(data))
        return [type(data).__name__, len(data), data[:2], data[-1]]

    async def unsteady(self, data: bytes) -> list[object]:
        """Raise at each second call."""
        if len(self.begun) % 2 == 0:
            self.begun.append(0)
            raise ConnectionError("refused")
        return await self.measure(data)

    async def back(self, value: object) -> object:
        return value

    async def pass_on(self, name: str, value: object) -> object:
        return await spear.call(name, value)

    async def pass_once(self, key: str, name: str, value: object) -> object:
        return await spear.call_once(key, name, value)

    async def pass_stream(self, data: bytes) -> list[object]:
        async with spear.context().stream("items", data) as items:
            return [item async for item in items]

    async def items(self, data: bytes) -> AsyncIterator[int]:
        for number in len(data), data[-1]:
            yield number

    async def hold(self, data: bytes) -> None:
        self.begun.append(len(data))
        await trio.sleep_forever()


@asynccontextmanager
async def relaying() -> AsyncIterator[tuple[spear.Deployment, Relay]]:
    """Deploy the functions in this process, but behind a Unix socket."""
    relay = Relay()
    strategies = {"memory": CommunicationStrategy(("unix",))}
    limits = HostLimits(wire=SMALL)
    async with spear.open_spearlet(limits=limits, strategies=strategies) as spearlet:
        yield await spearlet.deploy(relay.agent), relay


@pytest.mark.parametrize("size", SIZES)
async def test_bytes_of_any_size_go_to_another_function_and_back(size: int) -> None:
    async with relaying() as (deployment, _):
        data = filled(size)
        for _ in range(3 if size == MIB else 12):  # enough calls for segments to be used
            seen = await deployment.pass_on("measure", data)
            assert seen == ["bytes", size, b"ab", 9]
            assert await deployment.pass_on("back", data) == data
        assert await deployment.pass_on("back", {"data": data}) == {"data": data}
        assert await deployment.pass_stream(data) == [size, 9]


async def test_large_bytes_come_back_from_calls_of_each_kind() -> None:
    async with relaying() as (deployment, _):
        data = filled(1 * MIB)
        assert (await deployment.back.ask(data)).result == data
        assert await deployment.back.submit(data) == data
        async with deployment.back.map([data, data]) as results:
            assert [each async for each in results] == [data, data]


async def test_arrays_go_to_another_function_and_back() -> None:
    async with relaying() as (deployment, _):
        sent = Array(struct.pack("<d", 5) + bytes(1 * MIB - 8), "<f8")
        for _ in range(3):
            came = await deployment.pass_on("back", [sent])
            assert isinstance(came, list)
            assert isinstance(came[0], Array)
            assert came[0].data == sent.data


@pytest.mark.parametrize("size", SIZES)
async def test_a_call_with_large_bytes_is_tried_again(size: int) -> None:
    async with relaying() as (deployment, relay):
        for _ in range(12):
            seen = await deployment.pass_on("unsteady", filled(size))
            assert seen == ["bytes", size, b"ab", 9]
        assert relay.begun == [0, size] * 12


@pytest.mark.parametrize("size", SIZES)
async def test_a_key_makes_one_call_of_large_bytes(size: int) -> None:
    async with relaying() as (deployment, relay):
        data = filled(size)
        for _ in range(3):
            seen = await deployment.pass_once("k", "measure", data)
            assert seen == ["bytes", size, b"ab", 9]
        assert await deployment.measure.options(key="k")(data) == seen
        assert relay.begun == [size]
        assert await deployment.pass_once("other", "back", data) == data
        assert await deployment.pass_once("other", "back", data) == data
        array = Array(data + bytes(-size % 8), "<f8")
        for _ in range(2):
            came = await deployment.pass_once("array", "back", array)
            assert isinstance(came, Array)
            assert came.data == array.data
        with pytest.raises(spear.FunctionRaised) as caught:
            await deployment.pass_once("k", "measure", data[:-1] + b"x")
        assert caught.value.remote_code == "key_reused"


async def test_calls_hold_no_more_large_bytes_than_the_limit() -> None:
    async with relaying() as (deployment, relay), trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(deployment.hold, filled(1 * MIB))
        while len(relay.begun) < 4:
            await trio.lowlevel.checkpoint()
        await deployment.measure(b"small")  # the release of their segments comes with the response
        with pytest.raises(Overloaded, match="the limit for large ones is 4194304") as caught:
            await deployment.measure(filled(1 * MIB))
        assert caught.value.code == "too_many_bytes"
        assert await deployment.measure(b"small") == ["bytes", 5, b"sm", ord("l")]
        nursery.cancel_scope.cancel()
    assert relay.begun[4:] == [5, 5]


async def make_calls(function: spear.Function) -> None:
    while True:
        await function()


async def test_a_function_that_keeps_its_results_does_not_hold_up_their_maker() -> None:
    """Results for it wait in the host, not in the memory of the instance that has made them."""
    maker, hoarder, kept = spear.Agent("maker"), spear.Agent("hoarder"), list[object]()
    stuck = trio.Event()

    @maker.function
    async def make(number: int) -> Array:
        if number >= 7:
            stuck.set()
        return Array(struct.pack("<d", number) + bytes(1 * MIB - 8), "<f8")

    @maker.function
    async def nop() -> None: ...

    @hoarder.function
    async def hoard() -> None:
        for number in range(3):  # with a little more than 1 MiB each, all that it may hold
            kept.append(await spear.call("make", number))
        async with trio.open_nursery() as nursery:
            for number in range(3, 8):
                nursery.start_soon(spear.call, "make", number)

    @hoarder.function
    async def pause() -> None: ...

    strategies = {"memory": CommunicationStrategy(("unix",))}
    limits = HostLimits(wire=SMALL)
    async with spear.open_spearlet(limits=limits, strategies=strategies) as spearlet:
        makers, hoarders = await spearlet.deploy(maker), await spearlet.deploy(hoarder)
        async with trio.open_nursery() as nursery:
            for function in makers.nop, hoarders.pause:
                nursery.start_soon(make_calls, function)  # with which releases travel
            async with trio.open_nursery() as hoarding:
                hoarding.start_soon(hoarders.hoard)
                await stuck.wait()
                for _ in range(5):
                    assert isinstance(await makers.make(1), Array)
                kept.clear()  # now the others arrive
            nursery.cancel_scope.cancel()


async def test_bytes_that_are_too_large_for_a_segment_are_refused_with_advice() -> None:
    async with relaying() as (deployment, _):
        with pytest.raises(
            InvalidArguments, match="2097152 in shared memory; send the data in parts"
        ):
            await deployment.measure(filled(3 * MIB))


async def test_arguments_that_cannot_be_read_do_not_begin_an_execution() -> None:
    def refuse(_: object) -> memoryview:
        raise OSError(24, "Too many open files")

    lost: Segment = type("Lost", (Segment,), {"__len__": lambda _: 3, "as_view": refuse})()
    async with relaying() as (deployment, relay):
        with pytest.raises(
            Overloaded, match="cannot read the arguments in shared memory: Too many"
        ):
            await deployment.measure.options(key="k").forward(lost, False, None)
        assert relay.begun == []


@pytest.mark.slow
async def test_an_instance_without_shared_memory_takes_messages_only() -> None:
    """The host refuses the call before it copies anything."""
    strategies = {
        "memory": CommunicationStrategy(("unix",)),
        "process": CommunicationStrategy(("tcp",)),
    }
    async with spear.open_spearlet(strategies=strategies) as spearlet:
        relay = await spearlet.deploy(Relay().agent)
        await spearlet.deploy(Path(__file__).with_name("sharing.py"), name="far")
        assert await relay.pass_on("far.in_bytes", filled(1 * MIB)) == ["bytes", MIB, b"ab", 9]
        with pytest.raises(
            spear.FunctionRaised, match="the peer accepts at most 33554432;"
        ) as caught:
            await relay.pass_on("far.in_bytes", filled(40 * MIB))
        assert caught.value.type_name == "InvalidArguments"
        assert caught.value.remote_code == "payload_too_large"
