"""The host: deploys programs and calls their functions."""

from __future__ import annotations

import enum
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, cast, final

import attrs
import trio

from spear._errors import ConfigurationError, SpearError
from spear._host_limits import DEFAULT_HOST_LIMITS, HostLimits
from spear._limits import expect_seconds, expect_whole
from spear._targets import GUARD, NEEDS_GUARD, being_loaded
from spear._util import NoPublicConstructor
from spear.channels import (
    CommunicationFactory,
    open_communication_factory,
    open_private_nursery,
    protected_block,
    protected_class,
    read_strategies,
)
from spear.runtimes import RuntimeRegistry
from spear.telemetry import Instruments

from ._callbacks import Callbacks
from ._deployment_status import DeploymentStatistics
from ._deployments import Deployment
from ._observers import CallObserver, EventObserver, OnCall
from ._programs import Programs, Target, check_name
from ._registry import DeploymentRegistry
from ._settings import DeploymentSettings, Scale
from ._typed import D

if TYPE_CHECKING:
    from spear.calls import Function
    from spear.channels import CommunicationStrategy
    from spear.runtimes import Runtime
    from spear.telemetry import InstanceEvent, Instrument
    from spear.transports import Transport

    from ._execution_table import Executions
    from ._log_feed import FollowedLines, InstanceLine

LOOK_SECONDS: Final = 1.0
"""Seconds between checks of the load, which end surplus replicas. Each call that has to wait triggers a
check of its own, which starts missing replicas at once."""


class SpearletState(enum.Enum):
    """The state of a spearlet."""

    RUNNING = "running"
    DRAINING = "draining"  # no new calls are taken; running and queued calls may finish
    STOPPED = "stopped"


@final
@attrs.frozen(kw_only=True)
class SpearletStatistics:
    """The counters of a spearlet.

    Attributes:
        deployments: the statistics of each deployment, by name.
        executions: submitted calls that have not ended.
        argument_bytes: bytes of their encoded arguments, and of those of executions with keys.
        refused_connections: number of refused connections, by reason.
    """

    deployments: dict[str, DeploymentStatistics]
    executions: int
    argument_bytes: int
    refused_connections: dict[str, int]


