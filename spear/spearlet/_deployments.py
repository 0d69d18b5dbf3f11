"""A deployed program: its functions and its replicas.

A deployment connects a pool that gives calls to replicas (``_pool``), a supervisor that keeps replicas
alive (``_supervisor``) and an autoscaler that decides how many there should be (``_autoscaler``).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, Self, cast, final

import attrs
import trio

from spear._errors import NotFound, SpearError, WorkerDied
from spear._failures import first_line
from spear._limits import expect_seconds, expect_whole
from spear._signatures import DESCRIBE
from spear._util import NoPublicConstructor
from spear.calls import Function, FunctionDescription, make_policy
from spear.channels import notify_all, protected_class, protected_exit
from spear.telemetry import DeploymentEvent, InstanceState

from ._autoscaler import Autoscaler, ScalingDecision
from ._counters import OutcomeCounters
from ._deployment_status import DeploymentHealth, DeploymentState, DeploymentStatistics, health_of
from ._held_template import HeldTemplate
from ._log_feed import FollowedLines, InstanceLine, LogFeed
from ._pool import ReplicaPool
from ._replica_calls import ReplicaCalls
from ._settings import DeploymentSettings, Scale, as_scale
from ._supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from random import Random
    from types import TracebackType

    from spear._host_limits import HostLimits
    from spear._retry_policy import RetryPolicy
    from spear.channels import CommunicationChannel
    from spear.telemetry import DeploymentEventKind, InstanceEvent

    from ._autoscaler import Load
    from ._programs import Program, Programs, Target
    from ._registry import DeploymentRegistry
    from ._replica_failures import ReplicaFailure
    from ._replicas import Replica

logger: Final = logging.getLogger("spear.spearlet")

_REQUESTED: Final = "scale() was called"


@protected_class
class DeployedProgram(metaclass=NoPublicConstructor):
    """A program that runs in replicas: a :class:`Deployment` without attributes for its functions.

    The typed clients that ``spear stubs`` writes are derived from this class. The end of an ``async with
    deployment`` block stops the deployment. If the block is left by an exception, or cancelled, the
    replicas are killed at once.

    Attributes:
        name: its name, from which its instances' names are made.
        settings: its settings.
        target: the name of the program that it runs, for people.
        functions: the names of its functions. If an attribute listed here has the same name, use
            :meth:`function`.
        streams: the names of the functions that send items.
        retry_policies: the retry policies that functions themselves have, by name.
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
        self.retry_policies: Mapping[str, RetryPolicy] = {}
        self._program = program
        self._template: HeldTemplate | None = None  # of the program, once it runs
        self._templates: list[HeldTemplate] = []  # also earlier ones, whose replicas are draining
        self._nursery: trio.Nursery  # of templates and replicas, once it runs
        self._changing = trio.Lock()  # held while the template is changed
        self._registry = registry
        self._programs = programs
        self._limits = limits
        self._rng = rng
        self._by_name: dict[str, Function] = {}
        self._pool = ReplicaPool(name, settings, limits.wire.call_seconds, rng)
        self._pool.on_demand = self._follow_demand
        first = max(settings.replicas.min, 1)
        self._autoscaler = Autoscaler(settings.replicas, first, trio.current_time())
        self._feed = LogFeed(name, limits.deployment_log_bytes, registry.followers)
        self._supervisor: Supervisor | None = None  # once it runs
        self._scope = trio.CancelScope()  # around all of its tasks
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._stop_seconds = 0.0

    def __repr__(self) -> str:
        return f"<Deployment {self.name}: {len(self.replicas)} replicas ready>"

    # -- functions ----------------------------------------------------------------------------

    def function(self, name: str) -> Function:
        """Return a function by its name. In any thread, as ``spear.blocking`` does.

        Raises:
            NotFound: the deployment has no such function; the message suggests one.
        """
        known = self._by_name.get(name)
        if known is not None:
            return known
        if name not in self.functions:
            hint = self._program.hint_about(name, self.functions)
            raise NotFound(f"{self.name} has no function {name!r}{hint}")
        calls = self._calls_of(name, is_stream=name in self.streams)
        function = self._by_name[name] = cast("Function", Function._create(calls))
        return function

    async def descriptions(self) -> dict[str, FunctionDescription]:
        """Return descriptions of its functions by name, as an instance gives them. A checkpoint.

        Functions without a description are left out; all are left out if the agent is not Spear's.

        Raises:
            CallFailed: as :meth:`Function.call`.
        """
        return await self._calls_of(DESCRIBE, is_stream=False).describe()

    def _calls_of(self, name: str, *, is_stream: bool) -> ReplicaCalls:
        return ReplicaCalls(name, self.name, self._pool, self._registry, is_stream=is_stream)

    # -- how many, and which ------------------------------------------------------------------

    async def scale(self, replicas: int | Scale) -> None:
        """Change the number of replicas; returns when all wanted replicas take calls.

        Surplus replicas drain: their running calls may finish. If cancelled, scaling goes on by itself.

        Args:
            replicas: a fixed number, or a range in which the number follows the load.

        Raises:
            ConfigurationError: the number is not possible.
            SpawnFailed: a new replica did not start. It is tried again, like a replica that has ended.
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
        self._autoscaler.change(trio.current_time(), scale, _REQUESTED)
        supervisor.want(self._autoscaler.wanted)
        self._tell("scaled", _REQUESTED)
        await supervisor.wait_settled()

    async def restart(
        self,
        target: Target | None = None,
        settings: DeploymentSettings | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """Replace every replica, one after the other: no call fails, and no call has to wait.

        Each new replica takes calls before the old one drains. The old one has the default timeout of
        calls to finish the calls that it runs; a call with a later deadline may be cut short. At the
        ``max_instances`` of the runtime, the old replica ends first, and calls may have to wait. If
        cancelled, replicas that were replaced so far stay replaced.

        Args:
            target: the program to run from now on, as for :meth:`Spearlet.deploy`; by default the present
                one, as it is on disk now.
            settings: the settings from now on; by default the present ones.
            debug: send tracebacks with errors; goes with ``target``.

        Raises:
            ConfigurationError: the target cannot be used.
            SpawnFailed: a new replica did not start. The other old ones go on with the old program.
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
            # Replicas that were replaced before keep the new template, so both templates stay.
            if not supervisor.uses(template.open_replica):
                template.retire()
            raise
        for each in self._templates:
            if each is not template:
                each.retire()
        self._program, self.target = program, program.title
        self._tell("restarted")
        if settings.replicas == before.replicas:  # scale() may have been called meanwhile
            settings = attrs.evolve(settings, replicas=self.settings.replicas)
        if settings != self.settings:
            self.settings = settings
            self._pool.configure(settings, policy)
            self._autoscaler.change(trio.current_time(), settings.replicas, "the settings changed")
            supervisor.want(self._autoscaler.wanted)
            await supervisor.wait_settled()

    async def stop(self, seconds: float | None = None) -> None:
        """Stop all replicas; running and queued calls may finish for a while. A checkpoint.

        No new call is accepted. If cancelled, stopping goes on by itself.

        Args:
            seconds: time for these calls; by default ``drain_seconds`` of its timeouts.

        Raises:
            ConfigurationError: ``seconds`` is no number of seconds; nothing is stopped.
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

    async def __aenter__(self) -> Self:
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
            raise SpearError(f"{self.name} is stopping or has stopped")
        return self._supervisor

    def _follow_demand(self) -> None:
        """Update the wanted number of replicas, because a call has to wait."""
        self._follow_load(self._pool.load(is_full=True))

    def _follow_load(self, load: Load) -> None:
        """Update the wanted number of replicas for a load."""
        if self._supervisor is None or self._stopping.is_set():
            return
        if self._autoscaler.look(trio.current_time(), load):
            decision = self._autoscaler.decisions[-1]
            logger.info(
                "%s: scaling from %d to %d replicas: %s",
                self.name, decision.before, decision.after, decision.reason,
            )  # fmt: skip
            self._supervisor.want(decision.after)
            self._tell("scaled", decision.reason)

    def _tell(self, kind: DeploymentEventKind, reason: str = "") -> None:
        if hooks := self._registry.instruments.deployment_changed:
            event = DeploymentEvent(self.name, kind, self._autoscaler.wanted, reason)
            notify_all(logger, hooks, event)

    # -- its life, for its spearlet ----------------------------------------------------------

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the replicas, report when all are ready, and keep them until the deployment is stopped.

        If cancelled, the replicas are killed.

        Raises:
            SpearError: a replica did not become ready; the others have been killed.
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
            stopped = "the deployment was stopped"
            self._pool.give_up(WorkerDied(stopped, code="stopped", delivered="no"))
            self._feed.followers.end()
            self._stopped.set()
            self._tell("stopped")
        if failures:
            raise failures[0]

    async def _start(self) -> Supervisor:
        """Start the replicas; returns when all take calls. Raises SpearError if one does not start."""
        program, settings = self._program, self.settings
        template = await self._open_template(program, settings)
        supervisor = self._supervisor = Supervisor(
            self.name, template.open_replica, settings, self._limits.wire.call_seconds, self._pool,
            self._nursery, self._rng,
        )  # fmt: skip
        supervisor.on_ready = self._on_ready
        supervisor.on_given_up = partial(self._tell, "given_up")
        supervisor.want(self._autoscaler.wanted)
        await supervisor.wait_settled()
        return supervisor

    def _look_at_load(self) -> None:
        """Update the wanted number of replicas for the present load, unless the number is fixed."""
        if not self.settings.replicas.is_fixed:
            self._follow_load(self._pool.load())

    # -- templates, and events of replicas ----------------------------------------------------

    async def _open_template(self, program: Program, settings: DeploymentSettings) -> HeldTemplate:
        """Open a template that starts replicas of a program, and make it the current template."""
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
            # The runtime has a bug. Running replicas go on as far as they can without the template.
            logger.error("%s: %s", self.name, first_line(failure))
            template.failure = failure

    def _on_instance_event(self, event: InstanceEvent) -> None:
        if event.state not in (InstanceState.READY, InstanceState.STOPPING):
            return
        for replica in self._supervisor.instances if self._supervisor is not None else ():
            if replica.id == event.instance_id:
                if event.state is InstanceState.READY:
                    self._pool.look_again(replica)  # it may have a new connection
                else:
                    self._pool.remove(replica)  # it was killed, and may take long to end

    def _on_ready(self, channel: CommunicationChannel) -> None:
        self.retry_policies = self._pool.retry_policies = channel.retry_policies
        functions, streams = tuple(channel.functions), channel.streams
        if functions != self.functions or streams != self.streams:
            self.functions, self.streams = functions, streams
            self._by_name.clear()
            self._registry.has_changed()

    # -- state and statistics -----------------------------------------------------------------

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas that take calls now.

        Each is a :class:`spear.runtimes.Instance`, which has more methods.
        """
        return self._pool.ready

    @property
    def instances(self) -> tuple[Replica, ...]:
        """All replicas that exist now, starting and draining ones included."""
        return self._supervisor.instances if self._supervisor is not None else ()

    @property
    def decisions(self) -> tuple[ScalingDecision, ...]:
        """The last 64 changes of the wanted number of replicas, oldest first."""
        return self._autoscaler.decisions

    @property
    def failures(self) -> tuple[ReplicaFailure, ...]:
        """The last 16 failures of replicas, oldest first: ends that were not asked for, failed starts."""
        return tuple(self._supervisor.failures) if self._supervisor is not None else ()

    def health(self) -> DeploymentHealth:
        """Return the present health."""
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
        """Return the counters."""
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
            start_latency=(supervisor.starts if supervisor else OutcomeCounters()).histogram(),
            functions=pool.function_statistics(),
        )

    def logs(self, most: int | None = None) -> tuple[InstanceLine, ...]:
        """Return the last lines that its instances wrote, ended instances included, oldest first.

        Args:
            most: number of lines; by default all that are kept (``HostLimits.deployment_log_bytes``).

        Raises:
            ConfigurationError: ``most`` is no number of lines.
        """
        if most is not None:
            expect_whole("most", most, 0)
        return self._feed.last(most)

    def follow_logs(self) -> AbstractAsyncContextManager[FollowedLines]:
        """Open an async iterator over the lines that its instances write while the block runs.

        The iterator ends when the deployment has been stopped.
        """
        return self._feed.followers.follow()


@final
@protected_class
class Deployment(DeployedProgram):
    """A program whose functions are its attributes. Made by :meth:`Spearlet.deploy`."""

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.function(name)
        except NotFound as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.functions]
