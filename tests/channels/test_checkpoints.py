"""R6: async functions are checkpoints, and other functions are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

from spear import InstanceId, SpearError
from spear.channels import (
    ChannelConfig,
    Timers,
    connect_channel,
    open_communication_factory,
    open_connection_manager,
    open_memory_channels,
    open_private_nursery,
    open_timers,
    run_to_its_end,
)
from spear.testing import Functions
from spear.transports import open_memory_listener

from .helpers import INSTANCE, MEMORY_STREAM, echo, open_in_memory, park

if TYPE_CHECKING:
    from spear.channels import InboundCall
    from spear.testing import OpenPair


@pytest.fixture(params=["memory_stream", "in_memory"])
def open_pair(request: pytest.FixtureRequest) -> OpenPair:
    return open_in_memory if request.param == "in_memory" else MEMORY_STREAM.open_pair


async def two_items(call: InboundCall) -> bytes:
    first = await call.receive()
    with assert_no_checkpoints():
        call.report_progress(b"half")
        assert call.metadata == {}
        assert call.cancelled is None
        assert call.channel.instance_id == INSTANCE
    await call.send(first)
    async for item in call:
        await call.send(item)
    return b""


async def many(call: InboundCall) -> bytes:
    for _ in range(200):
        await call.send(b"x")
    return b""


async def test_r6_calls(open_pair: OpenPair) -> None:
    functions = Functions({"echo": echo})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        with assert_checkpoints():
            response = await host.request("echo", b"x")
        with assert_checkpoints():
            await response.settle()
        with assert_checkpoints():
            await host.send(b"message")
        await park()
        with assert_checkpoints():
            assert await agent.receive() == b"message"
        with assert_no_checkpoints():
            assert host.is_connected
            host.statistics().latency.quantile_seconds(0.99)
            repr(host)
            host.wake_senders()
            assert not host.peer_draining.is_set()
        with assert_checkpoints():
            await agent.drain(1)
        with assert_checkpoints():
            await host.drain(0)
        with assert_checkpoints():
            await host.aclose()
        with assert_checkpoints():
            await host.aclose()
        with assert_checkpoints():
            await agent.drain(1)


async def test_r6_streams(open_pair: OpenPair) -> None:
    functions = Functions({"two": two_items})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, _):
        opening = host.open_stream("two", sends_items=True)
        with assert_checkpoints():
            stream = await opening.__aenter__()
        await stream.send(b"one")
        with assert_checkpoints():
            assert await stream.receive() == b"one"
        await stream.send(b"two")
        with assert_checkpoints():
            assert await stream.receive_item() == (b"two", False)
        with assert_checkpoints():
            await stream.send_eof()
        with assert_checkpoints():
            await stream.result()
        with assert_checkpoints():
            await stream.result()
        with assert_no_checkpoints():
            assert stream.is_done
            stream.close()
        assert not await opening.__aexit__(None, None, None)


async def test_r6_an_iteration_over_items_that_are_there_lets_others_run_every_64(
    open_pair: OpenPair,
) -> None:
    """A checkpoint for each item would cost three times as much as the item."""
    functions = Functions({"many": many})
    async with (
        open_pair(agent_service=functions, functions=functions.names) as (host, _),
        host.open_stream("many") as stream,
        trio.open_nursery() as nursery,
    ):
        await park()
        passes = 0

        async def count() -> None:
            nonlocal passes
            while True:
                await trio.lowlevel.checkpoint()
                passes += 1

        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        run, longest, before = 0, 0, passes
        async for _ in stream:
            run = run + 1 if passes == before else 0
            longest, before = max(longest, run), passes
        nursery.cancel_scope.cancel()
        assert passes >= 200 // 64
        # Both tasks run once in each pass, so two portions may follow each other.
        assert longest <= 2 * 64


async def test_r6_a_sender_with_credit_lets_others_run_every_64(open_pair: OpenPair) -> None:
    passes: list[int] = []

    async def take(call: InboundCall) -> bytes:
        async for _ in call:
            pass
        return b""

    functions = Functions({"take": take})
    async with (
        open_pair(agent_service=functions, functions=functions.names) as (host, _),
        host.open_stream("take", sends_items=True) as stream,
        trio.open_nursery() as nursery,
    ):

        async def count() -> None:
            while True:
                passes.append(1)
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        for _ in range(200):
            await stream.send(b"x")
        nursery.cancel_scope.cancel()
    assert len(passes) >= 200 // 64 - 1


async def test_r6_opening_and_closing() -> None:
    with assert_no_checkpoints():
        opening = open_private_nursery()
    with assert_checkpoints():
        async with opening as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
    with assert_checkpoints():
        await run_to_its_end(trio.lowlevel.checkpoint)
    with assert_checkpoints():
        async with open_timers() as timers:
            with assert_no_checkpoints():
                timers.call_at(trio.current_time() + 60, lambda now: None)
                assert isinstance(timers, Timers)
    with assert_checkpoints():
        async with open_memory_channels(INSTANCE):
            pass
    with assert_checkpoints():
        async with open_connection_manager() as manager:
            with assert_no_checkpoints():
                manager.tell("connected", None, 1)
                manager.statistics()
                assert manager.endpoint(INSTANCE) is None
                assert manager.endpoints == ()


async def test_r6_endpoints() -> None:
    functions = Functions({"echo": echo})
    async with open_connection_manager() as manager:
        listener = open_memory_listener("here")
        opening = manager.open_endpoint(INSTANCE, listener)
        endpoint = await opening.__aenter__()
        with assert_no_checkpoints():
            assert not endpoint.is_connected
            repr(endpoint)
            endpoint.expect_peer(lambda credentials: True)
        attaching = endpoint.attach(service=functions, functions=functions.names)
        with assert_checkpoints():
            await attaching.__aenter__()
        with assert_checkpoints(), pytest.raises(SpearError, match="is connected already"):
            async with endpoint.attach():
                pass
        with assert_checkpoints():
            await attaching.__aexit__(None, None, None)
        connecting = connect_channel(
            await MEMORY_STREAM.connect(endpoint.address),
            INSTANCE,
            endpoint.secret,
            service=functions,
            functions=functions.names,
        )
        with assert_checkpoints():
            await connecting.__aenter__()
        with assert_checkpoints():
            await endpoint.wait_connected()
        with assert_checkpoints():
            await endpoint.wait_connected()
        with assert_checkpoints():
            await connecting.__aexit__(None, None, None)
        with assert_checkpoints():
            await endpoint.aclose()
        with assert_checkpoints():
            await opening.__aexit__(None, None, None)


async def tell_and_stay(task_status: trio.TaskStatus[str]) -> None:
    task_status.started("told")
    await trio.sleep_forever()


async def test_r6_factory() -> None:
    async with open_communication_factory() as factory:
        with assert_no_checkpoints():
            assert factory.active_instances == ()
            assert not factory.has_channel(INSTANCE)
            assert factory.strategy("process").transports == ("unix", "tcp")
        with assert_checkpoints(), pytest.raises(Exception, match="has no channel"):
            await factory.close(INSTANCE)
        with assert_checkpoints():
            await factory.close_all()
        with assert_checkpoints(), pytest.raises(Exception, match="did not log in"):
            await factory.get_or_create(INSTANCE, config=ChannelConfig(connect_seconds=0))
        with assert_checkpoints():
            assert await factory.start(tell_and_stay) == "told"
        opening = factory.open_endpoint(InstanceId("process", "other"))
        with assert_checkpoints():
            await opening.__aenter__()
        with assert_checkpoints():
            await factory.close(InstanceId("process", "other"))
        with assert_checkpoints():
            await factory.close_all()
        with assert_checkpoints():
            await opening.__aexit__(None, None, None)
