"""The conformance suites of streams and transports detect faulty implementations."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from spear.testing import STREAM_CASES, TRANSPORT_CASES, TransportSubject, check_streams
from spear.transports import (
    Address,
    ByteStream,
    ConnectOptions,
    MemoryAddress,
    MemoryListener,
    MemoryStream,
    MemoryTransport,
    Opening,
    Transport,
    connect_memory,
    memory_stream_pair,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from spear.transports import ListenOptions


class Wrapper(ByteStream):
    """A stream that delegates to another one."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.stream.receive_some(max_bytes)

    def close(self) -> None:
        self.stream.close()

    def describe_peer(self) -> str:
        return self.stream.describe_peer()


class Forgetful(Wrapper):
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return (await self.stream.receive_some(65536))[:max_bytes]


class Generous(Wrapper):
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.stream.receive_some(65536)


class Greedy(Wrapper):
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        there = self.stream._incoming.data
        if not there:
            return await self.stream.receive_some(max_bytes)
        received = bytes(there[:max_bytes])
        del there[:max_bytes]
        await trio.lowlevel.checkpoint()
        return received


class Literal(Wrapper):
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            await self.stream.send_all(data)
        else:
            await self.stream.send_eof()


class Careless(Wrapper):
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(bytes(data)[:4096])


class Hasty(Wrapper):
    def close(self) -> None:
        self.stream._outgoing.data.clear()
        self.stream.close()


class Silent(Wrapper):
    async def send_eof(self) -> None:
        self.stream.close()


def opening(kind: type[Wrapper]) -> AbstractAsyncContextManager[tuple[Wrapper, Wrapper]]:
    @asynccontextmanager
    async def open_streams() -> AsyncIterator[tuple[Wrapper, Wrapper]]:
        one, other = map(kind, memory_stream_pair())
        async with one, other:
            yield one, other

    return open_streams()


async def test_good_streams_pass() -> None:
    await check_streams(lambda: opening(Wrapper))  # raises nothing


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (Forgetful, "loses_nothing_in_short_reads"),
        (Generous, "loses_nothing_in_short_reads"),
        (Greedy, "keeps_what_a_cancelled_read_would_have_read"),
        (Literal, "takes_any_buffer_and_nothing"),
        (Careless, "holds_a_sender_up_whose_peer_does_not_read"),
        (Hasty, "delivers_what_was_sent_before_the_end"),
        (Silent, "goes_on_in_the_other_direction"),
    ],
)
async def test_a_case_finds_what_is_wrong_with_streams(kind: type[Wrapper], case: str) -> None:
    with pytest.raises((AssertionError, trio.ClosedResourceError, trio.BrokenResourceError)):
        await STREAM_CASES[case](lambda: opening(kind))


async def test_a_failure_names_the_case() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await check_streams(lambda: opening(Literal))
    assert caught.value.__notes__ == ["in the case 'keeps_trios_contract'"]


class Illiterate(Transport):
    """The memory transport under another name."""

    name = "memory"

    def parse(self, address: str) -> Address:
        return MemoryAddress("always the same")

    def listen(self, options: ListenOptions) -> Opening[MemoryListener]:
        return MemoryTransport().listen(options)

    def connect(self, address: Address, options: ConnectOptions) -> Opening[MemoryStream]:
        return MemoryTransport().connect(address, options)


class Leaky(Illiterate):
    def connect(self, address: Address, options: ConnectOptions) -> Opening[MemoryStream]:
        return Opening(self._connect, address)

    async def _connect(self, address: Address) -> MemoryStream:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        leaked.append(descriptor)
        await trio.lowlevel.checkpoint()
        assert isinstance(address, MemoryAddress)
        stream = await connect_memory(address.name)
        os.close(leaked.pop())
        return stream


class Grouping(Illiterate):
    @asynccontextmanager
    async def connect(  # type: ignore[override]  # an async context manager all the same
        self, address: Address, options: ConnectOptions
    ) -> AsyncIterator[MemoryStream]:
        async with trio.open_nursery(), MemoryTransport().connect(address, options) as stream:
            yield stream


leaked: list[int] = []


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (Illiterate, "writes_addresses_that_it_can_read"),
        (Leaky, "leaves_nothing_open_wherever_it_is_cancelled"),
        (Grouping, "lets_an_exception_of_a_block_through_as_it_is"),
    ],
)
async def test_a_case_finds_what_is_wrong_with_a_transport(
    kind: type[Transport], case: str, tmp_path: object
) -> None:
    subject = TransportSubject(kind(), lambda: str(tmp_path))
    try:
        with pytest.raises(AssertionError):
            await TRANSPORT_CASES[case](subject)
    finally:
        while leaked:
            os.close(leaked.pop())
