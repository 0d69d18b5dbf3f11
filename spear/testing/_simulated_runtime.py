"""The runtime of a simulation: instances are tasks that live and end like processes.

Each incarnation of an instance gets a new agent, just as a new process loads its file anew. The agent
logs in, serves, drains and reconnects with the same code as in a process. Only the process is simulated:
its start takes time, it can be asked to end, and it can be killed.

A task cannot be killed like a process: it unwinds, and its ``finally`` blocks run. Therefore a kill first
cuts the instance off from the network and marks it as ended; its tasks unwind afterwards.
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
"""Least and most seconds from a start to the connection; a real process takes about 0.1 s."""

here: Final[ContextVar[Site | None]] = ContextVar("spear simulated site", default=None)
"""The site of the instance whose code runs in this context, or None."""


@final
@attrs.frozen(kw_only=True)
class SimulatedSettings(RuntimeSettings):
    """The target of a deployment in a simulation; :meth:`Deployment.restart` takes another version of it.

    Attributes:
        make_agent: makes the agent of one instance; called for each incarnation.
        start_seconds: least and most seconds that a start takes.
        debug: whether errors are sent with tracebacks.
    """

    make_agent: Callable[[], Agent]
    start_seconds: tuple[float, float] = START_SECONDS

    def __attrs_post_init__(self) -> None:
        least, most = self.start_seconds
        if not 0 <= least <= most:
            raise ConfigurationError(
                f"start_seconds must be (least, most) with 0 <= least <= most, not {self.start_seconds!r}"
            )


@final
@attrs.define(eq=False, kw_only=True)
class SimulatedRuntime(Runtime):
    """A runtime that starts instances in this process, behind a simulated network.

    Attributes:
        network: the network that carries the connections and runs the tasks of the instances.
        seed: the seed from which the instances' random generators derive.
        bodies: bodies of the open instances, in the order of their starts.
    """

    name: ClassVar[str] = "memory"
    settings_class: ClassVar[type[RuntimeSettings]] = SimulatedSettings
    _replaces_own: ClassVar[bool] = True

    network: Network
    seed: int
    bodies: dict[InstanceId, SimulatedBody] = attrs.field(factory=dict, init=False)

    @protected_block
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[SimulatedTemplate]:
        """Open a template of simulated instances; see :meth:`Runtime.prepare`."""
        assert isinstance(spec.settings, SimulatedSettings)  # open_template has checked the type
        await trio.lowlevel.checkpoint()
        yield SimulatedTemplate(self, spec, spec.settings)


@final
class SimulatedTemplate(InstanceTemplate):
    """A template that starts simulated instances."""

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
        """Start an instance; see :meth:`InstanceTemplate.open_instance`."""
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
    """The simulated process of an instance.

    Attributes:
        site: the instance's place in the network.
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
        # Shielded: a process ends by itself or by a signal, and kill_now() closes the site first.
        self._scope = trio.CancelScope(shield=True)

    async def run(self, endpoint: Endpoint, limits: WireLimits, timeouts: InstanceTimeouts) -> None:
        """Run the simulated process from its start to its exit."""
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
        """Wait until the simulated process has ended."""
        await self._exited.wait()

    async def watch(self) -> None:
        """Return at once: a simulated process writes nothing to a pipe."""

    async def terminate(self) -> None:
        """Ask the process to drain and exit; a frozen process does so after its thaw."""
        self._is_asked_to_end = True
        if not self.site.is_frozen:
            self._stop.set()
        await trio.lowlevel.checkpoint()

    def freeze(self, frozen: bool) -> None:
        """Stop the process, or let it continue, as SIGSTOP and SIGCONT do."""
        self.site.freeze(frozen)
        if self._is_asked_to_end and not frozen:
            self._stop.set()

    async def kill(self) -> None:
        """Kill the process; see :meth:`kill_now`."""
        self.kill_now()
        await trio.lowlevel.checkpoint()

    def kill_now(self) -> None:
        """Cut the process off from the network, mark it as killed by SIGKILL, and cancel its tasks."""
        if not self.has_ended:
            self.site.crash()  # before any of its tasks unwinds
            self._end(-SIGKILL)
            self._scope.cancel()


def _expect_repeatable(agent: Agent) -> None:
    """Raise ConfigurationError for an agent with functions that can only run in threads."""
    for function in agent.service.functions:
        if not function.can_run_inline:
            raise ConfigurationError(
                f"{function.name}() needs a thread, whose timing a seed cannot repeat: use `async def` "
                "in a simulation, or a plain function without `yield`"
            )