@final
@protected_class
class Spearlet(metaclass=NoPublicConstructor):
    """A host of functions. Made by :func:`open_spearlet`.

    Attributes:
        limits: the limits of the host.
        instruments: the instruments that are notified of events in the host; more can be added.
    """

    def __init__(
        self,
        limits: HostLimits,
        factory: CommunicationFactory,
        nursery: trio.Nursery,
        rng: random.Random,
        runtimes: RuntimeRegistry,
    ) -> None:
        self.limits = limits
        self.instruments = factory.manager.instruments
        self._state = SpearletState.RUNNING
        self._factory = factory
        self._nursery = nursery  # of deployments and executions; ends with open_spearlet's block
        self._registry = DeploymentRegistry(limits, nursery, self.instruments)
        self._rng = rng
        callbacks = Callbacks(self._registry.find_function)
        self._programs = Programs(runtimes, callbacks, factory)
        self._names: set[str] = set()  # names of all deployments, starting ones included
        self._is_looking = False

    # -- deploying ----------------------------------------------------------------------------

    async def deploy(
        self,
        target: Target,
        *,
        name: str | None = None,
        replicas: int | Scale | None = None,
        settings: DeploymentSettings | None = None,
        debug: bool = False,
        on_event: Callable[[InstanceEvent], None] | None = None,
    ) -> D:
        """Start replicas of a program; returns a :class:`Deployment` when all of them take calls.

        To type checkers, the deployment has the type of the variable to which it is assigned, if that is
        a typed client, which ``spear stubs`` writes: ``shop: Shop = await spearlet.deploy("shop.py")``.

        If cancelled, the started replicas are killed. The deployment ends with the spearlet, with its own
        ``async with`` block, or with :meth:`Deployment.stop`.

        Args:
            target: a Python file; a module's dotted name, looked up on the import path of this process;
                settings of a runtime, or another object that a runtime takes; or an Agent, which then
                runs inside this process. A file or module with several agents needs the name of one, as
                in ``shop.py:app``.
            name: the name of the deployment and of its instances; by default taken from the target.
            replicas: the number of replicas, or a range in which it follows the load; replaces that of
                ``settings``. One replica is started even if the range begins at 0.
            settings: all other settings of the deployment.
            debug: send tracebacks with errors.
            on_event: receives each new state of an instance, in order. Must not block; its exceptions
                are logged.

        Raises:
            ConfigurationError: the target, the name or a setting cannot be used.
            SpawnFailed: a replica did not become ready; the message holds the last lines that it wrote.
        """
        _expect_a_program()
        settings = DeploymentSettings() if settings is None else settings
        if not isinstance(settings, DeploymentSettings):
            raise ConfigurationError(
                f"settings must be spear.DeploymentSettings(...), not {settings!r}"
            )
        if replicas is not None:
            settings = attrs.evolve(settings, replicas=replicas)
        program = self._programs.resolve(target, debug=debug)
        program.check_replicas(settings.replicas.max)
        name = program.name if name is None else name
        check_name(name)
        if name in self._names:
            raise ConfigurationError(f"a deployment {name!r} already exists: choose another name")
        self._expect_running()
        deployment: Deployment = Deployment._create(
            name, program, settings, self._registry, self._programs, self.limits, self._rng
        )
        observer = None if on_event is None else EventObserver(name, on_event)
        self._names.add(name)
        await self._nursery.start(self._run, deployment, observer)
        if not self._is_looking:
            self._is_looking = True
            self._nursery.start_soon(self._look)
        return cast("D", deployment)

    async def _run(
        self,
        deployment: Deployment,
        observer: EventObserver | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        deployments = self._registry.deployments
        if observer is not None:
            self.instruments.add(observer)
        try:
            # Listed from the beginning, so that its start can be observed.
            deployments[deployment.name] = deployment
            await deployment._run(task_status=task_status)
        finally:
            del deployments[deployment.name]
            self._names.discard(deployment.name)
            if observer is not None:
                self.instruments.remove(observer)
            self._registry.has_changed()

    async def _look(self) -> None:
        """Update the wanted number of replicas of all deployments at intervals, so that idle ones end."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            for deployment in list(self._registry.deployments.values()):
                deployment._look_at_load()

    @property
    def deployments(self) -> dict[str, Deployment]:
        """The deployments by name."""
        return dict(self._registry.deployments)

    def find_function(self, name: str) -> Function:
        """Return a function by its name, or by ``deployment.name`` if several deployments have it.

        Raises:
            NotFound: no function has this name, or several have it.
        """
        return self._registry.find_function(name)

    @property
    def executions(self) -> Executions:
        """The submitted calls: unfinished ones, and ones that have ended recently."""
        return self._registry.executions

    # -- logs ---------------------------------------------------------------------------------

    def logs(self, most: int | None = None) -> tuple[InstanceLine, ...]:
        """Return the last lines that instances of all deployments wrote, in the order of their times.

        Args:
            most: number of lines; by default all that the deployments keep.

        Raises:
            ConfigurationError: ``most`` is no number of lines.
        """
        if most is not None:
            expect_whole("most", most, 0)
        deployments = self._registry.deployments.values()
        lines = [line for each in deployments for line in each.logs(most)]
        lines.sort(key=lambda entry: entry.line.time)
        return tuple(lines if most is None else lines[max(len(lines) - most, 0) :])

    def follow_logs(self) -> AbstractAsyncContextManager[FollowedLines]:
        """Open an async iterator over the lines that instances of all deployments write.

        Deployments that are started while the block runs are included. The iterator ends with the
        spearlet.
        """
        return self._registry.followers.follow()

    # -- the end ------------------------------------------------------------------------------

    @property
    def state(self) -> SpearletState:
        """The state of the spearlet."""
        return self._state

    def _expect_running(self) -> None:
        if self._state is not SpearletState.RUNNING:
            raise SpearError(f"this spearlet is {self._state.value}")

    async def drain(self, seconds: float | None = None) -> None:
        """Take no new calls, let running and queued calls finish, and stop all deployments. A checkpoint.

        If cancelled, no new deployments are accepted all the same; see also :meth:`stop`.

        Args:
            seconds: time for the calls; by default ``HostLimits.shutdown_seconds``.

        Raises:
            ConfigurationError: ``seconds`` is no number of seconds; nothing is stopped.
        """
        seconds = self.limits.shutdown_seconds if seconds is None else seconds
        expect_seconds("seconds", seconds)
        if self._state is SpearletState.RUNNING:
            self._state = SpearletState.DRAINING
        await self.stop(seconds)

    async def stop(self, seconds: float | None = None) -> None:
        """Stop all deployments; running and queued calls may finish for a while. A checkpoint.

        If cancelled while it waits for the deployments, they go on stopping.

        Args:
            seconds: time for the calls; by default each deployment's ``drain_seconds``.

        Raises:
            ConfigurationError: ``seconds`` is no number of seconds; nothing is stopped.
        """
        if seconds is not None:
            expect_seconds("seconds", seconds)
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            for deployment in self._registry.deployments.values():
                nursery.start_soon(deployment.stop, seconds)

    def statistics(self) -> SpearletStatistics:
        """Return the counters."""
        manager = self._factory.manager.statistics()
        deployments, executions = self._registry.deployments, self._registry.executions
        return SpearletStatistics(
            deployments={name: each.statistics() for name, each in deployments.items()},
            executions=executions.unfinished,
            argument_bytes=executions.argument_bytes + self._registry.outcomes.argument_bytes,
            refused_connections=dict(manager.acceptor.refused),
        )

    def _end(self) -> None:
        self._state = SpearletState.STOPPED
        self._registry.end()


def _expect_a_program() -> None:
    """Raise ConfigurationError in an instance that loads its functions, and outside of Trio."""
    if program := being_loaded():
        # The instance would start a host with further instances, which would do the same.
        raise ConfigurationError(
            f"{program} opens or uses a spearlet while its functions are being loaded: {GUARD}",
            code=NEEDS_GUARD,
        )
    if not trio.lowlevel.in_trio_run():
        raise ConfigurationError(
            "a spearlet needs Trio: start the program with trio.run(main), not asyncio.run(main())"
        )


def _check_limits(limits: HostLimits) -> None:
    """Raise ConfigurationError for another class, which would only be noticed during a call."""
    if not isinstance(limits, HostLimits):
        raise ConfigurationError(f"limits must be spear.HostLimits(...), not {limits!r}")


def _generator(rng: random.Random | None) -> random.Random:
    """Return the random generator of the host; a new one by default."""
    if rng is None:
        return random.Random()  # noqa: S311  # spreads load, protects nothing
    if not isinstance(rng, random.Random):
        raise ConfigurationError.about("rng", f"must be a random.Random, not {rng!r:.100}")
    return rng


@protected_block
async def open_spearlet(
    *,
    limits: HostLimits = DEFAULT_HOST_LIMITS,
    on_call: OnCall | None = None,
    rng: random.Random | None = None,
    runtimes: Iterable[Runtime] = (),
    transports: Iterable[Transport] = (),
    strategies: Mapping[str, CommunicationStrategy] | None = None,
    instruments: Iterable[Instrument] = (),
) -> AsyncIterator[Spearlet]:
    """Open a spearlet for as long as the block runs.

    Leaving the block stops its deployments: running calls may finish for
    ``limits.timeouts.drain_seconds``. Leaving the block by an exception, or cancelled, kills all replicas
    at once. In both cases no replica is left. Exceptions of the block are not wrapped in a group.

    Args:
        limits: the limits of the host.
        on_call: receives the record of each call that has ended. Must not block; its exceptions are
            logged.
        rng: the random generator for restart delays, and for policies that choose at random.
        runtimes: more runtimes, which take precedence over Spear's and installed ones of the same name.
        transports: more transports, likewise; also Spear's own with other settings, such as
            ``TcpTransport(tls=...)``.
        strategies: the transports for a runtime's instances, best first, by the runtime's name.
        instruments: objects that are notified of events in the host; see :class:`spear.Instrument`.
            ``on_call`` is a short form of an instrument.

    Raises:
        ConfigurationError: an instance calls this while it loads its functions, the event loop is not
            Trio's, two runtimes or transports have the same name, a strategy is for an unknown runtime,
            or an argument does not have its declared type.
    """
    _expect_a_program()
    _check_limits(limits)
    registry = RuntimeRegistry(runtimes)
    watching = Instruments(instruments)
    if on_call is not None:
        watching.add(CallObserver(on_call))
    for name in read_strategies(strategies):
        registry.find(name)
    rng = _generator(rng)
    async with open_private_nursery() as nursery:
        factory = open_communication_factory(
            limits,
            transports=transports,
            strategies=strategies,
            instruments=watching,
        )
        spearlet: Spearlet = await nursery.start(_hold, factory, rng, registry)
        try:
            yield spearlet
            await spearlet.stop()
        finally:
            spearlet._end()


@trio.lowlevel.enable_ki_protection
async def _hold(
    opening: AbstractAsyncContextManager[CommunicationFactory],
    rng: random.Random,
    runtimes: RuntimeRegistry,
    task_status: trio.TaskStatus[Spearlet],
) -> None:
    """Keep a spearlet in a task of its own.

    A spearlet has nested nurseries. Around the user's block, each of them would cost each call 0.25 us,
    because the deadline of a call is looked up in all surrounding cancel scopes.
    """
    async with opening as factory, open_private_nursery() as nursery:
        limits = factory.manager.limits
        task_status.started(Spearlet._create(limits, factory, nursery, rng, runtimes))
        await trio.sleep_forever()
