"""Two instances of one host see nothing of each other, whatever they send."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from spear import InstanceId, SpearError
from spear.channels import CommunicationChannel, connect_channel, open_connection_manager
from spear.testing import Functions, RawPeer
from spear.transports import connect, open_memory_listener
from spear.wire import FrameType

from .helpers import park

if TYPE_CHECKING:
    from spear.channels import InboundCall

NAMES = ("left", "right")


@attrs.frozen
class Step:
    """An action of one of the two instances."""

    who: int
    what: str
    body: bytes


steps = st.builds(
    Step,
    who=st.integers(0, 1),
    what=st.sampled_from(["request", "call back", "message", "host message", "stream", "cancel"]),
    body=st.binary(max_size=300),
)


class Side:
    """An instance, with all of its traffic that the instance and the host have seen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mark = name.encode() + b":"
        self.seen_by_instance: list[bytes] = []
        self.seen_by_host: list[bytes] = []
        self.answers: list[bytes] = []

    async def handle(self, call: InboundCall) -> bytes:
        """Handle a call in the instance."""
        self.seen_by_instance.append(call.payload)
        if call.wants_stream:
            await call.send(call.payload)
        return self.mark + call.payload

    async def handle_for_host(self, call: InboundCall) -> bytes:
        """Handle a call of this instance in the host."""
        assert call.channel.instance_id.name == self.name
        self.seen_by_host.append(call.payload)
        return call.payload


async def perform(
    side: Side, host: CommunicationChannel, agent: CommunicationChannel, step: Step
) -> None:
    marked = side.mark + step.body
    match step.what:
        case "request":
            side.answers.append(bytes((await host.request("f", marked)).payload))
        case "call back":
            side.answers.append(bytes((await agent.request("g", marked)).payload))
        case "message":
            await agent.send(marked)
            side.seen_by_host.append(await host.receive())
        case "host message":
            await host.send(marked)
            side.seen_by_instance.append(await agent.receive())
        case "stream":
            async with host.open_stream("f", marked) as stream:
                async for item in stream:
                    side.answers.append(side.mark + item)
        case "cancel":
            with trio.CancelScope() as scope:
                scope.cancel()
                await host.request("f", marked)


async def converse(script: list[Step]) -> list[Side]:
    sides = [Side(name) for name in NAMES]
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(open_connection_manager())
        channels = []
        for side in sides:
            instance = InstanceId("memory", side.name)
            endpoint = await stack.enter_async_context(
                manager.open_endpoint(
                    instance,
                    open_memory_listener(side.name),
                    service=Functions({"g": side.handle_for_host}),
                )
            )
            stream = await stack.enter_async_context(connect(endpoint.address))
            agent, _ = await stack.enter_async_context(
                connect_channel(
                    stream,
                    instance,
                    endpoint.secret,
                    service=Functions({"f": side.handle}),
                    functions=["f"],
                )
            )
            channels.append((await endpoint.wait_connected(), agent))
        async with trio.open_nursery() as nursery:
            for index, side in enumerate(sides):
                own = [step for step in script if step.who == index]
                nursery.start_soon(perform_all, side, *channels[index], own)
    return sides


async def perform_all(
    side: Side, host: CommunicationChannel, agent: CommunicationChannel, script: list[Step]
) -> None:
    for step in script:
        await perform(side, host, agent, step)


@pytest.mark.slow
@pytest.mark.repetitive
@settings(max_examples=60)
@given(st.lists(steps, max_size=30))
def test_isolation_of_two_honest_instances(script: list[Step]) -> None:
    for side in trio.run(converse, script):
        for seen in (side.seen_by_instance, side.seen_by_host, side.answers):
            assert all(body.startswith(side.mark) for body in seen)


frames = st.one_of(
    st.binary(min_size=1, max_size=100),
    st.builds(
        lambda type_, flags, call_id, a, b, payload: RawPeer.encode(
            type_, flags=flags, call_id=call_id, a=a, b=b, payload=payload
        ),
        st.sampled_from([*map(int, FrameType), 0x55, 0xD5]),
        st.integers(0, 255),
        st.integers(0, 6) | st.just(2**64 - 1),
        st.integers(0, 3),
        st.integers(0, 3) | st.just(2**32 - 1),
        st.binary(max_size=40),
    ),
)


async def live_beside(script: list[bytes]) -> None:
    """Run an honest instance beside a neighbour that sends arbitrary bytes after its login."""
    honest = Side("left")
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(open_connection_manager())
        endpoints = [
            await stack.enter_async_context(
                manager.open_endpoint(
                    InstanceId("memory", name),
                    open_memory_listener(name),
                    service=Functions({"g": honest.handle_for_host}) if name == "left" else None,
                )
            )
            for name in NAMES
        ]
        agent, _ = await stack.enter_async_context(
            connect_channel(
                await stack.enter_async_context(connect(endpoints[0].address)),
                endpoints[0].instance_id,
                endpoints[0].secret,
                service=Functions({"f": honest.handle}),
                functions=["f"],
            )
        )
        host = await endpoints[0].wait_connected()
        async with connect(endpoints[1].address) as stream, trio.open_nursery() as nursery:
            peer = RawPeer(stream)
            await peer.log_in(endpoints[1].instance_id, endpoints[1].secret)
            neighbour = await endpoints[1].wait_connected()
            nursery.start_soon(ask, neighbour)
            await park()
            for number, data in enumerate(script):
                await perform(
                    honest,
                    host,
                    agent,
                    Step(0, ("request", "call back", "stream")[number % 3], b"x"),
                )
                try:
                    await stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break
                await park()
            nursery.cancel_scope.cancel()
        assert (await host.request("f", b"left:still")).payload == b"left:left:still"
        assert host.is_connected
        assert not host.statistics().failures
        for seen in (honest.seen_by_instance, honest.seen_by_host, honest.answers):
            assert all(body.startswith(honest.mark) for body in seen)


async def ask(neighbour: CommunicationChannel) -> None:
    """Make the host's calls that the neighbour may answer, rightly or wrongly."""
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask_once, neighbour)


async def ask_once(neighbour: CommunicationChannel) -> None:
    with suppress(SpearError):
        await neighbour.request("f")


@pytest.mark.slow
@pytest.mark.repetitive
@settings(max_examples=150)
@given(st.lists(frames, max_size=12))
def test_isolation_from_an_instance_that_sends_anything(script: list[bytes]) -> None:
    trio.run(live_beside, script)
