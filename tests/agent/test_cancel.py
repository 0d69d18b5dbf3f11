"""R4, R6: a cancellation at any step leaves nothing behind; functions that may block are checkpoints."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import Agent, InstanceId
from spear.agent import serve
from spear.channels import open_connection_manager
from spear.testing import cancel_sweep
from spear.transports import make_private_directory, open_unix_listener

from .helpers import Caller, calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from spear.channels import Endpoint
    from spear.wire import Value

app = Agent(concurrency=2)


@app.function
async def echo(value: object) -> object:
    await trio.lowlevel.checkpoint()
    return value


@app.function
def plain(value: object) -> object:
    return value


@app.function(asyncio=True)
async def bridged(value: object) -> object:
    await asyncio.sleep(0)
    return value


@app.function
async def count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


@app.function
def plain_count(n: int) -> Iterator[int]:
    yield from range(n)


@app.function(asyncio=True)
async def bridged_count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


async def still_works(caller: Caller) -> None:
    """Assert that all slots are free, and that calls still work."""
    while caller.channel.statistics().calls_in_flight:
        await trio.sleep(0.001)
    for number in range(3):
        assert await caller.call("echo", number) == number


@pytest.mark.slow
@pytest.mark.parametrize("name", ["echo", "plain", "bridged"])
async def test_r4_a_call_of_any_kind_is_cancelled_cleanly(name: str) -> None:
    sweep = await cancel_sweep(
        lambda: calling(app), lambda caller: caller.call(name, [1, "x"]), still_works
    )
    assert sweep.runs > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["count", "plain_count", "bridged_count"])
async def test_r4_a_stream_of_any_kind_is_cancelled_cleanly(name: str) -> None:
    sweep = await cancel_sweep(
        lambda: calling(app), lambda caller: caller.items(name, 100), still_works
    )
    assert sweep.runs > 5


@asynccontextmanager
async def endpoint_open() -> AsyncIterator[Endpoint]:
    instance = InstanceId("process", "swept")
    with make_private_directory() as directory:
        listener = open_unix_listener(f"{directory}/host")
        async with (
            listener,
            open_connection_manager() as manager,
            manager.open_endpoint(instance, listener) as endpoint,
        ):
            yield endpoint


async def serve_a_little(endpoint: Endpoint) -> None:
    """Connect, answer one call, drain."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            address, secret = endpoint.address, endpoint.secret
            await serve(app, address, secret, endpoint.instance_id, stop=stop)

        nursery.start_soon(run)
        caller = Caller(await endpoint.wait_connected())
        assert await caller.call("echo", 1) == 1
        stop.set()


async def is_disconnected(endpoint: Endpoint) -> None:
    if endpoint.channel is not None:
        await endpoint.channel.closed.wait()
    assert not endpoint.is_connected


@pytest.mark.slow
async def test_r4_serving_is_cancelled_cleanly() -> None:
    sweep = await cancel_sweep(endpoint_open, serve_a_little, is_disconnected)
    assert sweep.runs > 20


# -- checkpoints --------------------------------------------------------------------------------------


async def test_r6_what_may_block_is_a_checkpoint() -> None:
    agent = Agent()
    stop = trio.Event()
    stop.set()

    @agent.function
    async def ask(name: str) -> Value:
        with trio.testing.assert_checkpoints():
            await spear.call(name, 1)
        with trio.testing.assert_checkpoints():
            return await spear.call_once("key", name, 1)

    @agent.function
    async def read() -> int:
        items, found = spear.context().items, 0
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                for _ in range(64):  # one checkpoint per item is too slow
                    found += await items.receive() == 1
        return found

    @agent.function
    async def follow() -> int:
        with trio.testing.assert_checkpoints():
            async with spear.context().stream("count", 3) as items:
                return len([item async for item in items])

    @agent.function
    async def look() -> None:
        with trio.testing.assert_no_checkpoints():
            context = spear.context()
            context.progress(1)
            context.remaining_seconds()
            assert not context.is_cancelled

    @agent.function
    async def lose() -> str:
        call = spear.context()._call
        with trio.testing.assert_checkpoints():
            assert await agent.service.in_thread(call, int) == 0
        with trio.testing.assert_checkpoints():
            await agent.service.unable(call, "its heart")
        with trio.testing.assert_checkpoints():
            return await agent.wait_failed()

    async with calling(agent, host=app.service) as caller, app.running():
        assert await caller.call("ask", "echo") == 1
        assert await caller.feed("read", [1] * 192) == 192
        assert await caller.call("follow") == 3
        await caller.call("look")
        assert await caller.call("lose") == "its heart"
    async with endpoint_open() as endpoint:
        with trio.testing.assert_checkpoints():
            await serve(app, endpoint.address, endpoint.secret, endpoint.instance_id, stop=stop)
    assert app.service.refuse(0, {"function": "echo"}) is None
