"""A deployed program: its functions, and how many replicas of it there are.

It brings together who takes calls (``_pool``), who keeps replicas alive (``_supervisor``) and who decides
how many there are to be (``_autoscaler``); each of them knows nothing of the other two.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import NotFound, SpearError, WorkerDied
from spear._failures import first_line
from spear._limits import expect_seconds, expect_whole
from spear._signatures import DESCRIBE
from spear._util import NoPublicConstructor, did_you_mean
from spear.calls import make_policy
from spear.channels import notify_all, protected_class, protected_exit
from spear.telemetry import DeploymentEvent, InstanceState

from ._answers import FunctionDescription
from ._autoscaler import Autoscaler, ScalingDecision
from ._deployment_status import (
    DeploymentHealth,
    DeploymentState,
    DeploymentStatistics,
    health_of,
)
from ._functions import Function, describe_functions
from ._held_template import HeldTemplate
from ._log_feed import FollowedLines, InstanceLine, LogFeed
from ._pool import ReplicaPool
from ._settings import DeploymentSettings, Scale, as_scale
from ._supervisor import Supervisor

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from random import Random
    from types import TracebackType

    from spear._host_limits import HostLimits
    from spear.channels import CommunicationChannel
    from spear.telemetry import DeploymentEventKind, InstanceEvent

    from ._autoscaler import Load
    from ._programs import Program, Programs, Target
    from ._registry import DeploymentRegistry
    from ._replicas import Replica

logger: Final = logging.getLogger("spear.spearlet")


@final
@protected_class
class Deployment(metaclass=NoPublicConstructor):
    """A program, running in some replicas. Its functions are its attributes.

    Made by :meth:`Spearlet.deploy`. A block of ``async with deployment`` stops it at its end; left by
    an exception, or cancelled, it kills it at once.

    Attributes:
        name: names its instances, too.
        settings: how it is kept.
        target: what it runs, for people.
        functions: the names of its functions. One that has the name of an attribute listed here is
            reached by :meth:`function`.
        streams: the names of those among them that send items.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        settings: DeploymentSettings,
        registry: DeploymentRegistry,
        programs: Programs,
        limits: HostLimits,
        rng: Random,
    ) -> None:
        self.name = name
        self.settings = settings
        self.target = program.title
        self.functions: tuple[str, ...] = ()
        self.streams: frozenset[str] = frozenset()
        self._program = program
        self._template: HeldTemplate | None = None  # of that program; while it runs
        self._templates: list[
            HeldTemplate
        ] = []  # that one, and those whose replicas are about to go
        self._nursery: trio.Nursery  # of them, while it runs
        self._changing = trio.Lock()  # what runs
        self._registry = registry
        self._programs = programs
        self._limits = limits
        self._rng = rng
        self._by_name: dict[str, Function] = {}
        self._pool = ReplicaPool(name, settings, limits.wire.call_seconds, rng)
        self._pool.on_demand = self._follow_demand
        first = max(settings.replicas.min, 1)
        self._autoscaler = Autoscaler(settings.replicas, first, trio.current_time())
        self._feed = LogFeed(limits.deployment_log_bytes)
        self._supervisor: Supervisor | None = None  # while it runs
        self._scope = trio.CancelScope()  # of all that runs for it
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._stop_seconds = 0.0

    def __repr__(self) -> str:
        return f"<Deployment {self.name}: {len(self.replicas)} replicas ready>"

    # -- functions ----------------------------------------------------------------------------

    def function(self, name: str) -> Function:
        """One of its functions.

        Raises:
            NotFound: it has none of that name; the message suggests one.
        """
        known = self._by_name.get(name)
        if known is not None:
            return known
        if name not in self.functions:
            functions = ", ".join(self.functions) or "none at all"
            hint = did_you_mean(name, self.functions) or f"; it has {functions}"
            raise NotFound(f"{self.name} has no function {name!r}{hint}")
        function: Function = Function._create(
            name, self.name, self._pool, self._registry, is_stream=name in self.streams
        )
        self._by_name[name] = function
        return function

    async def descriptions(self) -> dict[str, FunctionDescription]:
        """What its functions look like, by name, as an instance tells. A checkpoint.

        A function of which nothing is known is left out; all are, if their agent is not Spear's.

        Raises:
            CallFailed: as :meth:`Function.call`.
        """
        describe: Function = Function._create(
            DESCRIBE, self.name, self._pool, self._registry, is_stream=False
        )
        return await describe_functions(describe)

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.function(name)
        except NotFound as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.functions]

    # -- how many, and which ------------------------------------------------------------------

    async def scale(self, replicas: int | Scale) -> None:
        """Have another number of replicas; returns when all that are wanted now take calls.

        Those that are too many leave: what runs there may finish. If cancelled, it goes on by itself.

        Args:
            replicas: a fixed number, or between which numbers it is to follow the load.

        Raises:
            ConfigurationError: no such number is possible.
            SpawnFailed: a new one did not start. It is tried again, as if it had ended.
        """
        scale = as_scale(replicas)
        self._program.check_replicas(scale.max)
        supervisor = self._running()
        if not self.settings.replicas.is_several and scale.is_several:
            async with self._changing:
                supervisor = self._running()
                settings = attrs.evolve(self.settings, replicas=scale)
                template = await self._open_template(self._program, settings)
                supervisor.open_replica = template.open_replica
        self.settings = attrs.evolve(self.settings, replicas=scale)
        self._autoscaler.change(trio.current_time(), scale, "it was asked for")
        supervisor.want(self._autoscaler.wanted)
        self._tell("scaled", "it was asked for")
        await supervisor.wait_settled()

    async def restart(
        self,
        target: Target | None = None,
        settings: DeploymentSettings | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """Replace every replica, one after the other: no call fails, and none has to wait.

        Each new one takes calls before the one that it replaces leaves, which may finish what it runs:
        for as long as calls have that name no deadline. One with a later deadline may be cut short.
        At the ``max_instances`` of the runtime, the old one leaves first, and calls may have to wait.
        If cancelled, those that were replaced remain so.

        Args:
            target: run this from now on, as for :meth:`Spearlet.deploy`; by default, what it runs, as it
                is on disk now.
            settings: keep it so from now on.
            debug: send tracebacks with errors; goes with ``target``.

        Raises:
            ConfigurationError: the target cannot be used.
            SpawnFailed: a new one did not start. The old ones go on, and so does the old program.
        """
        self._running()
        program = self._program
        if target is not None:
            program = self._programs.resolve(target, debug=debug)
        program.check_replicas((settings or self.settings).replicas.max)
        async with self._changing:
            await self._replace_all(program, settings)

    async def _replace_all(self, program: Program, settings: DeploymentSettings | None) -> None:
        supervisor, before, current = self._running(), self.settings, self._template
        settings = before if settings is None else settings
        policy = make_policy(settings.policy, self._rng)
        template = await self._open_template(program, settings)
        try:
            await supervisor.replace_all(template.open_replica, settings)
        except BaseException:
            self._template = current
            # If some were replaced before, they go on with the new one, and both stay.
            if not supervisor.uses(template.open_replica):
                template.retire()
            raise
        for each in self._templates:
            if each is not template:
                each.retire()
        self._program, self.target = program, program.title
        self._tell("restarted")
        if settings.replicas == before.replicas:  # it may have been scaled, meanwhile
            settings = attrs.evolve(settings, replicas=self.settings.replicas)
        if settings != self.settings:
            self.settings = settings
            self._pool.configure(settings, policy)
            self._autoscaler.change(trio.current_time(), settings.replicas, "it was configured so")
            supervisor.want(self._autoscaler.wanted)
            await supervisor.wait_settled()

    async def stop(self, seconds: float | None = None) -> None:
        """Stop all replicas: what runs may finish for a while. A checkpoint.

        No new call is taken. If cancelled, they are being stopped all the same, but nobody waits for it.

        Args:
            seconds: for what runs; by default ``drain_seconds`` of its timeouts.

        Raises:
            ConfigurationError: that is no number of seconds; nothing is stopped.
        """
        if seconds is not None:
            expect_seconds("seconds", seconds)
        if not self._stopping.is_set():
            self._tell("stopping")
            timeouts = self.settings.timeouts or self._limits.timeouts
            self._stop_seconds = timeouts.drain_seconds if seconds is None else seconds
        self._pool.close()
        self._stopping.set()
        await self._stopped.wait()

    async def __aenter__(self) -> Deployment:
        return self

    @protected_exit
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._scope.cancel()
        await self.stop()

    def _running(self) -> Supervisor:
        if self._supervisor is None or self._stopping.is_set():
            raise SpearError(f"{self.name} is being stopped, or has been")
        return self._supervisor

    def _follow_demand(self) -> None:
        """Look whether there is another number of replicas to be, because a call has to wait."""
        self._follow_load(self._pool.load(is_full=True))

    def _follow_load(self, load: Load) -> None:
        """Look whether there is another number of replicas to be."""
        if self._supervisor is None or self._stopping.is_set():
            return
        if self._autoscaler.look(trio.current_time(), load):
            decision = self._autoscaler.decisions[-1]
            logger.info(
                "%s: %d replicas instead of %d: %s",
                self.name, decision.after, decision.before, decision.reason,
            )  # fmt: skip
            self._supervisor.want(decision.after)
            self._tell("scaled", decision.reason)

    def _tell(self, kind: DeploymentEventKind, reason: str = "") -> None:
        if hooks := self._registry.instruments.deployment_changed:
            event = DeploymentEvent(self.name, kind, self._autoscaler.wanted, reason)
            notify_all(logger, hooks, event)

    def _on_given_up(self, reason: str) -> None:
        self._tell("given_up", reason)

    # -- its life, for its spearlet ----------------------------------------------------------

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the replicas, say so when all are ready, and keep them until they are to be stopped.

        If cancelled, they are killed.

        Raises:
            SpearError: one of them did not become ready; the others have been killed.
        """
        failures: list[SpearError] = []
        self._tell("starting")
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    try:
                        supervisor = await self._start()
                    except SpearError as failure:
                        failures.append(failure)
                        self._tell("failed", first_line(failure))
                        nursery.cancel_scope.cancel()
                    else:
                        self._tell("ready")
                        task_status.started()
                        await self._stopping.wait()
                        deadline = trio.current_time() + self._stop_seconds
                        with trio.move_on_at(deadline):
                            await self._pool.wait_served()
                        await supervisor.stop(max(deadline - trio.current_time(), 0.0))
                        for template in self._templates:
                            template.retire()
        finally:
            self._pool.close()
            self._pool.give_up(_stopped())
            self._feed.end()
            self._stopped.set()
            self._tell("stopped")
        if failures:
            raise failures[0]

    async def _start(self) -> Supervisor:
        """Start the replicas; returns when all take calls. Raises SpearError if one does not."""
        program, settings = self._program, self.settings
        template = await self._open_template(program, settings)
        supervisor = self._supervisor = Supervisor(
            self.name,
            template.open_replica,
            settings,
            self._limits.wire.call_seconds,
            self._pool,
            self._nursery,
            self._rng,
        )
        supervisor.on_ready = self._on_ready
        supervisor.want(self._autoscaler.wanted)
        await supervisor.wait_settled()
        return supervisor

    def _look_at_load(self) -> None:
        """See whether there are too few replicas for the load, or too many."""
        if not self.settings.replicas.is_fixed:
            self._follow_load(self._pool.load())

    # -- what its replicas tell ---------------------------------------------------------------

    async def _open_template(self, program: Program, settings: DeploymentSettings) -> HeldTemplate:
        """Have replicas of a program started from now on; returns what starts them."""
        template: HeldTemplate = await self._nursery.start(self._keep_template, program, settings)
        self._template = template
        return template

    async def _keep_template(
        self,
        program: Program,
        settings: DeploymentSettings,
        *,
        task_status: trio.TaskStatus[HeldTemplate],
    ) -> None:
        template: HeldTemplate | None = None
        try:
            async with self._programs.open_template(
                program, settings, self._on_instance_event, self._feed.put
            ) as template:
                self._templates.append(template)
                try:
                    task_status.started(template)
                    await template.unused.wait()
                finally:
                    self._templates.remove(template)
        except SpearError as failure:
            if template is None:
                raise
            # Of a bug of the runtime. Replicas that run go on as far as they can without it.
            logger.error("%s: %s", self.name, first_line(failure))
            template.failure = failure

    def _on_instance_event(self, event: InstanceEvent) -> None:
        if event.state not in (InstanceState.READY, InstanceState.STOPPING):
            return
        for replica in self._supervisor.instances if self._supervisor is not None else ():
            if replica.id == event.instance_id:
                if event.state is InstanceState.READY:
                    self._pool.look_again(replica)  # it may have been away
                else:
                    self._pool.remove(replica)  # it was killed, and may take long to end

    def _on_ready(self, channel: CommunicationChannel) -> None:
        functions, streams = tuple(channel.functions), channel.streams
        if functions != self.functions or streams != self.streams:
            self.functions, self.streams = functions, streams
            self._by_name.clear()
            self._registry.has_changed()

    # -- what it is ---------------------------------------------------------------------------

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas that take calls now.

        Each is a :class:`spear.runtimes.Instance`, which can do more.
        """
        return self._pool.ready

    @property
    def instances(self) -> tuple[Replica, ...]:
        """All replicas that exist now, those that are starting or leaving among them."""
        return self._supervisor.instances if self._supervisor is not None else ()

    @property
    def decisions(self) -> tuple[ScalingDecision, ...]:
        """The last 64 changes of the number of replicas that are wanted, oldest first."""
        return self._autoscaler.decisions

    def health(self) -> DeploymentHealth:
        """How it is now."""
        supervisor = self._supervisor
        if self._stopped.is_set():
            return DeploymentHealth(state=DeploymentState.STOPPED)
        if self._stopping.is_set():
            return DeploymentHealth(state=DeploymentState.STOPPING)
        if supervisor is None:
            return DeploymentHealth(state=DeploymentState.STARTING)
        failure = self._template.failure if self._template is not None else None
        return health_of(supervisor, len(self.replicas), failure)

    def statistics(self) -> DeploymentStatistics:
        """The counters."""
        pool, supervisor = self._pool, self._supervisor
        channels = [each.channel for each in self.instances if each.channel is not None]
        return DeploymentStatistics(
            ready=len(self.replicas),
            wanted=self._autoscaler.wanted if supervisor is not None else 0,
            started=supervisor.started if supervisor is not None else 0,
            lost=supervisor.lost if supervisor is not None else 0,
            restarts=supervisor.restarts if supervisor is not None else 0,
            calls_in_flight=sum(each.calls_in_flight for each in channels) - pool.questions,
            waiting=pool.load().waiting,
            refused=pool.refused,
            spawned_because=self._template.obstacle if self._template is not None else "",
            functions=pool.function_statistics(),
        )

    def logs(self, most: int | None = None) -> tuple[InstanceLine, ...]:
        """What its instances wrote last, those that are gone among them, oldest line first.

        Args:
            most: so many lines; by default all that are kept, ``HostLimits.deployment_log_bytes``.

        Raises:
            ConfigurationError: that is no number of lines.
        """
        if most is not None:
            expect_whole("most", most, 0)
        return self._feed.last(most)

    def follow_logs(self) -> AbstractAsyncContextManager[FollowedLines]:
        """What its instances write from now on: an async iterator, for as long as the block runs.

        It ends when the deployment has been stopped.
        """
        return self._feed.follow()


def _stopped() -> WorkerDied:
    return WorkerDied("it was stopped", code="stopped", delivered="no")
