"""Candidates whose targets are memory channels, with helpers that occupy and disconnect them."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio
import trio.testing

from spear import ChannelBroken, ChannelClosed, InstanceId, WireLimits, WorkerDied
from spear.calls import CallAttributes, Candidates, ChoicePolicy
from spear.channels import CommunicationChannel, InboundCall, open_memory_channels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear import CallFailed
    from spear.calls import Candidate

OCCUPY = b"occupy"
"""Argument of a call that holds its slot until it is released."""


class Instance:
    """An instance in this process. Its one function returns its name."""

    def __init__(self, name: str, incarnation: int = 1) -> None:
        self.id = InstanceId("memory", name, incarnation)
        self.release = trio.Event()
        self.host: CommunicationChannel
        self.agent: CommunicationChannel

    def refuse(self, function: int, head: object) -> CallFailed | None:
        return None

    async def handle(self, call: InboundCall) -> tuple[bytes, bool]:
        if call.payload == OCCUPY:
            await self.release.wait()
        return self.id.name.encode(), False

    @property
    def has_ended(self) -> bool:
        return self.host.closed.is_set()

    async def wait_exited(self) -> None:
        await self.host.closed.wait()

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        return WorkerDied(str(error))


class Bench:
    """A set of candidates, a policy, and calls that go to the policy's choice."""

    def __init__(self, policy: ChoicePolicy, nursery: trio.Nursery, stack: AsyncExitStack) -> None:
        self.policy = policy
        self.candidates = Candidates()
        self.instances: dict[str, Instance] = {}
        self._nursery = nursery
        self._stack = stack

    async def add(self, name: str, calls: int = 100, incarnation: int = 1) -> Candidate:
        instance = Instance(name, incarnation)
        channels = open_memory_channels(
            instance.id,
            agent_service=instance,
            functions=["where"],
            limits=WireLimits(max_calls=calls),
        )
        instance.host, instance.agent = await self._stack.enter_async_context(channels)
        self.instances[name] = instance
        return self.candidates.add(instance, instance.host)

    def choose(self, session: str | None = None) -> Candidate | None:
        return self.policy.choose(
            self.candidates, CallAttributes(function="where", session=session)
        )

    async def ask(self, times: int = 1, session: str | None = None) -> str:
        """Make so many calls, one after the other; return the names of the instances that got them."""
        names = []
        for _ in range(times):
            candidate = self.choose(session)
            assert candidate is not None
            assert candidate.target is not None
            names.append(bytes((await candidate.target.request("where")).payload).decode())
        return "".join(names)

    async def occupy(self, name: str, calls: int | None = None) -> None:
        """Hold slots of an instance, all by default."""
        channel = self.instances[name].host
        for _ in range(channel.max_calls if calls is None else calls):
            self._nursery.start_soon(self._hold, channel)
        await trio.testing.wait_all_tasks_blocked()

    async def _hold(self, channel: CommunicationChannel) -> None:
        with suppress(ChannelBroken, ChannelClosed):
            await channel.request("where", OCCUPY, timeout=math.inf)

    async def release(self, name: str) -> None:
        """End the calls that hold slots of an instance."""
        self.instances[name].release.set()
        await trio.testing.wait_all_tasks_blocked()

    async def lose(self, name: str) -> None:
        """Break the connection of an instance."""
        await self.instances[name].agent.aclose()
        await trio.testing.wait_all_tasks_blocked()

    def loads(self) -> list[int]:
        return [each.calls_in_flight for each in self.candidates.all]


@asynccontextmanager
async def open_bench(
    policy: ChoicePolicy, names: str = "", calls: int = 100
) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        bench = Bench(policy, nursery, stack)
        for name in names:
            await bench.add(name, calls)
        yield bench
        nursery.cancel_scope.cancel()
