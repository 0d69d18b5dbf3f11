"""The life of an instance, whatever runtime it lives in.

From :func:`host_instance`'s block hangs everything that belongs to one instance: its endpoint, what
runs it, and one nursery with the tasks that follow both. When the block ends, all of it has ended.

Three things can end an instance, and each leads to the same state by the same code: it exits; it is
stopped, step by step; or it is declared dead, and then killed, so that what was declared dead cannot
come back. What a runtime must bring is in ``_body``; this module knows no concrete runtime.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from math import inf
from signal import Signals
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import SpawnFailed, SpearError, WorkerDied
from spear._limits import expect_seconds
from spear._util import NoPublicConstructor
from spear.channels import (
    open_private_nursery,
    protected_block,
    protected_class,
    run_to_its_end,
)
from spear.telemetry import InstanceEvent, InstanceState, LogLine

from ._logs import LogBook
from ._states import GONE, Lifecycle

if TYPE_CHECKING:
    from spear._errors import ChannelBroken, ChannelClosed
    from spear._host_limits import HostLimits
    from spear._ids import InstanceId
    from spear.channels import (
        ChannelConfig,
        CommunicationChannel,
        CommunicationFactory,
        Endpoint,
    )
    from spear.telemetry import Instruments

    from ._body import InstanceBody, InstanceMetrics, InstanceSpec

logger: Final = logging.getLogger("spear.runtimes")

EXIT_STATUS_SECONDS: Final = 0.2
"""From the end of a channel to the exit status of its process: usually a millisecond."""

LATE_SECONDS: Final = 0.15
"""How long after the startup deadline a starter that cannot be killed is waited for."""

FAREWELL_SECONDS: Final = 0.2
"""How soon a peer that knows how to leave answers our farewell with its own, once it is idle."""

KILL_SECONDS: Final = 2.0
"""From SIGKILL to its effect: only a process that the kernel keeps (a dead disk) takes longer."""

BUSY_SECONDS: Final = 0.005
"""Who has used the processor for longer than this since the last heartbeat that was due is at work."""

_STOPPED: Final = "it was stopped"

Launch: TypeAlias = "Callable[[Endpoint, LogBook], AbstractAsyncContextManager[InstanceBody]]"
"""Starts what an instance runs in; the block's end releases all it holds."""


@final
@attrs.frozen(kw_only=True)
class InstanceHealth:
    """How an instance is.

    Attributes:
        state: where it stands.
        reason: why it came there, if there is something to say.
        is_connected: whether it takes calls.
        heartbeats_missed: how many of the last it has not answered.
        calls_in_flight: that it has not finished.
        age_seconds: since it was asked for.
    """

    state: InstanceState
    reason: str
    is_connected: bool
    heartbeats_missed: int
    calls_in_flight: int
    age_seconds: float


def describe_exit(exit_status: int | None) -> str:
    """What an exit status says, as the end of a sentence."""
    if exit_status is None:
        return "ended, nobody knows how"
    if exit_status >= 0:
        return f"exited with status {exit_status}"
    try:
        return f"was killed by {Signals(-exit_status).name}"
    except ValueError:
        return f"was killed by signal {-exit_status}"


