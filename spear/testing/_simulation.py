"""A whole spearlet with its instances in one Trio run, which a seed repeats step by step.

The program under test gets a :class:`Simulation`, with which it deploys agents, calls their functions
and injects faults. Time is virtual. The order of tasks, the network's delays, the policies' choices and
the restart delays are drawn from the seed. All other parts are the production code: pool, supervisor,
instance, login, channel, wire, agent.

Threads, processes, sockets and the real clock are excluded, because a seed cannot repeat them. Keys and
nonces stay random, because nothing depends on their values. The trace has no keys, nonces or payloads.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

import attrs
import trio
import trio.testing

from spear._errors import ConfigurationError
from spear._host_limits import DEFAULT_HOST_LIMITS, HostLimits
from spear._limits import expect_seconds
from spear._util import NoPublicConstructor
from spear.channels import machine_clock, open_private_nursery
from spear.spearlet import open_spearlet
from spear.telemetry import CallRecord

from ._simulated_network import Network, SimulatedTransport, check_loss
from ._simulated_runtime import START_SECONDS, SimulatedRuntime, SimulatedSettings, here
from ._trio_scheduling import seeded_scheduling

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.agent import Agent
    from spear.spearlet import Deployment, DeploymentSettings, Scale, Spearlet

    from ._simulated_runtime import SimulatedBody

KEPT_EVENTS: Final = 10_000
"""Number of the last events that a report keeps; the digest covers all events."""

SHOWN_EVENTS: Final = 30
"""Number of the last events in the note of a failure."""

FAULTS: Final = ("delay", "drop", "cut", "partition", "freeze", "crash")

ENDS: Final = {"delay": "restore", "drop": "restore", "partition": "heal", "freeze": "thaw"}
"""Lasting faults, and the names of the methods that end them."""


class SimulatedEvent(NamedTuple):
    """An event of a simulation.

    Attributes:
        seconds: seconds since the start, in virtual time.
        kind: an instance state, ``connect``, ``disconnect``, ``deliver``, ``call``, ``note``, a fault, or
            the end of one (``restore``, ``heal``, ``thaw``).
        subject: the instance or function, as text.
        detail: further text, or "".
    """

    seconds: float
    kind: str
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.seconds:10.6f} {self.kind} {self.subject} {self.detail}".rstrip()


@final
@attrs.frozen(kw_only=True)
class SimulationReport:
    """The result of a simulation.

    Attributes:
        seed: the seed of the run.
        digest: hash of all events. Runs with equal seeds have equal digests, also in other processes.
        events: the last 10,000 events.
        notes: the notes of the program and its instances: (instance or "", values).
        seconds: virtual time of the last event.
    """

    seed: int
    digest: str
    events: tuple[SimulatedEvent, ...]
    notes: tuple[tuple[str, tuple[object, ...]], ...]
    seconds: float


@final
class Simulation(metaclass=NoPublicConstructor):
    """A host, its instances and its network, driven by one seed. Made by :func:`simulate`.

    Attributes:
        seed: the seed of all random choices.
        rng: a random number generator for the program, the function that is passed to :func:`simulate`.
        spearlet: the host, open until the program returns.
        notes: what the program and the instances have recorded with :meth:`note`, as pairs of the
            instance's name ("" for the program) and the values.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = self.generator("program")
        self.spearlet: Spearlet
        self.notes: list[tuple[str, tuple[object, ...]]] = []
        self._runtime: SimulatedRuntime
        self._events: deque[SimulatedEvent] = deque(maxlen=KEPT_EVENTS)
        self._hash = hashlib.sha256()
        self._seconds = 0.0

    def generator(self, purpose: str) -> Random:
        """Return a new random generator for one purpose.

        Generators of one purpose give the same numbers. Draws from one do not affect the others.
        """
        # A str, because Random seeds itself from its text, which does not depend on PYTHONHASHSEED.
        return Random(f"{purpose} {self.seed}")  # noqa: S311  # reproduces, protects nothing

    async def deploy(
        self,
        make_agent: Callable[[], Agent],
        *,
        name: str,
        replicas: int | Scale | None = None,
        settings: DeploymentSettings | None = None,
        start_seconds: tuple[float, float] = START_SECONDS,
        debug: bool = False,
    ) -> Deployment:
        """Deploy agents, and return when all replicas take calls. See :meth:`Spearlet.deploy`.

        Args:
            make_agent: makes the agent of one instance; called anew for each incarnation. Plain functions
                run in Trio's thread. An instance with functions that cannot run there (asyncio functions,
                and plain ones with ``yield``) fails to start.
            name: name of the deployment and its instances.
            replicas: number of replicas, or the range within which the number follows the load.
            settings: all other settings of the deployment.
            start_seconds: least and most seconds that a start takes.
            debug: whether errors are sent with tracebacks.
        """
        target = SimulatedSettings(make_agent=make_agent, start_seconds=start_seconds, debug=debug)
        return await self.spearlet.deploy(target, name=name, replicas=replicas, settings=settings)

    # -- the trace ----------------------------------------------------------------------------

    def note(self, *values: object) -> None:
        """Record an effect in the trace and in :attr:`notes`.

        Agents note their effects on the outside world, such as a payment. Notes of a crashed instance are
        ignored, although its tasks unwind and their ``finally`` blocks run.

        Args:
            values: the effect. The reprs must not contain memory addresses, which no seed repeats.
        """
        site = here.get()
        if site is None:
            self.notes.append(("", values))
            self._record("note", "", values)
        elif not site.is_closed:
            self.notes.append((str(site.instance), values))
            self._record("note", site.instance, values)

    def _record(self, kind: str, subject: object, detail: object) -> None:
        event = SimulatedEvent(trio.current_time(), kind, str(subject), str(detail))
        self._events.append(event)
        self._hash.update(f"{event.seconds!r} {kind} {event.subject} {event.detail}\n".encode())
        self._seconds = event.seconds

    def _on_call(self, record: CallRecord) -> None:
        outcome = "returned" if record.failure is None else type(record.failure).__name__
        self._record("call", f"{record.deployment}.{record.function}", outcome)

    # -- faults -------------------------------------------------------------------------------

    @property
    def instances(self) -> tuple[InstanceId, ...]:
        """Ids of the instances whose simulated processes run, in the order of their starts."""
        return tuple(each for each, body in self._runtime.bodies.items() if not body.has_ended)

    def _body(self, instance: InstanceId, fault: str) -> SimulatedBody:
        body = self._runtime.bodies.get(instance)
        if body is None or body.has_ended:
            raise ConfigurationError(f"{instance} is not running: use one of simulation.instances")
        self._record(fault, instance, "")
        return body

    def delay(self, instance: InstanceId, seconds: float = 0.1) -> None:
        """Delay each chunk between host and instance by ``seconds``, until :meth:`restore`.

        Raises:
            ConfigurationError: the instance does not run, as in all methods for faults; or ``seconds`` is
                not a valid number of seconds.
        """
        expect_seconds("seconds", seconds)
        self._body(instance, "delay").site.delay_seconds = seconds

    def drop(self, instance: InstanceId, probability: float = 0.3) -> None:
        """Lose each chunk between host and instance with this probability, until :meth:`restore`.

        A lost chunk is sent again after 0.2 s, as by TCP, and the chunks after it wait.
        """
        check_loss("probability", probability)
        self._body(instance, "drop").site.loss = probability

    def restore(self, instance: InstanceId) -> None:
        """End the effects of :meth:`delay` and :meth:`drop`."""
        self._body(instance, "restore").site.restore()

    def cut(self, instance: InstanceId) -> None:
        """Break the instance's connections. Bytes in flight are lost; the instance may reconnect."""
        self._body(instance, "cut").site.cut()

    def partition(self, instance: InstanceId) -> None:
        """Hold back all bytes between host and instance until :meth:`heal`."""
        self._body(instance, "partition").site.partition(True)

    def heal(self, instance: InstanceId) -> None:
        """End a partition. Bytes that were held back arrive."""
        self._body(instance, "heal").site.partition(False)

    def freeze(self, instance: InstanceId) -> None:
        """Stop the instance at its edge until :meth:`thaw`, as SIGSTOP stops a process.

        A frozen instance receives and sends nothing, and obeys a request to exit only after the thaw. The
        instance's code keeps running: its notes are recorded at once, other effects after the thaw.
        """
        self._body(instance, "freeze").freeze(True)

    def thaw(self, instance: InstanceId) -> None:
        """Let a frozen instance continue."""
        self._body(instance, "thaw").freeze(False)

    def crash(self, instance: InstanceId) -> None:
        """Kill the instance, as SIGKILL kills a process.

        The instance's connections end before its tasks unwind, so effects of ``finally`` blocks do not
        reach the host. Notes that the instance makes after the crash are ignored.
        """
        self._body(instance, "crash").kill_now()

    async def disturb(
        self,
        *,
        faults: tuple[str, ...] = FAULTS,
        pause_seconds: tuple[float, float] = (0.05, 0.5),
        fault_seconds: tuple[float, float] = (0.01, 6.0),
    ) -> None:
        """Inject random faults into random instances until cancelled. Cancelling ends all faults.

        Args:
            faults: names of methods of this class, from which each fault is drawn: "delay", "drop",
                "cut", "partition", "freeze" and "crash".
            pause_seconds: least and most seconds between the starts of two faults.
            fault_seconds: least and most seconds of a fault other than "cut" and "crash". The host's
                wire limits decide what a fault leads to: an instance that is silent for longer than its
                heartbeats allow is killed. If faults of one instance overlap, all of them may end when
                the first one does.

        Raises:
            ConfigurationError: ``faults`` is empty or has an unknown name.
        """
        if not faults or not set(faults) <= set(FAULTS):
            known = ", ".join(FAULTS)
            raise ConfigurationError(f"faults must be one or more of {known}, not {faults!r}")
        rng = self.generator("faults")
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(rng.uniform(*pause_seconds))
                fault, seconds = rng.choice(faults), rng.uniform(*fault_seconds)
                if instances := self.instances:
                    nursery.start_soon(self._disturb, rng.choice(instances), fault, seconds)

    async def _disturb(self, instance: InstanceId, fault: str, seconds: float) -> None:
        if instance not in self.instances:  # the instance has ended since it was drawn
            return
        getattr(self, fault)(instance)
        if fault in ENDS:
            try:
                await trio.sleep(seconds)
            finally:
                if instance in self.instances:
                    getattr(self, ENDS[fault])(instance)

    # -- running ------------------------------------------------------------------------------

    async def _run(
        self,
        program: Callable[[Simulation], Awaitable[object]],
        limits: HostLimits,
        latency_seconds: tuple[float, float],
        loss: float,
    ) -> None:
        async with open_private_nursery() as nursery:
            network = Network(
                self.generator("network"), nursery, self._record, latency_seconds, loss
            )

            self._runtime = SimulatedRuntime(network=network, seed=self.seed)
            async with open_spearlet(
                limits=limits,
                on_call=self._on_call,
                rng=self.generator("host"),
                runtimes=[self._runtime],
                transports=(SimulatedTransport(network),),
            ) as self.spearlet:
                await program(self)

    def _report(self) -> SimulationReport:
        return SimulationReport(
            seed=self.seed,
            digest=self._hash.hexdigest(),
            events=tuple(self._events),
            notes=tuple(self.notes),
            seconds=self._seconds,
        )

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Add a note with the seed, the digest and the last events to an exception of the block."""
        try:
            yield
        except BaseException as error:
            last = "\n".join(f"  {each}" for each in list(self._events)[-SHOWN_EVENTS:])
            error.add_note(
                f"simulated with seed {self.seed}, digest {self._hash.hexdigest()[:16]}; to replay: "
                f"simulate(..., seed={self.seed}). The last events:\n{last}"
            )
            raise


SimulatedProgram: TypeAlias = Callable[[Simulation], Awaitable[object]]
"""The program that a simulation runs."""


def simulate(
    program: SimulatedProgram,
    seed: int,
    *,
    limits: HostLimits = DEFAULT_HOST_LIMITS,
    latency_seconds: tuple[float, float] = (0.0, 0.002),
    loss: float = 0.0,
    seconds: float = 3600.0,
) -> SimulationReport:
    """Run ``await program(simulation)`` with a spearlet and its instances in one Trio run.

    Runs with equal seeds have the same order of events. An exception of the program is raised unchanged,
    with a note that has the seed and the last events. Do not call this inside of Trio, nor in two threads
    at a time.

    Args:
        program: the program under test. The spearlet is closed when the program returns.
        seed: the seed of all random choices.
        limits: limits of the host and its instances.
        latency_seconds: least and most seconds that bytes are in flight. A connection carries one chunk
            at a time in each direction, so a higher latency also lowers the throughput.
        loss: probability that a chunk has to be sent again, 0.2 s later. Each of up to four further
            losses doubles the pause, so losses delay a chunk by at most 6.2 s.
        seconds: seconds of virtual time after which the run fails.

    Raises:
        ConfigurationError: an argument is out of range, or this release of Trio cannot be seeded.
        trio.TooSlowError: the program did not return within ``seconds``.
        BaseException: ``program`` raised it.
    """
    simulation: Simulation = Simulation._create(seed)

    async def main() -> None:
        machine_clock.set(trio.current_time)
        with trio.fail_after(seconds):
            await simulation._run(program, limits, latency_seconds, loss)

    clock = trio.testing.MockClock(autojump_threshold=0)
    with seeded_scheduling(simulation.generator("schedule")), simulation._explaining():
        trio.run(main, clock=clock)
    return simulation._report()
