"""An instance that is a task of its host: the lifespan of an agent, and a channel to the agent.

A task cannot be killed like a process. Instead the task is cancelled, and ends after its ``finally``
blocks. An exception of the agent ends the instance, but not the host.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import SpawnFailed, SpearError
from spear._util import leaves_of, summary_of
from spear.channels import ThreadedFunctions, protected_class
from spear.transports import MemoryAddress
from spear.wire import BootstrapRecord

from .._body import InstanceBody
from ._agent import CrashingAgent, ThreadedService

if TYPE_CHECKING:
    from spear._host_limits import InstanceTimeouts
    from spear._limits import WireLimits
    from spear.channels import CommunicationChannel, Endpoint
    from spear.transports import TransportRegistry

    from .._logs import LogBook
    from ._agent import LocalAgent

_NOT_ITS_OWN: Final = (trio.Cancelled, KeyboardInterrupt)


@final
@protected_class
class MemoryBody(InstanceBody):
    """A handle on the task that runs an agent.

    Args:
        agent: the agent to run.
        endpoint: the endpoint at which the agent logs in.
        book: the log of the instance.
        limits: the limits of the host.
        timeouts: the timeouts of the instance.
        transports: the transports of the host.
        debug: whether errors carry tracebacks.
    """

    description = "in this process"

    def __init__(
        self,
        agent: LocalAgent,
        endpoint: Endpoint,
        book: LogBook,
        limits: WireLimits,
        timeouts: InstanceTimeouts,
        transports: TransportRegistry,
        *,
        debug: bool,
    ) -> None:
        self._agent = agent
        self._endpoint = endpoint
        self._book = book
        self._limits = limits
        self._timeouts = timeouts
        self._transports = transports
        self._debug = debug or agent.debug
        self._is_asked_to_end = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self._channel: CommunicationChannel | None = None  # while it serves in memory

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Start the agent, and serve until the host ends it or it can no longer run functions.

        Raises:
            SpawnFailed: the agent's lifespan has raised or called ``sys.exit()`` before its ``yield``.
            SpearError: Spear itself refuses to start the agent.
        """
        is_started = False
        try:
            with self._scope:
                async with self._agent.running(self._limits, debug=self._debug):
                    is_started = True
                    task_status.started()
                    await self._serve_until_crash()
            if not self.has_ended:
                self.exit_status = None if self._scope.cancelled_caught else 0
                self.failure = self.failure or "has ended"
        except BaseException as error:
            is_ours = any(issubclass(type(each), _NOT_ITS_OWN) for each in leaves_of(error))
            if is_ours or (isinstance(error, SpearError) and not is_started):
                raise
            if not is_started:
                name = self._endpoint.instance_id
                raise SpawnFailed(f"{name} did not start: {_story(error)}") from error
            if not self.has_ended:
                self.exit_status = 1
                self.failure = f"has failed: {_story(error)}"
        finally:
            self.has_ended = True
            self._ended.set()

    async def _serve_until_crash(self) -> None:
        agent = self._agent
        if not isinstance(agent, CrashingAgent):
            await self._serve()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._crash, agent)
            await self._serve()
            nursery.cancel_scope.cancel()

    async def _crash(self, agent: CrashingAgent) -> None:
        """End the instance when the agent says so, with its channel: a crash sends no last frames."""
        self.exit_status, stderr = await agent.wait_crashed(self._endpoint.instance_id)
        tail = self._book.tail("stderr")
        tail.feed(stderr.encode())
        tail.finish()
        self.has_ended = True
        self._ended.set()
        if self._channel is not None:
            self._channel.abort("crashed")
        self._scope.cancel()

    async def _serve(self) -> None:
        """Serve the host until one side ends the instance."""
        agent, endpoint = self._agent, self._endpoint
        if not isinstance(endpoint.address, MemoryAddress):
            record = BootstrapRecord(
                addresses=endpoint.offered,
                secret=endpoint.secret,
                instance_id=endpoint.instance_id,
                limits=self._limits,
                drain_seconds=self._timeouts.drain_seconds,
                debug=self._debug,
            )
            await agent.serve(record, stop=self._is_asked_to_end, transports=self._transports)
            return
        limits, service = agent.limits(self._limits), agent.service
        threaded = ThreadedFunctions()
        if isinstance(service, ThreadedService):
            threaded = service.threaded_functions(limits.max_calls)
        # The two ends of this channel pass objects in memory, without a login.
        async with endpoint.attach(
            service=service,
            functions=agent.functions,
            streams=agent.streams,
            threaded=threaded,
            retry_policies=agent.retry_policies,
            limits=limits,
            debug=self._debug,
        ) as channel:
            self._channel = channel
            await self._serve_in_memory(channel)

    async def _serve_in_memory(self, channel: CommunicationChannel) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_unable)
            nursery.start_soon(_set_after, channel.peer_draining, self._is_asked_to_end)
            await self._is_asked_to_end.wait()
            nursery.cancel_scope.cancel()
        # If the host has begun the shutdown, the host limits its duration.
        seconds = inf if channel.peer_draining.is_set() else self._timeouts.drain_seconds
        await channel.drain(seconds)
        await channel.aclose(self.failure or "drained")

    async def _end_when_unable(self) -> None:
        self.failure = await self._agent.wait_failed()
        self._is_asked_to_end.set()

    async def wait_exited(self) -> None:
        """Wait until the task has ended."""
        await self._ended.wait()

    async def watch(self) -> None:
        """Return at once: the output of the agent goes to the output of this process."""
        await trio.lowlevel.checkpoint()

    async def terminate(self) -> None:
        """Let the agent finish its calls and end."""
        self._is_asked_to_end.set()
        await trio.lowlevel.checkpoint()

    async def kill(self) -> None:
        """Cancel the task."""
        self._scope.cancel()
        await trio.lowlevel.checkpoint()


@trio.lowlevel.enable_ki_protection
async def _set_after(first: trio.Event, then: trio.Event) -> None:
    await first.wait()
    then.set()


@trio.lowlevel.enable_ki_protection  # see text_of
def _story(error: BaseException) -> str:
    return summary_of(next(leaves_of(error)))
