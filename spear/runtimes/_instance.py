"""The life of an instance, the same for every runtime.

The block of :func:`host_instance` owns everything that belongs to one instance: its endpoint, its body,
and one nursery with the tasks that watch both. When the block ends, all of these have ended.

An instance ends in one of three ways, and the same code handles all of them: it exits by itself, it is
stopped step by step, or it is declared dead and then killed, so that a dead instance cannot come back.
``_body`` defines what a runtime has to implement; this module knows no concrete runtime.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._errors import ChannelClosed, ChannelCreationFailed, SpawnFailed, SpearError, WorkerDied
from spear._limits import expect_seconds
from spear._util import NoPublicConstructor, leaves_of, summary_of
from spear.channels import open_private_nursery, protected_block, protected_class, run_to_its_end
from spear.telemetry import InstanceEvent, InstanceState, LogLine

from ._caught import catching, most_urgent
from ._foreign import BUGS, logging_bugs, metrics_of
from ._health import InstanceHealth, describe_exit
from ._logs import LogBook
from ._states import GONE, Lifecycle

if TYPE_CHECKING:
    from spear._errors import ChannelBroken
    from spear._host_limits import HostLimits, InstanceTimeouts
    from spear._ids import InstanceId
    from spear.channels import ChannelConfig, CommunicationChannel, CommunicationFactory, Endpoint
    from spear.telemetry import Instruments

    from ._body import InstanceBody, InstanceMetrics, InstanceSpec

logger: Final = logging.getLogger("spear.runtimes")

METRICS_SECONDS: Final = 1.0
"""Seconds that a runtime has to report the resource usage of an instance."""

_STOPPED: Final = "it was stopped"


Launch: TypeAlias = (
    "Callable[[Endpoint, LogBook, InstanceTimeouts], AbstractAsyncContextManager[InstanceBody]]"
)
"""A function that starts an instance's body, such as a process; leaving the block releases the body."""