@final
@protected_class
class Instance(metaclass=NoPublicConstructor):
    """A running instance. Made by :meth:`InstanceTemplate.open_instance`, never by hand.

    Attributes:
        id: its name and incarnation.
        channel: how to call it; None while it cannot be talked to. After a reconnection it is
            another one.
    """

    def __init__(self, spec: InstanceSpec, limits: HostLimits, instruments: Instruments) -> None:
        self.id: InstanceId = spec.instance_id
        self.channel: CommunicationChannel | None = None
        self._limits = limits
        self._log_book = LogBook(spec.instance_id, limits, spec.on_line, instruments)
        self._lifecycle = Lifecycle(spec.instance_id, spec.on_event, instruments)
        self._body: InstanceBody | None = None  # from STARTING on
        self._begun = trio.current_time()
        self._cpu_seconds = 0.0  # used when we last looked whether it is busy
        self._was_ready = False
        self._end_reason = ""  # why we ended it, if we did
        self._stopping = trio.Lock()

    def __repr__(self) -> str:
        body = f" ({self._body.description})" if self._body else ""
        return f"<Instance {self.id}{body} {self.state.value}>"

    # -- what it is ---------------------------------------------------------------------------

    @property
    def state(self) -> InstanceState:
        """Where it stands."""
        return self._lifecycle.state

    @property
    def history(self) -> tuple[InstanceEvent, ...]:
        """The last states it was in, this one included, oldest first."""
        return self._lifecycle.history

    @property
    def pid(self) -> int | None:
        """Of its process, which also leads its group and session; None if it has none here."""
        return self._body.pid if self._body else None

    @property
    def exit_status(self) -> int | None:
        """As ``subprocess`` counts it: negative for a signal; None while it runs, or if unknown."""
        return self._body.exit_status if self._body else None

    @property
    def stderr_tail(self) -> str:
        """The last lines that it wrote to stderr, at most ``limits.wire.error_message_bytes``."""
        return self._log_book.tail("stderr").text(self._limits.wire.error_message_bytes)

    def logs(self) -> tuple[LogLine, ...]:
        """What is kept of stdout and stderr: the last ``limits.log_tail_bytes`` of each."""
        return self._log_book.lines()

    def health(self) -> InstanceHealth:
        """How it is now, as far as the host can tell without asking it."""
        statistics = self.channel.statistics() if self.channel else None
        return InstanceHealth(
            state=self.state,
            reason=self.history[-1].reason,
            is_connected=self.channel is not None and self.channel.is_connected,
            heartbeats_missed=statistics.heartbeats_missed if statistics else 0,
            calls_in_flight=statistics.calls_in_flight if statistics else 0,
            age_seconds=trio.current_time() - self._begun,
        )

    def metrics(self) -> InstanceMetrics | None:
        """What it uses now; None if it does not run."""
        return self._body.metrics() if self._body else None

    # -- waiting ------------------------------------------------------------------------------

    async def wait_ready(self) -> CommunicationChannel:
        """Wait until it takes calls; returns its channel. A checkpoint.

        If cancelled, nothing changes.

        Raises:
            SpawnFailed: it never became ready, and is dead. Comes at the startup deadline at the
                latest.
            WorkerDied: it was ready once.
        """
        deadline = self._begun + self._limits.timeouts.startup_seconds + LATE_SECONDS
        with trio.move_on_at(inf if self._was_ready else deadline):
            while await self._lifecycle.wait_for(InstanceState.READY) not in GONE:
                if self.channel is not None:
                    return self.channel
        raise self._obituary()

    async def wait_exited(self) -> int | None:
        """Wait until it does not run any more; returns its exit status. A checkpoint.

        If cancelled, nothing changes.
        """
        await self._lifecycle.wait_for()
        return self.exit_status

    # -- ending it ----------------------------------------------------------------------------

    async def stop(self, drain_seconds: float | None = None) -> int | None:
        """End it, as gently as it lets us; returns its exit status. A checkpoint.

        It takes no new calls, and those that run may finish; then it should end by itself. If it
        does not, it is asked to (SIGTERM), and killed ``terminate_seconds`` later. If cancelled, it is
        left as far as that has got, and can be stopped or killed again.

        Args:
            drain_seconds: for the first step; by default ``drain_seconds`` of its timeouts.

        Raises:
            ConfigurationError: that is no number of seconds; nothing is stopped.
        """
        if drain_seconds is not None:
            expect_seconds("drain_seconds", drain_seconds)
        await trio.lowlevel.checkpoint()
        async with self._stopping:
            if self.state is InstanceState.READY:
                self._end_reason = _STOPPED
                self._lifecycle.move(InstanceState.DRAINING, _STOPPED)
            channel = self.channel
            if self.state is InstanceState.DRAINING and channel is not None:
                await self._drain(
                    channel,
                    self._limits.timeouts.drain_seconds if drain_seconds is None else drain_seconds,
                )
                if channel.peer_leaving.is_set() and self.state not in GONE:
                    logger.warning("%s has left, and takes too long to end: SIGTERM", self.id)
            await self._terminate(channel)
        return self.exit_status

    async def _drain(self, channel: CommunicationChannel, seconds: float) -> None:
        """Let it finish its calls, and end by itself if it is of the kind that does."""
        with trio.move_on_after(seconds):
            await channel.drain(seconds)
            with trio.move_on_after(FAREWELL_SECONDS) as farewell:
                await channel.peer_leaving.wait()
            if not farewell.cancelled_caught:
                # Spear's agents end now. SIGTERM would only spoil their exit status.
                with trio.move_on_after(self._limits.shutdown_seconds):
                    await self.wait_exited()

    async def _terminate(self, channel: CommunicationChannel | None) -> None:
        seconds = self._limits.timeouts.terminate_seconds
        if self._begin_to_end(_STOPPED) and self._body is not None:
            self._body.terminate()
            with trio.move_on_after(seconds):
                if channel is not None:
                    await channel.aclose("the instance is being stopped")
                await self.wait_exited()
        if self.state not in GONE:
            logger.warning("%s went on for %g s after SIGTERM: killed", self.id, seconds)
            self.kill(f"it went on for {seconds:g} s after SIGTERM")
            with trio.move_on_after(KILL_SECONDS):
                await self.wait_exited()

    def kill(self, reason: str = "kill() was called") -> None:
        """End it at once, and all processes of its group. Does nothing if it does not run.

        Args:
            reason: for the log, and for the errors of calls that it does not finish.
        """
        body = self._body
        if body is None or self.state in GONE:
            return
        logger.info("%r: killed, because %s", self, reason)
        try:
            self._begin_to_end(reason)
        finally:  # Ctrl-C may have interrupted an observer of the state
            body.kill()

    def _begin_to_end(self, reason: str) -> bool:
        """Whether there is still something to end."""
        if self._body is None or self.state in GONE:
            return False
        self._end_reason = self._end_reason or reason
        if self.state is not InstanceState.STOPPING:
            self._lifecycle.move(InstanceState.STOPPING, reason)
        return True

    # -- what became of it --------------------------------------------------------------------

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> WorkerDied:
        """What to raise for a call that was lost with its channel: how the instance died.

        The exit status is known a moment after the channel is lost; this waits for it, for at most
        0.2 s. A checkpoint.
        """
        with trio.move_on_after(EXIT_STATUS_SECONDS):
            await self.wait_exited()
        story = self._story() if self.state in GONE else f"is lost: {error}"
        return self._worker_died(story, error)

    def _obituary(self) -> SpearError:
        """What to raise for an instance that is not there any more."""
        if self._was_ready:
            return self._worker_died(self._story())
        story = self._story()
        if self.exit_status == 0 and not self._end_reason:  # it seems content
            story += " before it logged in"
        return SpawnFailed(f"{self.id} did not start: it {story}", stderr_tail=self.stderr_tail)

    def _worker_died(self, story: str, cause: SpearError | None = None) -> WorkerDied:
        died = WorkerDied(
            f"{self.id} {story}",
            exit_status=self.exit_status,
            stderr_tail=self.stderr_tail,
            delivered=cause.delivered if cause else "no",
        )
        died.__cause__ = cause
        return died

    def _story(self) -> str:
        has_ended = self.state in GONE or (self._body is not None and self._body.has_ended)
        if self.exit_status is None and not has_ended:
            how = "does not end"
        else:
            how = describe_exit(self.exit_status)
        return f"{how}, because {self._end_reason}" if self._end_reason else how

    # -- the tasks of its nursery -------------------------------------------------------------

    def _launched(self, body: InstanceBody) -> None:
        self._body = body
        self._lifecycle.move(InstanceState.STARTING, body.description)

    async def _watch_exit(self, body: InstanceBody) -> None:
        await body.wait_exited()
        self._exited()

    def _exited(self) -> None:
        if self.state not in GONE:
            self.channel = None
            self._lifecycle.move(InstanceState.EXITED, self._story())

    async def _follow(self, endpoint: Endpoint) -> None:
        """Follow the connection of the instance, and declare it dead if that is how it looks."""
        limits = self._limits
        deadline = self._begun + limits.timeouts.startup_seconds
        omission = f"did not log in within {limits.timeouts.startup_seconds:g} s (startup_seconds)"
        while channel := await _next_channel(endpoint, deadline):
            self._connected(channel)
            await channel.peer_leaving.wait()
            if self.state is InstanceState.READY and not channel.closed.is_set():
                self._lifecycle.move(InstanceState.DRAINING, "it takes no more calls")
            await channel.closed.wait()
            self.channel = None
            if self.state is not InstanceState.READY:
                await self._see_off()
                return
            if channel.fell_silent:
                self.kill(f"it gave {channel.closed_by}")
                return
            self._lifecycle.move(InstanceState.UNHEALTHY, str(channel.closed_by))
            deadline = trio.current_time() + limits.wire.reconnect_seconds
            omission = "lost its connection and did not reconnect within "
            omission += f"{limits.wire.reconnect_seconds:g} s (reconnect_seconds)"
        if not self._stopping.locked():
            self.kill(f"it {omission}")

    async def _see_off(self) -> None:
        """It has left of its own will: let it end."""
        if not self._stopping.locked():
            with trio.move_on_after(self._limits.timeouts.terminate_seconds):
                await self.wait_exited()
            self.kill("it left its host and did not end")

    def _connected(self, channel: CommunicationChannel) -> None:
        self.channel = channel
        channel.excuse_silence(self._is_busy)
        if self.state in (InstanceState.STARTING, InstanceState.UNHEALTHY):
            self._was_ready = True
            self._lifecycle.move(InstanceState.READY)

    def _is_busy(self) -> bool:
        """Whether it has used the processor since this was last asked, or waits for it now."""
        metrics = None if self._body is None else self._body.metrics()
        if metrics is None:
            return False
        before, self._cpu_seconds = self._cpu_seconds, metrics.cpu_seconds
        return metrics.is_runnable or metrics.cpu_seconds - before > BUSY_SECONDS

    # -- the end ------------------------------------------------------------------------------

    async def _put_down(self, body: InstanceBody) -> None:
        """See that it does not run any more, even if we are cancelled."""
        try:
            self.kill("its owner has left it")
        finally:  # Ctrl-C may have interrupted an observer of the state
            try:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_SECONDS):
                    if self.state not in GONE:
                        await body.wait_exited()
                        self._exited()
            finally:
                if self.state not in GONE:
                    if not body.has_ended:
                        logger.error("%r does not end, though it was killed", self)
                    self._exited()

    def _delete(self, failure: BaseException | None) -> None:
        """Nothing of it is left."""
        try:
            if self.state is InstanceState.CREATED:
                reason = str(failure or "it was not wanted any more")
                self._lifecycle.move(InstanceState.FAILED, reason)
        finally:  # as above
            self._lifecycle.move(InstanceState.DELETED)


