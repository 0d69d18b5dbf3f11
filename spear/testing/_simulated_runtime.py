"""The runtime of a simulation: instances that are tasks, with the life of processes.

An instance has an agent of its own, made anew for each incarnation as a process loads its file anew. It
logs in, serves, drains and reconnects by the same code as in a process. What is simulated is the process:
its start takes time, it can be asked to end, and it can be killed.

A task cannot be killed as a process is: it unwinds, and its ``finally`` blocks run. So a killed instance
is closed to the network first, and counts as ended at once; its tasks unwind behind that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import partial
from random import Random
from signal import SIGKILL
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import ConfigurationError
from spear._util import summary_of
from spear.agent import Agent, serve
from spear.channels import protected_block
from spear.runtimes import (
    Instance,
    InstanceBody,
    InstanceSpec,
    InstanceState,
    LogBook,
    Runtime,
    RuntimeCapabilities,
    RuntimeSettings,
    RuntimeStatistics,
    host_instance,
)

from ._simulated_network import Network, Site

if TYPE_CHECKING:
    from spear._host_limits import HostLimits
    from spear._ids import InstanceId, RuntimeType
    from spear.channels import ChannelConfig, CommunicationFactory, Endpoint
    from spear.runtimes import InstanceEvent
    from spear.transports import Listener

START_SECONDS: Final = (0.02, 0.2)
"""Least and most time from a start to the connection; a process takes 0.1 s or so."""

here: Final[ContextVar[Site | None]] = ContextVar("spear simulated site", default=None)
"""The instance whose code runs."""


@final
@attrs.frozen(kw_only=True)
class SimulatedSettings(RuntimeSettings):
    """The target of a deployment in a simulation; :meth:`Deployment.restart` takes another version of it.

    Attributes:
        make_agent: makes the agent of one instance; called for each incarnation.
        start_seconds: least and most time that a start takes.
        debug: send tracebacks with errors.
    """

    make_agent: Callable[[], Agent]
    start_seconds: tuple[float, float] = START_SECONDS
    debug: bool = False

    def __attrs_post_init__(self) -> None:
        least, most = self.start_seconds
        if not 0 <= least <= most:
            raise ConfigurationError(
                f"start_seconds must be a least and a most time, not {self.start_seconds!r}"
            )


@final
class SimulatedRuntime(Runtime):
    """Starts instances in this process, reached through a simulated network.

    Args:
        factory: of the host.
        network: carries their connections, and runs their tasks.
        seed: what their generators derive from.

    Attributes:
        bodies: bodies of the instances that run, in the order of their starts.
    """

    def __init__(self, factory: CommunicationFactory, network: Network, seed: int) -> None:
        self._factory = factory
        self._network = network
        self._seed = seed
        self._sites: dict[InstanceId, Site] = {}
        self.bodies: dict[InstanceId, SimulatedBody] = {}
        self._started = self._failed = self._exited = 0
        factory.register_transport("memory", self._listen)

    @property
    def runtime_type(self) -> RuntimeType:
        """Agents inside this process."""
        return "memory"

    def capabilities(self) -> RuntimeCapabilities:
        """Return the abilities of simulated instances."""
        return RuntimeCapabilities(
            can_limit_memory=False,
            can_limit_cpu=False,
            can_be_signalled=False,
            can_drain=True,
            can_run_any_program=False,
            max_instances=None,
        )

    def validate(self, settings: RuntimeSettings) -> None:
        """Raise ConfigurationError for settings of another runtime."""
        _own(settings)

    @protected_block
    async def open_instance(self, spec: InstanceSpec) -> AsyncIterator[Instance]:
        """An instance that is starting; see :meth:`Runtime.open_instance`."""
        settings, instance = _own(spec.settings), spec.instance_id
        site = self._sites[instance] = Site(self._network, instance)
        recorded = attrs.evolve(spec, on_event=partial(self._record, spec.on_event))
        launch = partial(self._launch, settings, site)
        try:
            async with host_instance(recorded, self._factory, spec.channel, launch) as opened:
                yield opened
        finally:
            del self._sites[instance]

    async def _listen(self, instance: InstanceId, config: ChannelConfig, _: object) -> Listener:
        await trio.lowlevel.checkpoint()
        return self._sites[instance].listen()

    @protected_block
    async def _launch(
        self, settings: SimulatedSettings, site: Site, endpoint: Endpoint, book: LogBook
    ) -> AsyncIterator[SimulatedBody]:
        rng = Random(f"{site.instance} {self._seed}")  # noqa: S311  # reproduces, protects nothing
        body = SimulatedBody(settings, site, book, rng)
        self.bodies[site.instance] = body
        self._network.nursery.start_soon(body.run, endpoint, self._factory.manager.limits)
        try:
            yield body
        finally:
            del self.bodies[site.instance]

    def _record(
        self, on_event: Callable[[InstanceEvent], None] | None, event: InstanceEvent
    ) -> None:
        self._started += event.state is InstanceState.STARTING
        self._failed += event.state is InstanceState.FAILED
        self._exited += event.state is InstanceState.EXITED
        self._network.record(event.state.value, event.instance_id, event.reason)
        if on_event is not None:
            on_event(event)

    def statistics(self) -> RuntimeStatistics:
        """The counters."""
        return RuntimeStatistics(
            instances=len(self._sites),
            started=self._started,
            failed=self._failed,
            exited=self._exited,
        )


def _own(settings: RuntimeSettings) -> SimulatedSettings:
    if not isinstance(settings, SimulatedSettings):
        raise ConfigurationError(
            f"the simulated runtime needs SimulatedSettings, not {type(settings).__name__}"
        )
    return settings


@final
class SimulatedBody(InstanceBody):
    """The process of an instance, as far as there is one.

    Attributes:
        site: where it is in the network.
    """

    description = "simulated"

    def __init__(self, settings: SimulatedSettings, site: Site, book: LogBook, rng: Random) -> None:
        self.site = site
        self._settings = settings
        self._stderr = book.tail("stderr")
        self._rng = rng
        self._stop = trio.Event()
        self._is_asked_to_end = False
        self._exited = trio.Event()
        # Shielded: what ends a process is its own end or a signal, and the signal closes its site first.
        self._scope = trio.CancelScope(shield=True)

    async def run(self, endpoint: Endpoint, limits: HostLimits) -> None:
        """Do what the process does, from its start to its end."""
        here.set(self.site)
        settings = self._settings
        try:
            with self._scope:
                await trio.sleep(self._rng.uniform(*settings.start_seconds))
                agent = settings.make_agent()
                _expect_repeatable(agent)
                agent.service.runs_inline = True
                await serve(
                    agent,
                    endpoint.address,
                    endpoint.secret,
                    self.site.instance,
                    limits=limits.wire,
                    drain_seconds=limits.timeouts.drain_seconds,
                    debug=settings.debug,
                    stop=self._stop,
                    rng=self._rng,
                )
            self._end(0)
        except Exception as error:
            if not self.has_ended:
                self._stderr.feed(f"{summary_of(error)}\n".encode())
            self._end(1)

    def _end(self, exit_status: int) -> None:
        if not self.has_ended:
            self.site.close()
            self.exit_status, self.has_ended = exit_status, True
            self._exited.set()

    async def wait_exited(self) -> None:
        """Wait until it has ended."""
        await self._exited.wait()

    async def watch(self) -> None:
        """Return at once: a simulated process writes nothing to a pipe."""

    def terminate(self) -> None:
        """Let it drain and end; a frozen one does so when it goes on."""
        self._is_asked_to_end = True
        if not self.site.is_frozen:
            self._stop.set()

    def freeze(self, frozen: bool) -> None:
        """Stop it, or let it go on, as SIGSTOP and SIGCONT do."""
        self.site.freeze(frozen)
        if self._is_asked_to_end and not frozen:
            self._stop.set()

    def kill(self) -> None:
        """End it at once."""
        if not self.has_ended:
            self.site.crash()  # before any of its tasks unwinds
            self._end(-SIGKILL)
            self._scope.cancel()

    def metrics(self) -> None:
        """Return None: a silent instance must not count as busy."""


def _expect_repeatable(agent: Agent) -> None:
    """Raise ConfigurationError for functions that run in threads whatever happens."""
    for function in agent.service.functions:
        if not function.can_run_inline:
            raise ConfigurationError(
                f"{function.name}() needs a thread, which no seed repeats: a simulation runs "
                "`async def` functions and streams, and plain functions without `yield`"
            )