@final
@protected_class
class Instance(metaclass=NoPublicConstructor):
    """A running instance. Made by :meth:`InstanceTemplate.open_instance`, never by hand.

    Attributes:
        id: the runtime, name and incarnation of the instance.
        channel: the channel for calls to the instance; None while it is not connected. A reconnection
            may replace the channel.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        limits: HostLimits,
        timeouts: InstanceTimeouts,
        instruments: Instruments,
    ) -> None:
        self.id: InstanceId = spec.instance_id
        self.channel: CommunicationChannel | None = None
        self._limits = limits
        self._timeouts = timeouts
        self._log_book = LogBook(spec.instance_id, limits, spec.on_line, instruments)
        self._lifecycle = Lifecycle(spec.instance_id, spec.on_event, instruments)
        self._body: InstanceBody | None = None  # from STARTING on
        self._told: set[str] = set()  # methods of the runtime whose faults have been logged
        self._begun = trio.current_time()
        self._was_ready = False
        self._end_reason = ""  # why the host ended the instance, if it did
        self._stopping = trio.Lock()
        # The scope of the task that watches the body. Shielded: the body is killed before the cancel.
        self._watching = trio.CancelScope(shield=True)
        self._is_watched = False
        self._was_given_up = False  # the instance was killed, and has not ended
        self._killed = trio.Event()  # set when the runtime's kill() has returned or timed out
        self._following = trio.CancelScope()  # the scope of the task that follows the connection

    def __repr__(self) -> str:
        description = self._body.description if self._body else ""
        body = f" ({description})" if description else ""
        return f"<Instance {self.id}{body} {self.state.value}>"

    # -- description --------------------------------------------------------------------------

    @property
    def state(self) -> InstanceState:
        """The current state."""
        return self._lifecycle.state

    @property
    def history(self) -> tuple[InstanceEvent, ...]:
        """The last states of the instance including the current one, oldest first."""
        return self._lifecycle.history

    @property
    def pid(self) -> int | None:
        """The pid of the process, which leads its group and session; None if there is none here."""
        return self._body.pid if self._body else None

    @property
    def exit_status(self) -> int | None:
        """The exit status as in ``subprocess``: negative for a signal; None while running or unknown."""
        return self._body.exit_status if self._body else None

    @property
    def has_ended(self) -> bool:
        """Whether the instance has ended. False if it counts as exited but was killed without effect."""
        return self.state in GONE and not self._was_given_up

    @property
    def stderr_tail(self) -> str:
        """The last lines written to stderr, at most ``limits.wire.error_message_bytes``."""
        return self._log_book.tail("stderr").text(self._limits.wire.error_message_bytes)

    def logs(self) -> tuple[LogLine, ...]:
        """Return the last lines of stdout and stderr, at most ``limits.log_tail_bytes`` of each."""
        return self._log_book.lines()

    def health(self) -> InstanceHealth:
        """Return the current health, as far as the host knows it without asking the instance."""
        statistics = self.channel.statistics() if self.channel else None
        return InstanceHealth(
            state=self.state,
            reason=self.history[-1].reason,
            is_connected=self.channel is not None and self.channel.is_connected,
            heartbeats_missed=statistics.heartbeats_missed if statistics else 0,
            calls_in_flight=statistics.calls_in_flight if statistics else 0,
            age_seconds=trio.current_time() - self._begun,
        )

    async def metrics(self) -> InstanceMetrics | None:
        """Return the current resource usage; None if not running or not known. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._body is not None and self.state not in GONE:
            with trio.move_on_after(METRICS_SECONDS):
                return await metrics_of(self.id, self._body, self._told)
        return None

    # -- waiting ------------------------------------------------------------------------------

    async def wait_ready(self) -> CommunicationChannel:
        """Wait until the instance accepts calls, and return its channel. A checkpoint.

        Cancellation changes nothing.

        Raises:
            SpawnFailed: the instance ended before it was ready, or was not ready within
                ``startup_seconds`` plus ``exit_seconds``.
            WorkerDied: the instance has ended after it was ready.
        """
        deadline = self._begun + self._timeouts.startup_seconds + self._timeouts.exit_seconds
        with trio.move_on_at(inf if self._was_ready else deadline):
            while await self._lifecycle.wait_for(InstanceState.READY) not in GONE:
                if self.channel is not None:
                    return self.channel
        raise self._obituary()

    async def wait_exited(self) -> int | None:
        """Wait until the instance exits, or counts as exited; return its exit status. A checkpoint.

        Cancellation changes nothing.
        """
        await self._lifecycle.wait_for()
        return self.exit_status

    # -- stop and kill ------------------------------------------------------------------------

    async def stop(self, drain_seconds: float | None = None) -> int | None:
        """Drain, terminate and if necessary kill the instance; return its exit status. A checkpoint.

        The instance gets no new calls, finishes its calls in flight and should then exit by itself. If
        it does not, it is asked to exit (SIGTERM for a process), and killed ``terminate_seconds`` later.
        Cancellation stops the procedure where it is; :meth:`stop` and :meth:`kill` can be called again.

        Args:
            drain_seconds: the limit for draining; by default ``drain_seconds`` of the timeouts.

        Raises:
            ConfigurationError: ``drain_seconds`` is invalid; nothing is stopped.
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
                    self._timeouts.drain_seconds if drain_seconds is None else drain_seconds,
                )
                if channel.peer_draining.is_set() and self.state not in GONE:
                    logger.warning(
                        "%s closed its connection and did not exit; asking it to exit", self.id
                    )
            await self._terminate(channel)
        return self.exit_status

    async def _drain(self, channel: CommunicationChannel, seconds: float) -> None:
        """Let the instance finish its calls, and exit by itself if it is an agent of Spear."""
        with trio.move_on_after(seconds):
            await channel.drain(seconds)
            with trio.move_on_after(self._timeouts.close_seconds) as closing:
                await channel.peer_draining.wait()
            if not closing.cancelled_caught:
                # A drained agent of Spear exits by itself. A SIGTERM would change its exit status.
                with trio.move_on_after(self._limits.shutdown_seconds):
                    await self.wait_exited()

    async def _terminate(self, channel: CommunicationChannel | None) -> None:
        seconds = self._timeouts.terminate_seconds
        if self._begin_to_end(_STOPPED) and self._body is not None:
            with trio.move_on_after(seconds):
                with logging_bugs(self, "could not be asked to exit"):
                    await self._body.terminate()
                if channel is not None:
                    await channel.aclose("the instance is being stopped")
                await self.wait_exited()
        if self.state not in GONE:
            omission = f"did not exit within {seconds:g} s (terminate_seconds)"
            logger.warning("%s %s; killing it", self.id, omission)
            await self.kill(f"it {omission}")
            with trio.move_on_after(self._timeouts.kill_seconds):
                await self.wait_exited()

    async def kill(self, reason: str = "kill() was called") -> None:
        """Kill the instance with its process group; do nothing if it does not run. A checkpoint.

        Returns when the runtime has sent the kill, for which it has ``kill_seconds`` of the timeouts;
        then wait for the exit with :meth:`wait_exited`. An instance that has not exited ``kill_seconds``
        later counts as exited. Cancellation does not prevent the kill.

        Args:
            reason: the reason for the log, and for the errors of the calls that are lost.
        """
        await self._kill(reason)
        await trio.lowlevel.checkpoint()

    async def _kill(self, reason: str) -> None:
        body = self._body
        if body is not None and self.state not in GONE:
            logger.info("%r: killed, because %s", self, reason)
            try:
                self._begin_to_end(reason)
            finally:  # Ctrl-C may have interrupted an observer of the state
                await self._kill_body(body)

    async def _kill_body(self, body: InstanceBody) -> None:
        seconds = self._timeouts.kill_seconds
        scope = trio.CancelScope(shield=True, deadline=trio.current_time() + seconds)
        with scope, logging_bugs(self, "could not be killed"):
            await body.kill()
        if scope.cancelled_caught:
            logger.error("%r could not be killed within %g s (kill_seconds)", self, seconds)
        self._killed.set()

    def _begin_to_end(self, reason: str) -> bool:
        """Move to STOPPING, and return whether the instance is still running."""
        if self._body is None or self.state in GONE:
            return False
        self._end_reason = self._end_reason or reason
        if self.state is not InstanceState.STOPPING:
            self._lifecycle.move(InstanceState.STOPPING, reason)
        return True

    # -- reasons of the end -------------------------------------------------------------------

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> WorkerDied:
        """Return the error for a call that was lost with its channel, which says how the instance died.

        The exit status is known a moment after the channel is lost. This method waits for the exit
        status, for at most ``exit_seconds`` of the timeouts. A checkpoint.
        """
        with trio.move_on_after(self._timeouts.exit_seconds):
            await self.wait_exited()
        story = self._story() if self.state in GONE else f"is lost: {error}"
        return self._worker_died(story, error)

    def _obituary(self) -> SpearError:
        """Return the error of :meth:`wait_ready` for an instance that has ended or is too late."""
        if self._was_ready:
            return self._worker_died(self._story())
        story = self._story()
        if self.exit_status == 0 and not self._end_reason:  # the program saw no error
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
        body = self._body
        has_ended = self.state in GONE or (body is not None and body.has_ended)
        because = f", because {self._end_reason}" if self._end_reason else ""
        if body is not None and body.failure:
            return body.failure + because
        if self.exit_status is None and not has_ended:
            return f"was killed{because}, but is still running"
        return describe_exit(self.exit_status) + because

    # -- tasks of the nursery -----------------------------------------------------------------

    def _launched(self, body: InstanceBody) -> None:
        self._body = body
        self._lifecycle.move(InstanceState.STARTING, body.description)

    async def _watch(self, body: InstanceBody) -> None:
        """Watch the body until :meth:`_put_down` cancels this, so that output is read to its end."""
        try:
            with self._watching:
                async with open_private_nursery() as nursery:
                    nursery.start_soon(self._watch_exit, body)
                    await body.watch()
                    await trio.sleep_forever()
        except BUGS as error:  # a bug of the runtime must not end the host
            logger.exception("%r is no longer watched, because its runtime failed", self)
            await self._kill(f"its runtime failed: {summary_of(next(iter(leaves_of(error))))}")
            self._exited()
        finally:
            self._is_watched = False

    async def _watch_exit(self, body: InstanceBody) -> None:
        await body.wait_exited()
        self._was_given_up = False
        self._exited()

    async def _give_up_killed(self) -> None:
        """Treat a killed instance that does not exit as exited, so that it is replaced."""
        await self._killed.wait()
        with trio.move_on_after(self._timeouts.kill_seconds):
            await self.wait_exited()
        self._give_up()

    def _give_up(self) -> None:
        if self.state not in GONE:
            if self._body is not None and not self._body.has_ended:
                self._was_given_up = True
                logger.error("%r was killed, but did not exit", self)
            self._exited()

    def _exited(self) -> None:
        if self.state not in GONE:
            self.channel = None
            self._lifecycle.move(InstanceState.EXITED, self._story())

    async def _follow(self, endpoint: Endpoint) -> None:
        """Follow the instance's connection, and kill the instance if it is silent or not connected."""
        with self._following:
            try:
                await self._follow_channels(endpoint)
            except (ChannelClosed, ChannelCreationFailed) as error:
                await self.kill(f"it cannot connect: {error}")

    async def _follow_channels(self, endpoint: Endpoint) -> None:
        seconds = self._timeouts.startup_seconds
        deadline = self._begun + seconds
        omission = f"did not log in within {seconds:g} s (startup_seconds)"
        while channel := await _next_channel(endpoint, deadline):
            self._connected(channel)
            await channel.peer_draining.wait()
            if self.state is InstanceState.READY and not channel.closed.is_set():
                self._lifecycle.move(InstanceState.DRAINING, "it takes no more calls")
            await channel.closed.wait()
            self.channel = None
            if self.state is not InstanceState.READY:
                await self._see_off()
                return
            if channel.is_unresponsive:
                await self.kill(f"it sent {channel.closed_by}")
                return
            self._lifecycle.move(InstanceState.UNHEALTHY, str(channel.closed_by))
            deadline = trio.current_time() + self._limits.wire.reconnect_seconds
            omission = "lost its connection and did not reconnect within "
            omission += f"{self._limits.wire.reconnect_seconds:g} s (reconnect_seconds)"
        if not self._stopping.locked():
            await self.kill(f"it {omission}")

    async def _see_off(self) -> None:
        """Wait until an instance that closed its channel exits; kill it after ``terminate_seconds``."""
        if not self._stopping.locked():
            with trio.move_on_after(self._timeouts.terminate_seconds):
                await self.wait_exited()
            seconds = self._timeouts.terminate_seconds
            await self.kill(
                f"it closed its connection and did not exit within {seconds:g} s (terminate_seconds)"
            )

    def _connected(self, channel: CommunicationChannel) -> None:
        self.channel = channel
        channel.set_busy_check(self._is_busy)
        if self.state in (InstanceState.STARTING, InstanceState.UNHEALTHY):
            self._was_ready = True
            self._lifecycle.move(InstanceState.READY)

    def _is_busy(self) -> bool:
        # Heartbeats must continue whatever the runtime raises.
        with logging_bugs(self, "could not be asked whether it is busy"):
            return self._body is not None and self._body.is_busy()
        return False

    # -- the end ------------------------------------------------------------------------------

    async def _put_down(self, body: InstanceBody) -> None:
        """Kill the instance if it still runs, even if cancelled; then stop watching the body."""
        try:
            await self._kill("the block that started it has ended")
        finally:  # Ctrl-C may have interrupted an observer of the state
            deadline = trio.current_time() + self._timeouts.kill_seconds
            try:
                with trio.CancelScope(shield=True, deadline=deadline):
                    if self._is_watched:
                        await self._lifecycle.wait_for()
                    elif self.state not in GONE:  # the task that watched it has failed
                        await body.wait_exited()
                        self._exited()
            finally:
                self._watching.cancel()
                self._give_up()

    def _delete(self, failure: BaseException | None) -> None:
        """Move to DELETED, after everything that belongs to the instance has been released."""
        try:
            if self.state is InstanceState.CREATED:
                reason = str(failure or "its start was cancelled")
                self._lifecycle.move(InstanceState.FAILED, reason)
        finally:  # Ctrl-C may have interrupted an observer of the state
            self._lifecycle.move(InstanceState.DELETED)


