"""A set of replicas whose other ends a test controls."""

from __future__ import annotations

import math
import random
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

import trio
import trio.testing

from spear import (
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    HostLimits,
    InstanceId,
    Rejected,
    WireLimits,
    WorkerDied,
)
from spear.calls import Function
from spear.channels import CommunicationChannel, InboundCall, open_memory_channels
from spear.spearlet import DeploymentSettings
from spear.spearlet._pool import ReplicaPool
from spear.spearlet._registry import DeploymentRegistry
from spear.spearlet._replica_calls import ReplicaCalls
from spear.telemetry import InstanceState, Instruments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from spear.channels import Service
    from spear.runtimes import InstanceHealth
    from spear.wire import Head

OCCUPY = b"occupy"
"""Argument of a call that holds its slot until it is released."""


class Answering:
    """A service that returns the replica's name, or raises a given error."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.failure: CallFailed | None = None
        self.leaves: Callable[[], None] | None = None
        self.release = trio.Event()  # ends the calls of Bench.occupy

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        if self.leaves is None:
            return None
        self.leaves()
        return Rejected("takes no new calls")  # as for a call that crosses CLOSE

    async def handle(self, call: InboundCall) -> tuple[bytes, bool]:
        if call.payload == OCCUPY:
            await self.release.wait()
            return b"", False
        return await self.answer(call), False

    async def answer(self, call: InboundCall) -> bytes:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return self.name.encode()


class BenchReplica:
    """A replica that consists of a channel only."""

    pid = None
    exit_status = None

    def __init__(self, channel: CommunicationChannel) -> None:
        self.id = channel.instance_id
        self.channel = channel

    @property
    def state(self) -> InstanceState:
        if self.channel.closed.is_set():
            return InstanceState.EXITED
        return InstanceState.READY if self.channel.is_connected else InstanceState.DRAINING

    @property
    def has_ended(self) -> bool:
        return self.channel.closed.is_set()

    async def wait_exited(self) -> None:
        await self.channel.closed.wait()

    def health(self) -> InstanceHealth:
        raise NotImplementedError

    async def metrics(self) -> None:
        await trio.lowlevel.checkpoint()

    def logs(self) -> tuple[()]:
        return ()

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        await trio.lowlevel.checkpoint()
        return WorkerDied(f"{self.id} is gone: {error}", delivered=error.delivered)


class Bench:
    """A set of replicas, with methods that change their state."""

    def __init__(self, nursery: trio.Nursery, settings: DeploymentSettings) -> None:
        self.pool = ReplicaPool("bench", settings, 60.0, random.Random(1))
        self.host = DeploymentRegistry(HostLimits(), nursery, Instruments())
        self.nursery = nursery  # outside of the replicas' blocks
        self.services: list[Answering] = []
        self.replicas: list[BenchReplica] = []
        self.agents: list[CommunicationChannel] = []
        self.function = self._function("where", is_stream=False)
        self.stream = self._function("items", is_stream=True)

    def _function(self, name: str, *, is_stream: bool) -> Function:
        calls = ReplicaCalls(name, "bench", self.pool, self.host, is_stream=is_stream)
        return cast("Function", Function._create(calls))

    async def add(
        self, stack: AsyncExitStack, name: str, service: Answering | None = None, calls: int = 100
    ) -> None:
        service = service or Answering(name)
        typed: Service = service
        channels = open_memory_channels(
            InstanceId("memory", name), agent_service=typed, functions=["where", "items"],
            limits=WireLimits(max_calls=calls),
        )  # fmt: skip
        host, agent = await stack.enter_async_context(channels)
        self.services.append(service)
        self.agents.append(agent)
        self.replicas.append(BenchReplica(host))
        self.pool.add(self.replicas[-1])

    def leave(self, number: int) -> None:
        """Let a replica send CLOSE; its host receives it a moment later."""
        self.agents[number]._leave("drain")

    async def occupy(self, nursery: trio.Nursery, *numbers: int) -> None:
        """Occupy all slots of some replicas."""
        for number in numbers:
            channel = self.replicas[number].channel
            for _ in range(channel.connection.peer.max_calls):
                nursery.start_soon(self._hold, channel)
        await trio.testing.wait_all_tasks_blocked()

    async def _hold(self, channel: CommunicationChannel) -> None:
        with suppress(ChannelBroken, ChannelClosed):
            await channel.request("where", OCCUPY, timeout=math.inf)

    async def where(self) -> str:
        result = await self.function()
        assert isinstance(result, bytes)
        return result.decode()


@asynccontextmanager
async def open_bench(
    names: Iterable[str] | int, calls: int = 100, settings: DeploymentSettings | None = None
) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        bench = Bench(nursery, settings or DeploymentSettings())
        for name in "abcdefgh"[:names] if isinstance(names, int) else names:
            await bench.add(stack, name, calls=calls)
        yield bench
        nursery.cancel_scope.cancel()