async def _next_channel(endpoint: Endpoint, deadline: float) -> CommunicationChannel | None:
    with trio.move_on_at(deadline):
        return await endpoint.wait_connected()
    return None


@contextmanager
def _catch(caught: list[BaseException]) -> Iterator[None]:
    """Keep an exception from the blocks around, which end under a cancelled scope.

    The nursery would put the exception into a group, and a checkpoint there would replace it by
    ``trio.Cancelled``. A cancellation goes on if it comes alone.
    """
    try:
        yield
    except (trio.Cancelled, GeneratorExit):
        raise
    except BaseExceptionGroup as group:
        _, others = group.split(trio.Cancelled)
        if others is None:
            raise
        caught.append(others)
    except BaseException as error:
        caught.append(error)


def _most_urgent(caught: list[BaseException]) -> BaseException | None:
    """Return the first of the exceptions, or None. A KeyboardInterrupt goes before others."""
    interrupts = [each for each in caught if isinstance(each, KeyboardInterrupt)]
    return next(iter(interrupts or caught), None)


@protected_block
async def host_instance(
    spec: InstanceSpec, factory: CommunicationFactory, config: ChannelConfig, launch: Launch
) -> AsyncIterator[Instance]:
    """The whole life of an instance; see :meth:`InstanceTemplate.open_instance`."""
    instance = Instance._create(spec, factory.manager.limits, factory.manager.instruments)
    caught: list[BaseException] = []
    try:
        async with open_private_nursery() as nursery:
            with _catch(caught):
                async with factory.open_endpoint(
                    spec.instance_id, service=spec.service, config=config
                ) as endpoint:
                    with _catch(caught):
                        async with launch(endpoint, instance._log_book) as body:
                            try:
                                with _catch(caught):
                                    instance._launched(body)
                                    nursery.start_soon(instance._watch_exit, body)
                                    nursery.start_soon(body.watch)
                                    nursery.start_soon(instance._follow, endpoint)
                                    yield instance
                                    await instance.stop()
                            finally:
                                nursery.cancel_scope.cancel()
                                await run_to_its_end(instance._put_down, body)
    finally:
        failure = _most_urgent(caught)
        caught.clear()
        instance._delete(failure)
        if failure is not None:
            try:
                raise failure  # in place of a Cancelled, whose scope ends the block anyway
            finally:
                del failure  # it refers to this frame
    # The nursery, which we cancelled ourselves, took a cancellation from outside for its own.
    await trio.lowlevel.checkpoint_if_cancelled()
