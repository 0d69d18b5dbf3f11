"""Agents, and a host that calls them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from spear import InstanceId
from spear.agent import Agent
from spear.channels import open_memory_channels
from spear.wire import decode_result, encode_arguments, encode_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AbstractAsyncContextManager

    from spear import WireLimits
    from spear.channels import CallStream, CommunicationChannel, Metadata, OnProgress, Service

NOTICED_THERE = 1 + 5e-7
"""A timeout that the agent notices first: on the wire it is a second, a moment less."""

INSTANCE = InstanceId("memory", "tested")


class Caller:
    """The host's end of a channel, for calls with Python values."""

    def __init__(self, channel: CommunicationChannel) -> None:
        self.channel = channel

    async def call(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        on_progress: OnProgress | None = None,
        **keywords: object,
    ) -> object:
        payload, is_cbor = encode_arguments(arguments, keywords)
        response = await self.channel.request(
            function,
            payload,
            is_cbor=is_cbor,
            timeout=timeout,
            metadata=metadata,
            on_progress=on_progress,
        )
        return decode_result(response.payload, response.is_cbor)

    def stream(
        self, function: str, /, *arguments: object, **keywords: object
    ) -> AbstractAsyncContextManager[CallStream]:
        payload, is_cbor = encode_arguments(arguments, keywords)
        return self.channel.open_stream(function, payload, is_cbor=is_cbor)

    async def items(self, function: str, /, *arguments: object, **keywords: object) -> list[object]:
        """Return all items of a stream."""
        async with self.stream(function, *arguments, **keywords) as stream:
            return await rest_of(stream)

    async def feed(
        self, function: str, items: Iterable[object], /, *arguments: object, **keywords: object
    ) -> object:
        """Call a function with a stream of items."""
        payload, is_cbor = encode_arguments(arguments, keywords)
        async with self.channel.open_stream(
            function, payload, is_cbor=is_cbor, sends_items=True
        ) as stream:
            for item in items:
                payload, is_cbor = encode_result(item)
                await stream.send(payload, is_cbor=is_cbor)
            await stream.send_eof()
            response = await stream.result()
        return decode_result(response.payload, response.is_cbor)


async def rest_of(stream: CallStream) -> list[object]:
    found: list[object] = []
    while True:
        try:
            found.append(decode_result(*await stream.receive_item()))
        except trio.EndOfChannel:
            return found


@asynccontextmanager
async def calling(
    agent: Agent,
    *,
    host: Service | None = None,
    limits: WireLimits | None = None,
    debug: bool = False,
) -> AsyncIterator[Caller]:
    """Run an agent in this process; yield its caller."""
    found = agent.limits(limits) if limits else agent.limits()
    async with (
        agent.running(found, debug=debug),
        open_memory_channels(
            INSTANCE,
            host_service=host,
            agent_service=agent.service,
            functions=agent.functions,
            streams=agent.streams,
            limits=found,
        ) as (channel, _),
    ):
        yield Caller(channel)