async def _next_channel(endpoint: Endpoint, deadline: float) -> CommunicationChannel | None:
    with trio.move_on_at(deadline):
        return await endpoint.wait_connected()
    return None


@protected_block
async def host_instance(
    spec: InstanceSpec, factory: CommunicationFactory, config: ChannelConfig, launch: Launch
) -> AsyncIterator[Instance]:
    """Run an instance from start to end; see :meth:`InstanceTemplate.open_instance`."""
    manager = factory.manager
    timeouts = spec.timeouts or manager.limits.timeouts
    instance = Instance._create(spec, manager.limits, timeouts, manager.instruments)
    caught: list[BaseException] = []
    try:
        async with open_private_nursery() as nursery:
            with catching(caught):
                async with factory.open_endpoint(
                    spec.instance_id, service=spec.service, config=config, timeouts=timeouts
                ) as endpoint:
                    with catching(caught):
                        async with launch(endpoint, instance._log_book, timeouts) as body:
                            try:
                                with catching(caught):
                                    instance._launched(body)
                                    instance._is_watched = True
                                    nursery.start_soon(instance._watch, body)
                                    nursery.start_soon(instance._follow, endpoint)
                                    nursery.start_soon(instance._give_up_killed)
                                    yield instance
                                    await instance.stop()
                            finally:
                                # Not the nursery's scope, which also covers the exit of launch.
                                instance._following.cancel()
                                await run_to_its_end(instance._put_down, body)
    finally:
        failure = most_urgent(caught)
        caught.clear()
        instance._delete(failure)
        if failure is not None:
            try:
                raise failure  # may replace a Cancelled; the next checkpoint in its scope raises it again
            finally:
                del failure  # its traceback refers to this frame
    # The nursery cancels itself at the block's end, and so absorbs a cancellation from outside.
    await trio.lowlevel.checkpoint_if_cancelled()
