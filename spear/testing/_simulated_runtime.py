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
from typing import TYPE_CHECKING, ClassVar, Final, final

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
    InstanceTemplate,
    LogBook,
    Runtime,
    RuntimeSettings,
    TemplateSpec,
)

from ._simulated_network import Network, Site

if TYPE_CHECKING:
    from spear._host_limits import InstanceTimeouts
    from spear._ids import InstanceId
    from spear._limits import WireLimits
    from spear.channels import Endpoint
    from spear.telemetry import InstanceEvent

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

    def __attrs_post_init__(self) -> None:
        least, most = self.start_seconds
        if not 0 <= least <= most:
            raise ConfigurationError(
                f"start_seconds must be a least and a most time, not {self.start_seconds!r}"
            )


@final
@attrs.define(eq=False, kw_only=True)
class SimulatedRuntime(Runtime):
    """Starts instances in this process, reached through a simulated network.

    Attributes:
        network: carries their connections, and runs their tasks.
        seed: what their generators derive from.
        bodies: bodies of the instances that run, in the order of their starts.
    """

    name: ClassVar[str] = "memory"
    settings_class: ClassVar[type[RuntimeSettings]] = SimulatedSettings
    _replaces_own: ClassVar[bool] = True

    network: Network
    seed: int
    bodies: dict[InstanceId, SimulatedBody] = attrs.field(factory=dict, init=False)

    @protected_block
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[SimulatedTemplate]:
        """What starts simulated instances."""
        assert isinstance(spec.settings, SimulatedSettings)  # open_template has seen to it
        await trio.lowlevel.checkpoint()
        yield SimulatedTemplate(self, spec, spec.settings)


@final
class SimulatedTemplate(InstanceTemplate):
    """Starts simulated instances."""

    def __init__(
        self,
        runtime: SimulatedRuntime,
        spec: TemplateSpec,
        settings: SimulatedSettings,
    ) -> None:
        super().__init__(runtime, spec)
        self._simulated = runtime
        self._settings = settings

    @protected_block
    async def open_instance(self, spec: InstanceSpec) -> AsyncIterator[Instance]:
        """An instance that is starting; see :meth:`InstanceTemplate.open_instance`."""
        network = self._simulated.network
        recorded = attrs.evolve(spec, on_event=partial(self._record, spec.on_event))
        with network.holding(Site(network, spec.instance_id)):
            async with super().open_instance(recorded) as instance:
                yield instance

    def _record(
        self, on_event: Callable[[InstanceEvent], None] | None, event: InstanceEvent
    ) -> None:
        network = self._simulated.network
        network.record(event.state.value, event.instance_id, event.reason)
        if on_event is not None:
            on_event(event)

    @protected_block
    async def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AsyncIterator[SimulatedBody]:
        """Start a simulated process; see :meth:`InstanceTemplate.launch`."""
        runtime, instance = self._simulated, endpoint.instance_id
        site = runtime.network.sites[f"{instance.name}-{instance.incarnation}"]
        rng = Random(f"{instance} {runtime.seed}")  # noqa: S311  # reproduces, protects nothing
        body = SimulatedBody(self._settings, site, book, rng)
        runtime.bodies[instance] = body
        wire = self.spec.limits.wire
        runtime.network.nursery.start_soon(body.run, endpoint, wire, timeouts)
        try:
            yield body
        finally:
            del runtime.bodies[instance]


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

    async def run(self, endpoint: Endpoint, limits: WireLimits, timeouts: InstanceTimeouts) -> None:
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
                    limits=limits,
                    drain_seconds=timeouts.drain_seconds,
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

    async def terminate(self) -> None:
        """Let it drain and end; a frozen one does so when it goes on."""
        self._is_asked_to_end = True
        if not self.site.is_frozen:
            self._stop.set()
        await trio.lowlevel.checkpoint()

    def freeze(self, frozen: bool) -> None:
        """Stop it, or let it go on, as SIGSTOP and SIGCONT do."""
        self.site.freeze(frozen)
        if self._is_asked_to_end and not frozen:
            self._stop.set()

    async def kill(self) -> None:
        """End it at once."""
        self.kill_now()
        await trio.lowlevel.checkpoint()

    def kill_now(self) -> None:
        """End it."""
        if not self.has_ended:
            self.site.crash()  # before any of its tasks unwinds
            self._end(-SIGKILL)
            self._scope.cancel()


def _expect_repeatable(agent: Agent) -> None:
    """Raise ConfigurationError for functions that run in threads whatever happens."""
    for function in agent.service.functions:
        if not function.can_run_inline:
            raise ConfigurationError(
                f"{function.name}() needs a thread, which no seed repeats: a simulation runs "
                "`async def` functions and streams, and plain functions without `yield`"
            )
