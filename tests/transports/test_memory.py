"""Listeners inside the process."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from spear import ChannelBroken, ConfigurationError
from spear.transports import MemoryStream, connect_memory, open_memory_listener


async def test_connections_arrive_in_order() -> None:
    async with open_memory_listener("here") as listener:
        for number in b"ab":
            async with await connect_memory("here") as stream:
                await stream.send_all(bytes([number]))
        for number in b"ab":
            async with await listener.accept() as stream:
                assert await stream.receive_some() == bytes([number])
                assert await stream.receive_some() == b""


async def test_a_name_belongs_to_one_listener() -> None:
    async with open_memory_listener("here"):
        with pytest.raises(ConfigurationError, match="memory:here is in use"):
            open_memory_listener("here")
    async with open_memory_listener("here") as successor:
        successor.close()
        async with open_memory_listener("here"):
            successor.close()  # a second time: the name belongs to another listener
            async with await connect_memory("here"):
                pass


async def test_nobody_listens() -> None:
    with pytest.raises(ChannelBroken, match="cannot connect to memory:here: no listener has"):
        await connect_memory("here")
    with pytest.raises(ConfigurationError):
        open_memory_listener("")


def test_runs_do_not_see_each_other() -> None:
    async def listen_and_run_another() -> None:
        async with open_memory_listener("here"):
            await trio.to_thread.run_sync(trio.run, expect_nobody)

    async def expect_nobody() -> None:
        with pytest.raises(ChannelBroken):
            await connect_memory("here")

    trio.run(listen_and_run_another)


async def test_closing_wakes_accept() -> None:
    listener = open_memory_listener("here")

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()


async def fill(name: str) -> list[MemoryStream]:
    return [await connect_memory(name) for _ in range(1024)]


async def test_closing_ends_those_who_wait() -> None:
    listener = open_memory_listener("here")
    queued = await fill("here")

    async def connect() -> None:
        with pytest.raises(ChannelBroken, match="was closed"):
            await connect_memory("here")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()
    for stream in queued:
        assert await stream.receive_some() == b""


async def test_r18_a_full_queue_makes_connecting_wait_and_then_fail(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_memory_listener("here"):
        await fill("here")
        start = trio.current_time()
        with pytest.raises(ChannelBroken, match="no connection to memory:here within 3 s"):
            await connect_memory("here", seconds=3.0)
        assert trio.current_time() - start == pytest.approx(3.0)
