"""The supervisor of a deployment: keeps as many replicas running as are wanted.

A *position* holds one replica at a time. The position's number is part of the replica's name, and a
successor has the same name and the next incarnation. A task for each position starts a replica, adds it
to the pool, waits for the replica's end, and starts the next one, as the restart policy allows. The
deployment decides how many positions there are.

Invariants:

* A replica leaves the pool before it is asked to end, so that a draining replica gets no new calls.
* A replacement takes calls before the old replica drains, if the runtime has capacity for both.
* A replica that cannot be kept alive does not affect other positions.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

import attrs
import trio

from spear._errors import ChannelBroken, SpearError
from spear._failures import first_line
from spear.channels import protected_class

from ._abandoned import wait_for_others, watch_abandoned
from ._counters import OutcomeCounters
from ._health import watch_health
from ._replica_failures import MAX_FAILURES, ReplicaFailure, record_failure
from ._replicas import ServingReplica
from ._restarts import RestartBudget, verdict_of

if TYPE_CHECKING:
    from random import Random

    from spear._ids import InstanceId
    from spear.channels import CommunicationChannel

    from ._pool import ReplicaPool
    from ._settings import DeploymentSettings, HealthPolicy

logger: Final = logging.getLogger("spear.spearlet")


MAX_STARTING: Final = 16
"""Replicas of a deployment that may start at the same time. They share the CPU: of a thousand replicas
starting at once, none would be ready by its deadline."""


class StartedReplica(ServingReplica, Protocol):
    """A replica that is being started, or has been."""

    async def wait_ready(self) -> CommunicationChannel:
        """Wait until the replica takes calls. Raises SpawnFailed."""

    async def stop(self, drain_seconds: float | None = None) -> object:
        """Stop the replica; its running calls may finish for ``drain_seconds``."""

    async def kill(self, reason: str = "") -> None:
        """Kill the replica at once, if possible; otherwise the end of its block does. A checkpoint."""


OpenReplica: TypeAlias = Callable[[str, int], AbstractAsyncContextManager[StartedReplica]]
"""Starts a replica with a name and an incarnation, and stops it when the block is left."""


@final
@attrs.define(eq=False, kw_only=True)
class _Position:
    """A numbered position for one replica, and for its successors."""

    number: int
    open_replica: OpenReplica
    health: HealthPolicy
    abandoned_seconds: float | None
    budget: RestartBudget
    patience: float  # seconds for running calls to finish, once the position is retired
    replica: StartedReplica | None = None
    instance: InstanceId | None = None  # of the present replica, or of the last one
    is_ready: bool = False
    was_ready: bool = False  # at any time
    settled: trio.Event = attrs.field(factory=trio.Event)  # the first start has succeeded or failed
    retired: trio.Event = attrs.field(factory=trio.Event)  # no replica is wanted here any more
    drain_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)  # around the drain
    ended: trio.Event = attrs.field(factory=trio.Event)  # the task of the position has ended
    failure: SpearError | None = None  # why the position has no replica now
    is_given_up: bool = False  # after too many restarts, until the next one succeeds


@final
@protected_class
class Supervisor:
    """A supervisor of the replicas of one deployment.

    Args:
        name: the deployment's name.
        open_replica: starts a replica.
        settings: the policies for restarts and health checks, and the default timeout of calls.
        call_seconds: the default timeout of calls if the settings have none. A replica that is replaced,
            or not needed any more, has the default timeout to finish its calls.
        pool: the pool in which ready replicas take calls.
        nursery: runs a task for each position.
        rng: spreads the delays of restarts.

    Attributes:
        started: replicas that have become ready.
        lost: replicas that ended without being asked to.
        restarts: starts that replaced a replica which was lost or had not started.
        failures: the last failures of replicas, oldest first.
        starts: counters of the starts that made a replica ready.
        open_replica: starts a replica in a new position.
        on_ready: called with the channel of each replica that has become ready, before it takes calls.
        on_given_up: called with the reason when a replica was restarted too often.
    """

    def __init__(
        self,
        name: str,
        open_replica: OpenReplica,
        settings: DeploymentSettings,
        call_seconds: float,
        pool: ReplicaPool,
        nursery: trio.Nursery,
        rng: Random,
    ) -> None:
        self.started = self.lost = self.restarts = 0
        self.failures: deque[ReplicaFailure] = deque(maxlen=MAX_FAILURES)
        self.starts = OutcomeCounters()
        self.on_ready: Callable[[CommunicationChannel], None] | None = None
        self.on_given_up: Callable[[str], None] | None = None
        self._name = name
        self.open_replica = open_replica
        self._settings = settings
        self._call_seconds = call_seconds
        self._pool = pool
        self._nursery = nursery
        self._rng = rng
        self._positions: dict[int, _Position] = {}  # positions in which a replica is wanted
        self._existing: list[
            _Position
        ] = []  # all positions that have a task, retired ones included
        self._incarnations: dict[int, int] = {}
        self._settling = (
            trio.Event()
        )  # set, and replaced, when a position settles; for wait_settled()
        self._starting = trio.Semaphore(MAX_STARTING)

    # -- what there is ------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """Number of replicas that are wanted."""
        return len(self._positions)

    @property
    def ready(self) -> int:
        """Number of wanted replicas that are ready."""
        return sum(position.is_ready for position in self._positions.values())

    @property
    def instances(self) -> tuple[StartedReplica, ...]:
        """All replicas that exist now, ordered by number; draining replicas come last."""
        positions = sorted(self._existing, key=lambda each: (each.retired.is_set(), each.number))
        return tuple(each.replica for each in positions if each.replica is not None)

    @property
    def trouble(self) -> tuple[SpearError, bool] | None:
        """The failure of a position without a replica, and whether the position was given up; or None."""
        found = [each for each in self._positions.values() if each.failure is not None]
        found.sort(key=lambda each: not each.is_given_up)
        return (found[0].failure, found[0].is_given_up) if found and found[0].failure else None

    def uses(self, open_replica: OpenReplica) -> bool:
        """Return whether a wanted replica is started by ``open_replica``."""
        return any(position.open_replica == open_replica for position in self._positions.values())

    # -- how many -----------------------------------------------------------------------------

    def want(self, number: int) -> None:
        """Set the number of wanted replicas; starts or retires positions, and does not wait for them."""
        while len(self._positions) > number:
            self._retire(min(self._positions.values(), key=_worth))
        while len(self._positions) < number:
            free = next(each for each in range(1, number + 1) if each not in self._positions)
            self._positions[free] = self._begin(free)

    async def wait_settled(self) -> None:
        """Wait until the first start in every position has succeeded. A checkpoint.

        Raises:
            SpearError: a start has failed in a position that never had a ready replica.
        """
        await trio.lowlevel.checkpoint()
        positions = list(self._positions.values())
        while True:
            for position in positions:
                if position.failure is not None and not position.was_ready:
                    raise _again(position.failure)
            if all(position.settled.is_set() for position in positions):
                return
            await self._settling.wait()

    def _begin(
        self,
        number: int,
        program: tuple[OpenReplica, DeploymentSettings] | None = None,
        *,
        after: trio.Event | None = None,
    ) -> _Position:
        """Start a new position, for the current program by default, at once or after an event."""
        open_replica, settings = program or (self.open_replica, self._settings)
        timeout = settings.timeout
        position = _Position(
            number=number,
            open_replica=open_replica,
            health=settings.health,
            abandoned_seconds=settings.abandoned_seconds,
            budget=RestartBudget(settings.restart, self._rng),
            patience=self._call_seconds if timeout is None else timeout,
        )
        self._existing.append(position)
        self._nursery.start_soon(self._keep, position, after, name=f"{self._name}-{number}")
        return position

    def _retire(self, position: _Position, seconds: float | None = None) -> None:
        """Let a position's replica drain and end, within ``seconds`` or else the position's own time."""
        if self._positions.get(position.number) is position:
            del self._positions[position.number]
        if position.replica is not None:
            self._pool.remove(position.replica)
        deadline = trio.current_time() + (position.patience if seconds is None else seconds)
        position.drain_scope.deadline = min(position.drain_scope.deadline, deadline)
        position.retired.set()

    # -- replacing ----------------------------------------------------------------------------

    async def replace_all(self, open_replica: OpenReplica, settings: DeploymentSettings) -> None:
        """Replace every replica, one after the other: each new one is ready before the old one drains.

        If the runtime has no capacity for both, the old replica ends first. One task at a time may call
        this. If cancelled, replicas that were replaced so far stay replaced.

        Raises:
            SpearError: a new replica did not become ready; the remaining old ones still serve.
        """
        await trio.lowlevel.checkpoint()
        before = self.open_replica, self._settings
        self.open_replica, self._settings = open_replica, settings
        for number in sorted(self._positions):
            old = self._positions.get(number)
            if old is None:  # the position was retired meanwhile
                continue
            try:
                await self._replace(old, before)
            except BaseException:
                self.open_replica, self._settings = before
                raise

    async def _replace(
        self, old: _Position, before: tuple[OpenReplica, DeploymentSettings]
    ) -> None:
        """Replace one replica; if the runtime has no capacity for both, the old one ends first."""
        await self._succeed(old, before)
        await old.ended.wait()

    async def _succeed(
        self, old: _Position, before: tuple[OpenReplica, DeploymentSettings]
    ) -> None:
        """Start a successor, and let it follow the old replica, which then drains."""
        number = old.number
        new = self._begin(number)
        try:
            await new.settled.wait()
            if new.failure is not None and new.failure.code == "max_instances":
                self._retire(new)
                new = self._begin(number, after=old.ended)
                self._follow(old, new)
                await new.settled.wait()
            if new.failure is not None:
                raise _again(new.failure)
        except BaseException:
            if self._positions.get(number) is new:  # the old one has ended: start its program again
                self._positions[number] = self._begin(number, before, after=new.ended)
            self._retire(new)
            raise
        self._follow(old, new)

    async def _replace_abandoned(self, old: _Position, replica: StartedReplica) -> None:
        """Replace a replica with abandoned calls, which get no time to finish, as others do."""
        if old.retired.is_set():
            return
        try:
            await self._succeed(old, (self.open_replica, self._settings))
        except SpearError as failure:
            logger.warning("%s goes on: no successor has started: %s", replica.id, failure)
        else:
            await wait_for_others(replica)
            old.drain_scope.cancel()

    def _follow(self, old: _Position, new: _Position) -> None:
        """Retire an old position in favour of a new one; retire the new one if none is wanted."""
        if self._positions.get(old.number) is old:
            self._retire(old)
            self._positions[old.number] = new
        elif self._positions.get(old.number) is not new:
            self._retire(new)

    async def stop(self, seconds: float) -> None:
        """Stop all replicas at once; running calls may finish for ``seconds``. A checkpoint.

        If cancelled while it waits for the replicas, they go on stopping.
        """
        await trio.lowlevel.checkpoint()
        positions = list(self._existing)
        for position in positions:
            self._retire(position, seconds)
        for position in positions:
            await position.ended.wait()

    # -- one position ----------------------------------------------------------------------------

    async def _keep(self, position: _Position, after: trio.Event | None) -> None:
        """Run one replica after the other in a position, until none is wanted there."""
        try:
            if after is not None:
                await after.wait()
            while not position.retired.is_set():
                begun = trio.current_time()
                failure = await self._live(position)
                if failure is None:
                    return
                now = trio.current_time()
                self.failures.append(record_failure(now, position.instance, failure))
                lived = now - begun if position.is_ready else 0.0
                position.is_ready, position.failure = False, failure
                is_first = (
                    not position.settled.is_set()
                )  # the caller of _begin() handles this failure
                self._settle(position)
                delay = self._delay(position, lived, failure, is_first)
                with trio.move_on_after(delay) if delay != inf else trio.CancelScope():
                    await position.retired.wait()
                self.restarts += not position.retired.is_set()
        finally:
            self._existing.remove(position)
            self._settle(position)
            position.ended.set()

    def _delay(
        self, position: _Position, lived: float, failure: SpearError, is_first: bool
    ) -> float:
        delay = position.budget.delay_seconds(trio.current_time(), lived)
        if delay is not None:
            again = "" if is_first else f"; restarting in {delay:.2g} s"
            said = f"{first_line(failure)} [{failure.code}]"
            logger.warning("%s-%d: %s%s", self._name, position.number, said, again)
            return delay
        policy = self._settings.restart
        delay = position.budget.give_up()
        position.is_given_up = True
        logger.error(
            "%s-%d was given up after %d restarts within %g s: %s [%s]",
            self._name, position.number, policy.intensity, policy.period_seconds, first_line(failure),
            failure.code,
        )  # fmt: skip
        if self.on_given_up is not None:
            self.on_given_up(f"{self._name}-{position.number}: {first_line(failure)}")
        if not self.ready and not self._is_one_coming():
            self._pool.give_up(verdict_of(policy, failure))
        return delay

    def _is_one_coming(self) -> bool:
        return any(not each.is_given_up for each in self._positions.values())

    async def _live(self, position: _Position) -> SpearError | None:
        """Run one incarnation; returns why it ended, or None if it was asked to end."""
        incarnation = self._incarnations[position.number] = (
            self._incarnations.get(position.number, 0) + 1
        )
        position.instance = None
        name = f"{self._name}-{position.number}"
        try:
            async with AsyncExitStack() as stack:
                async with self._starting:
                    if position.retired.is_set():
                        return None
                    begun = trio.current_time()
                    replica = await stack.enter_async_context(
                        position.open_replica(name, incarnation)
                    )
                    position.replica, position.instance = replica, replica.id
                    if not await self._start(position, replica):
                        return None
                    self.starts.ended(trio.current_time() - begun, None)
                complaint = await self._serve(position, replica)
                self._pool.remove(replica)
                if position.retired.is_set():
                    with position.drain_scope:
                        await replica.stop(inf)
                    if position.drain_scope.cancelled_caught:
                        await replica.stop(0)
                    return None
                self.lost += 1
                if complaint:
                    await replica.kill(complaint)
                loss = ChannelBroken(complaint or "the connection ended")
                return await replica.explain_loss(loss)
        except SpearError as failure:
            return failure
        finally:
            if position.replica is not None:
                self._pool.remove(position.replica)
                position.replica = None

    async def _start(self, position: _Position, replica: StartedReplica) -> bool:
        """Wait until a replica is ready, and add it to the pool; returns whether it is still wanted."""
        channels: list[CommunicationChannel] = []

        @trio.lowlevel.enable_ki_protection
        async def wait_ready() -> None:
            channels.append(await replica.wait_ready())

        await _first_of(wait_ready, position.retired.wait)
        if not channels or position.retired.is_set():
            return False
        self.started += 1
        if self.on_ready is not None:
            self.on_ready(channels[0])
        position.is_ready = position.was_ready = True
        position.failure, position.is_given_up = None, False
        self._pool.add(replica)
        self._settle(position)
        return True

    async def _serve(self, position: _Position, replica: StartedReplica) -> str:
        """Wait until a replica ends or is to end; returns the fault if its health checks failed."""
        complaints: list[str] = []

        @trio.lowlevel.enable_ki_protection
        async def watch() -> None:
            complaints.append(await watch_health(replica, position.health, self._pool))

        replace = partial(self._replace_abandoned, position, replica)
        watch_calls = partial(
            watch_abandoned, replica, position.abandoned_seconds, replace, self._nursery
        )
        await _first_of(replica.wait_exited, position.retired.wait, watch, watch_calls)
        return complaints[0] if complaints else ""

    def _settle(self, position: _Position) -> None:
        position.settled.set()
        settling, self._settling = self._settling, trio.Event()
        settling.set()


async def _first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait until one of several waits is done, and cancel the others. Raises its SpearError ungrouped."""
    failures: list[SpearError] = []

    @trio.lowlevel.enable_ki_protection
    async def run(wait: Callable[[], Awaitable[object]]) -> None:
        try:
            await wait()
        except SpearError as failure:
            failures.append(failure)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for wait in waits:
            nursery.start_soon(run, wait)
    if failures:
        raise failures.pop()


def _worth(position: _Position) -> tuple[bool, int, int]:
    """Return a sort key that puts dispensable positions first: not ready, few calls, high number."""
    channel = position.replica.channel if position.replica is not None else None
    calls = channel.calls_in_flight if channel is not None else 0
    return position.is_ready, calls, -position.number


def _again(failure: SpearError) -> SpearError:
    """Return a failure without its traceback, to be raised once more."""
    return failure.with_traceback(None)
