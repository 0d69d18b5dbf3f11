"""An Agent inside the spearlet's own process: for tests, and for functions that share memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Final, Protocol, final, runtime_checkable

import trio

from spear._errors import (
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    SpawnFailed,
    SpearError,
    WorkerDied,
)
from spear._limits import expect_seconds
from spear._util import leaves_of, summary_of
from spear.channels import (
    CommunicationChannel,
    open_memory_channels,
    protected_block,
    protected_class,
)
from spear.runtimes import InstanceHealth
from spear.telemetry import InstanceState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from spear._ids import InstanceId
    from spear._limits import WireLimits
    from spear.channels import ConnectionManager, Service


@runtime_checkable
class LocalAgent(Protocol):
    """What is needed of a :class:`spear.Agent`."""

    @property
    def name(self) -> str:
        """What it is called, or nothing."""

    @property
    def debug(self) -> bool:
        """Whether it sends tracebacks with errors."""

    @property
    def service(self) -> Service:
        """Its handlers."""

    @property
    def functions(self) -> Sequence[str]:
        """Their names."""

    @property
    def streams(self) -> Collection[str]:
        """Those among them that send items."""

    def running(
        self, limits: WireLimits, *, debug: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Its lifespan around a block."""

    async def wait_unable(self) -> str:
        """Wait until it can run no functions any more; returns why."""

    def limits(self, base: WireLimits) -> WireLimits:
        """Those of the host's connections, with its own concurrency."""


@final
@protected_class
class LocalReplica:
    """A replica whose channel is memory. Made by :func:`open_local_replica`."""

    pid = None
    exit_status = None

    def __init__(
        self,
        instance_id: InstanceId,
        agent: LocalAgent,
        channels: tuple[CommunicationChannel, CommunicationChannel],
        drain_seconds: float,
    ) -> None:
        self.id = instance_id
        self._agent = agent
        self.channel, self._its_channel = channels
        self.drain_seconds = drain_seconds
        self._begun = trio.current_time()

    @property
    def state(self) -> InstanceState:
        """Where it stands."""
        if self.channel.closed.is_set():
            return InstanceState.EXITED
        return InstanceState.READY if self.channel.is_connected else InstanceState.DRAINING

    async def wait_ready(self) -> CommunicationChannel:
        """It is ready from the beginning."""
        return self.channel

    async def wait_exited(self) -> None:
        """Wait until the channel is closed. If the agent can run no functions any more, close it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_when_unable)
            await self.channel.closed.wait()
            nursery.cancel_scope.cancel()

    async def _close_when_unable(self) -> None:
        reason = await self._agent.wait_unable()
        await self._its_channel.drain(self.drain_seconds)
        await self._its_channel.aclose(reason)

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Let its calls finish, and leave it at that when the block is left. A checkpoint."""
        if drain_seconds is not None:
            expect_seconds("drain_seconds", drain_seconds)
        seconds = self.drain_seconds if drain_seconds is None else drain_seconds
        self.drain_seconds = 0.0
        await self.channel.drain(seconds)

    async def kill(self, reason: str = "") -> None:
        """Leave its calls no time when its block is left; there is no process that could be killed."""
        self.drain_seconds = 0.0
        await trio.lowlevel.checkpoint()

    def health(self) -> InstanceHealth:
        """How it is now."""
        state, closed_by = self.state, self.channel.closed_by
        leaving = "is leaving" if state is InstanceState.DRAINING else ""
        return InstanceHealth(
            state=state,
            reason=f"is gone: {closed_by}" if closed_by else leaving,
            is_connected=self.channel.is_connected,
            heartbeats_missed=0,
            calls_in_flight=self.channel.statistics().calls_in_flight,
            age_seconds=trio.current_time() - self._begun,
        )

    async def metrics(self) -> None:
        """What it uses is what this process uses."""
        await trio.lowlevel.checkpoint()

    def logs(self) -> tuple[()]:
        """It writes where this process writes."""
        return ()

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        """There is no process that could have died."""
        return WorkerDied(f"{self.id} is gone: {error}", delivered=error.delivered)


@protected_block
async def open_local_replica(
    agent: LocalAgent,
    debug: bool,
    instance_id: InstanceId,
    service: Service,
    manager: ConnectionManager,
) -> AsyncIterator[LocalReplica]:
    """A replica of ``agent`` for as long as the block runs.

    Leaving the block lets its calls finish for ``drain_seconds``; leaving it by an exception, or
    cancelled, cancels them.

    Raises:
        SpawnFailed: the agent's lifespan has raised or called ``sys.exit()`` before its ``yield``.
        WorkerDied: the lifespan, or a task of it, has failed later.
    """
    is_begun, failure = False, None
    try:
        async with _replica(agent, debug, instance_id, service, manager) as replica:
            is_begun = True
            try:
                yield replica
            except BaseException as error:
                failure = error
                raise
    except SpearError:
        raise
    except BaseException as error:
        if error is failure or any(issubclass(type(each), _NOT_ITS) for each in leaves_of(error)):
            raise
        # Its lifespan's, at the start, at the end, or of a task in between: no reason to end the host.
        if is_begun:
            raise WorkerDied(f"{instance_id} has failed: {_story(error)}") from error
        raise SpawnFailed(f"{instance_id} did not start: {_story(error)}") from error


_NOT_ITS: Final = (trio.Cancelled, KeyboardInterrupt)


@trio.lowlevel.enable_ki_protection  # see text_of
def _story(error: BaseException) -> str:
    return summary_of(error)


@protected_block
async def _replica(
    agent: LocalAgent,
    debug: bool,
    instance_id: InstanceId,
    service: Service,
    manager: ConnectionManager,
) -> AsyncIterator[LocalReplica]:
    limits = manager.limits
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(agent.running(limits.wire, debug=debug))
        channels = open_memory_channels(
            instance_id,
            host_service=service,
            agent_service=agent.service,
            functions=agent.functions,
            streams=agent.streams,
            limits=agent.limits(limits.wire),
            debug=debug or agent.debug,
            timers=manager.timers,
        )
        both = await stack.enter_async_context(channels)
        replica = LocalReplica(instance_id, agent, both, limits.timeouts.drain_seconds)
        yield replica
        await replica.stop()
